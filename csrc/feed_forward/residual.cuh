// out = residual + a w2^T, the sum in fp32 and rounded once.
#pragma once

#include "feed_forward/product.cuh"

namespace blip3v::feed_forward {

template <Rows kRows>
void linear_residual(LinearResidual const& call, cudaStream_t stream) {
  using namespace cutlass::epilogue::fusion;
  using Cut = Narrowing<kRows>;
  using Tree = Sm90EVT<Sm90Compute<cutlass::plus, bf16, float, kNearest>, Sm90SrcFetch<bf16>, Sm90AccFetch>;
  using P = Product<Cut, Operand::kAsStored, typename Epilogues<Cut>::template Of<bf16, Tree>>;

  auto const params = P::params(call.sizes.rows, call.sizes.width, call.sizes.hidden, call.a, call.w2,
                                typename P::Tree{}, call.residual, call.out);
  launch_product<Cut, P>(params, stream);
}

}  // namespace blip3v::feed_forward

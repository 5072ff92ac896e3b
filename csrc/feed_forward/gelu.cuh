// h = z w1^T and a = gelu(h) in one product.
#pragma once

#include "feed_forward/activation.cuh"
#include "feed_forward/product.cuh"

namespace blip3v::feed_forward {

template <Rows kRows>
void linear_gelu(LinearGelu const& call, cudaStream_t stream) {
  using namespace cutlass::epilogue::fusion;
  using Cut = Widening<kRows>;
  using StoreH = typename Epilogues<Cut>::template Second<void>::Node;
  using Tree = Sm90EVT<Sm90Compute<GeluOfStored, bf16, float, kNearest>, Sm90EVT<StoreH, Sm90AccFetch>>;
  using P = Product<Cut, Operand::kAsStored, typename Epilogues<Cut>::template Of<void, Tree>>;

  typename P::Tree const tree{{{}, {static_cast<bf16*>(call.h.data), P::row_major(call.h)}}, {}};
  auto const params = P::params(call.sizes.rows, call.sizes.hidden, call.sizes.width, call.z, call.w1, tree,
                                Matrix{}, call.a);
  launch_product<Cut, P>(params, stream);
}

}  // namespace blip3v::feed_forward

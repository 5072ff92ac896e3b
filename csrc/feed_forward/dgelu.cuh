// dh = (dout w2) * gelu'(h) in one product, and a = gelu(h), which comes with it for the price of writing it.
#pragma once

#include "feed_forward/activation.cuh"
#include "feed_forward/product.cuh"

namespace blip3v::feed_forward {

template <Rows kRows>
void linear_dgelu(LinearDgelu const& call, cudaStream_t stream) {
  using namespace cutlass::epilogue::fusion;
  using Cut = Widening<kRows>;
  using H = Sm90SrcFetch<bf16>;
  using StoreA = typename Epilogues<Cut>::template Second<bf16>::Node;
  using A = Sm90EVT<StoreA, Sm90EVT<Sm90Compute<Gelu, float, float, kNearest>, H>>;
  using Tree = Sm90EVT<Sm90Compute<TimesDgelu, bf16, float, kNearest>, Sm90AccFetch, H, A>;
  using P = Product<Cut, Operand::kTransposed, typename Epilogues<Cut>::template Of<bf16, Tree>>;

  typename P::Tree const tree{
      {}, {}, {{{}, {}}, {static_cast<bf16*>(call.a.data), P::row_major(call.a)}}, {}};
  auto const params = P::params(call.sizes.rows, call.sizes.hidden, call.sizes.width, call.dout, call.w2,
                                tree, call.h, call.dh);
  launch_product<Cut, P>(params, stream);
}

}  // namespace blip3v::feed_forward

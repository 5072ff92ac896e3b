// Shared-memory layouts and TMA copies that forward and backward share.
#pragma once

#include <cutlass/arch/barrier.h>
#include <cutlass/arch/reg_reconfig.h>

#include <algorithm>
#include <cute/tensor.hpp>
#include <type_traits>

#include "resampler_attention/params.h"
#include "resampler_attention/tiles.h"

namespace blip3v::resampler_attention {

using bf16 = cutlass::bfloat16_t;

static_assert(kRows == kTile, "one TMA box, 64 rows, serves queries, keys, values, outputs and gradients");

template <int kHeadDim>
struct Tiles {
  static constexpr int kDim = padded(kHeadDim);
  static constexpr int kElements = kTile * kDim;
  static constexpr std::uint32_t kBytes = kElements * sizeof(bf16);

  // The widest swizzle whose rows divide the channels: 128 B = 64, 64 B = 32, 32 B = 16 elements. Narrow rows
  // make TMA requests of 64 B (96 channels) or 32 B (80, 144), which costs it throughput; not measured yet.
  using Atom = std::conditional_t<kDim % 64 == 0, cute::GMMA::Layout_K_SW128_Atom<bf16>,
                                  std::conditional_t<kDim % 32 == 0, cute::GMMA::Layout_K_SW64_Atom<bf16>,
                                                     cute::GMMA::Layout_K_SW32_Atom<bf16>>>;

  // [64 rows, kDim, stages], channels contiguous.
  template <int kStages>
  using Stack = decltype(cute::tile_to_shape(
      Atom{}, cute::Shape<cute::Int<kTile>, cute::Int<kDim>, cute::Int<kStages>>{}));
  // The same memory seen as [kDim, 64 rows, stages]: the B operand of a product over the rows.
  template <int kStages>
  using Transposed = decltype(cute::composition(
      Stack<kStages>{}, cute::Layout<cute::Shape<cute::Int<kDim>, cute::Int<kTile>, cute::Int<kStages>>,
                                     cute::Stride<cute::Int<kTile>, cute::_1, cute::Int<kElements>>>{}));
};

// --- global memory ---------------------------------------------------------------------------------------

// A tensor [rows, head_dim, heads, frames] and the copies of its 64-row tiles.
template <int kHeadDim, class Op>
auto make_copy(Op op, View const& view, int rows, int heads, int frames) {
  using namespace cute;
  auto global = make_tensor(make_gmem_ptr(static_cast<bf16*>(view.data)),
                            make_layout(make_shape(rows, kHeadDim, heads, frames),
                                        make_stride(view.row, _1{}, view.head, view.frame)));
  auto tile = typename Tiles<kHeadDim>::template Stack<1>{}(_, _, _0{});
  return make_tma_copy(op, global, tile, cute::Shape<Int<kTile>, Int<Tiles<kHeadDim>::kDim>>{}, _1{});
}
template <int kHeadDim>
using Load = decltype(make_copy<kHeadDim>(cute::SM90_TMA_LOAD{}, View{}, 1, 1, 1));
template <int kHeadDim>
using Store = decltype(make_copy<kHeadDim>(cute::SM90_TMA_STORE{}, View{}, 1, 1, 1));

// A tensor without rows has no address that TMA would take; its copy is never used, so it borrows `other`.
template <int kHeadDim, class Op>
auto make_copy_or(Op op, View const& view, int rows, Sizes const& sizes, View const& other) {
  return make_copy<kHeadDim>(op, rows ? view : other, std::max(rows, 1), sizes.heads, sizes.frames);
}

// The tile of 64 rows from row 64 * t on of (head, frame), as TMA coordinates. Where the rows end is known to
// the descriptor; here there are more than any tensor has.
template <int kHeadDim, class Copy>
CUTE_DEVICE auto tile_of(Copy const& copy, Sizes const& sizes, int t, int head, int frame) {
  using namespace cute;
  auto all = copy.get_tma_tensor(make_shape(Int<(1 << 24) * kTile>{}, kHeadDim, sizes.heads, sizes.frames));
  return local_tile(all(_, _, head, frame), cute::Shape<Int<kTile>, Int<Tiles<kHeadDim>::kDim>>{},
                    make_coord(t, 0));
}

// global -> shared; completes on `full`. Rows and channels beyond the tensor become zeros.
template <class Copy, class Global, class Shared>
CUTE_DEVICE void load_tile(Copy const& copy, std::uint64_t& full, Global const& global, Shared&& shared) {
  using namespace cute;
  auto [from, to] =
      tma_partition(copy, _0{}, Layout<_1>{}, group_modes<0, 2>(shared), group_modes<0, 2>(global));
  cute::copy(copy.with(full), from, to);
}

// shared -> global; rows and channels beyond the tensor are not written.
template <class Copy, class Global, class Shared>
CUTE_DEVICE void store_tile(Copy const& copy, Shared&& shared, Global const& global) {
  using namespace cute;
  auto [to, from] =
      tma_partition(copy, _0{}, Layout<_1>{}, group_modes<0, 2>(shared), group_modes<0, 2>(global));
  cute::copy(copy, from, to);
}

}  // namespace blip3v::resampler_attention

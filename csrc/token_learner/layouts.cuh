// Shared-memory tiles, the TMA copies that fill and empty them, and the products over them.
#pragma once

#include <cutlass/arch/barrier.h>
#include <cutlass/arch/reg_reconfig.h>

#include <cute/tensor.hpp>

#include "common/memory.cuh"
#include "common/ring.cuh"
#include "common/wgmma.cuh"
#include "token_learner/params.h"
#include "token_learner/tiles.h"

namespace blip3v::token_learner {

using bf16 = cutlass::bfloat16_t;

// [kRows, kColumns] of bf16, columns contiguous, in the 128-byte swizzle.
template <int kTileRows, int kTileColumns>
struct Tile {
  static constexpr int kRows = kTileRows, kColumns = kTileColumns;
  static constexpr int kElements = kRows * kColumns;
  static constexpr std::uint32_t kBytes = kElements * sizeof(bf16);
  using Box = cute::Shape<cute::Int<kRows>, cute::Int<kColumns>>;

  template <int kStages>
  using Stack =
      decltype(cute::tile_to_shape(cute::GMMA::Layout_K_SW128_Atom<bf16>{},
                                   cute::Shape<cute::Int<kRows>, cute::Int<kColumns>, cute::Int<kStages>>{}));
  // The same memory seen as [kColumns, kRows, stages]: an operand of a product over the rows.
  template <int kStages>
  using Transposed = decltype(cute::composition(
      Stack<kStages>{}, cute::Layout<cute::Shape<cute::Int<kColumns>, cute::Int<kRows>, cute::Int<kStages>>,
                                     cute::Stride<cute::Int<kRows>, cute::_1, cute::Int<kElements>>>{}));
};

// bf16 [outer, rows, columns] in global memory, columns contiguous.
struct Matrices {
  void* data;
  int rows, columns, outer;
  std::int64_t row, next;  // strides
};

inline Matrices matrix(void* data, int rows, int columns) {
  return {data, rows, columns, 1, columns, std::int64_t(rows) * columns};
}
inline Matrices matrices(void* data, int rows, int columns, int outer) {
  return {data, rows, columns, outer, columns, std::int64_t(rows) * columns};
}
inline Matrices matrices(View const& view, int rows, Sizes const& sizes) {
  return {view.data, rows, sizes.channels, sizes.videos, view.row, view.video};
}

template <class T, class Op>
auto make_copy(Op op, Matrices const& m) {
  using namespace cute;
  auto global =
      make_tensor(make_gmem_ptr(static_cast<bf16*>(m.data)),
                  make_layout(make_shape(m.rows, m.columns, m.outer), make_stride(m.row, _1{}, m.next)));
  return make_tma_copy(op, global, typename T::template Stack<1>{}(_, _, _0{}), typename T::Box{}, _1{});
}
template <class T>
using Load = decltype(make_copy<T>(cute::SM90_TMA_LOAD{}, Matrices{}));
template <class T>
using Store = decltype(make_copy<T>(cute::SM90_TMA_STORE{}, Matrices{}));

template <class T>
Load<T> make_load(Matrices const& m) {
  return make_copy<T>(cute::SM90_TMA_LOAD{}, m);
}
template <class T>
Store<T> make_store(Matrices const& m) {
  return make_copy<T>(cute::SM90_TMA_STORE{}, m);
}

// Tile (row, column) of matrix `outer`, as TMA coordinates. Where the matrix ends is known to the descriptor.
template <class T, class Copy>
CUTE_DEVICE auto tile_of(Copy const& copy, int row, int column, int outer) {
  using namespace cute;
  auto all = copy.get_tma_tensor(
      make_shape(Int<(1 << 20) * T::kRows>{}, Int<(1 << 20) * T::kColumns>{}, Int<(1 << 30)>{}));
  return local_tile(all(_, _, outer), typename T::Box{}, make_coord(row, column));
}

// global -> shared; completes on `full`. What lies beyond the matrix becomes zeros.
template <class T, class Copy, class Shared>
CUTE_DEVICE void load_tile(Copy const& copy, std::uint64_t& full, int row, int column, int outer,
                           Shared&& shared) {
  using namespace cute;
  auto global = tile_of<T>(copy, row, column, outer);
  auto [from, to] =
      tma_partition(copy, _0{}, Layout<_1>{}, group_modes<0, 2>(shared), group_modes<0, 2>(global));
  cute::copy(copy.with(full), from, to);
}

// shared -> global; what lies beyond the matrix is not written.
template <class T, class Copy, class Shared>
CUTE_DEVICE void store_tile(Copy const& copy, Shared&& shared, int row, int column, int outer) {
  using namespace cute;
  auto global = tile_of<T>(copy, row, column, outer);
  auto [to, from] =
      tma_partition(copy, _0{}, Layout<_1>{}, group_modes<0, 2>(shared), group_modes<0, 2>(global));
  cute::copy(copy, from, to);
}

// 64 rows times kColumns over kDepth, from shared memory or with the rows in registers.
template <int kColumns, int kDepth, cute::GMMA::Major kMajorB>
using SharedProduct = decltype(cute::make_tiled_mma(
    cute::GMMA::ss_op_selector<bf16, bf16, float,
                               cute::Shape<cute::_64, cute::Int<kColumns>, cute::Int<kDepth>>,
                               cute::GMMA::Major::K, kMajorB>()));
template <int kColumns, int kDepth, cute::GMMA::Major kMajorB>
using RegisterProduct = decltype(cute::make_tiled_mma(
    cute::GMMA::rs_op_selector<bf16, bf16, float,
                               cute::Shape<cute::_64, cute::Int<kColumns>, cute::Int<kDepth>>,
                               cute::GMMA::Major::K, kMajorB>()));
constexpr auto kMajorK = cute::GMMA::Major::K, kMajorMN = cute::GMMA::Major::MN;

CUTE_HOST_DEVICE constexpr int divide_up(int a, int b) {
  return (a + b - 1) / b;
}

// One warpgroup, two of them: named barriers 0 and 1, and 2.
CUTE_DEVICE void sync_consumer(int who) {
  cutlass::arch::NamedBarrier::sync(128, who);
}
CUTE_DEVICE void sync_consumers() {
  cutlass::arch::NamedBarrier::sync(128 * kConsumers, kConsumers);
}

}  // namespace blip3v::token_learner

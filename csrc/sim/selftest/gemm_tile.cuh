// A 64 x 128 x 64 tile of a matrix product for every operand major, swizzle and source of A.
#pragma once

#include <cutlass/arch/barrier.h>

#include <cute/tensor.hpp>

#include "common/launch.cuh"
#include "common/memory.cuh"
#include "sim/selftest/selftest.h"

namespace blip3v::selftest {

using cute::GMMA::Major;
using Barrier = cutlass::arch::ClusterTransactionBarrier;

CUTE_DEVICE Barrier& barrier(std::uint64_t& word) {
  return reinterpret_cast<Barrier&>(word);
}

template <class T, Major kMajor, int kSwizzle>
auto atom() {
  using namespace cute;
  if constexpr (kSwizzle == 0)
    return GMMA::Layout_INTER_Atom<T, kMajor>{};
  else if constexpr (kSwizzle == 32)
    return GMMA::Layout_SW32_Atom<T, kMajor>{};
  else if constexpr (kSwizzle == 64)
    return GMMA::Layout_SW64_Atom<T, kMajor>{};
  else
    return GMMA::Layout_SW128_Atom<T, kMajor>{};
}

template <class T, Major kMajorA, Major kMajorB, int kSwizzle, bool kARegisters>
struct GemmKernel {
  using M = cute::_64;
  using N = cute::_128;
  using K = cute::_64;
  using LayoutA = decltype(cute::tile_to_shape(atom<T, kMajorA, kSwizzle>(), cute::Shape<M, K>{}));
  using LayoutB = decltype(cute::tile_to_shape(atom<T, kMajorB, kSwizzle>(), cute::Shape<N, K>{}));

  static auto instruction() {
    using namespace cute;
    if constexpr (is_same_v<T, cutlass::half_t>) {
      if constexpr (kARegisters)
        return SM90_64x128x16_F32F16F16_RS<kMajorA, kMajorB>{};
      else
        return SM90_64x128x16_F32F16F16_SS<kMajorA, kMajorB>{};
    } else {
      if constexpr (kARegisters)
        return SM90_64x128x16_F32BF16BF16_RS<kMajorA, kMajorB>{};
      else
        return SM90_64x128x16_F32BF16BF16_SS<kMajorA, kMajorB>{};
    }
  }
  using Mma = decltype(cute::make_tiled_mma(instruction()));

  struct Shared {
    alignas(1024) T a[cute::cosize_v<LayoutA>];
    alignas(1024) T b[cute::cosize_v<LayoutB>];
    std::uint64_t full;
  };

  template <Major kMajor, class Layout, class Rows>
  static auto copy_of(const void* data, int rows, int k, Layout layout, Rows) {
    using namespace cute;
    auto pointer = make_gmem_ptr(static_cast<T const*>(data));
    auto make = [&](auto stride) {
      Tensor tensor = make_tensor(pointer, make_layout(make_shape(rows, k), stride));
      return make_tma_copy(SM90_TMA_LOAD{}, tensor, layout, Shape<Rows, K>{}, _1{});
    };
    if constexpr (kMajor == Major::K)
      return make(make_stride(std::int64_t(k), _1{}));
    else
      return make(make_stride(_1{}, std::int64_t(rows)));
  }
  using CopyA = decltype(copy_of<kMajorA>(nullptr, 1, 1, LayoutA{}, M{}));
  using CopyB = decltype(copy_of<kMajorB>(nullptr, 1, 1, LayoutB{}, N{}));

  struct Params {
    CopyA a;
    CopyB b;
    float* d;
    int m, n, k;
  };

  template <class Copy, class Rows, class Tile>
  static CUTE_DEVICE void load(Copy const& copy, Params const& p, int rows, Rows, int row, int column,
                               Shared& s, Tile&& tile) {
    using namespace cute;
    Tensor global =
        local_tile(copy.get_tma_tensor(make_shape(rows, p.k)), Shape<Rows, K>{}, make_coord(row, column));
    auto [from, to] =
        tma_partition(copy, _0{}, Layout<_1>{}, group_modes<0, 2>(tile), group_modes<0, 2>(global));
    cute::copy(copy.with(s.full), from, to);
  }

  static CUTE_DEVICE void run(Params const& p) {
    using namespace cute;
    auto& s = dynamic_shared<Shared>();
    int const thread = threadIdx.x;
    if (thread == 0) {
      barrier(s.full).init(1);
      cutlass::arch::fence_barrier_init();
    }
    __syncthreads();
    Tensor sA = make_tensor(make_smem_ptr(s.a), LayoutA{});
    Tensor sB = make_tensor(make_smem_ptr(s.b), LayoutB{});
    Mma mma;
    auto slice = mma.get_thread_slice(thread);
    Tensor acc = partition_fragment_C(mma, Shape<M, N>{});
    clear(acc);
    Tensor fA = slice.partition_fragment_A(sA);  // descriptors, or registers
    Tensor fB = slice.partition_fragment_B(sB);
    std::uint32_t parity = 0;
    for (int tile = 0; tile * K{} < p.k; ++tile, parity ^= 1) {
      if (thread == 0) {
        barrier(s.full).arrive_and_expect_tx(sizeof s.a + sizeof s.b);
        load(p.a, p, p.m, M{}, blockIdx.y, tile, s, sA);
        load(p.b, p, p.n, N{}, blockIdx.x, tile, s, sB);
      }
      barrier(s.full).wait(parity);
      if constexpr (kARegisters) copy(slice.partition_A(sA), fA);
      if constexpr (kARegisters) warpgroup_fence_operand(fA);
      warpgroup_fence_operand(acc);
      warpgroup_arrive();
      gemm(mma, fA, fB, acc);
      warpgroup_commit_batch();
      warpgroup_wait<0>();
      warpgroup_fence_operand(acc);
      __syncthreads();
    }
    Tensor place = slice.partition_C(make_identity_tensor(Shape<M, N>{}));
    for (int i = 0; i < size(acc); ++i) {
      int const row = blockIdx.y * M{} + get<0>(place(i)), column = blockIdx.x * N{} + get<1>(place(i));
      if (row < p.m && column < p.n) store_global(p.d + std::int64_t(row) * p.n + column, acc(i));
    }
  }
};

template <class Kernel>
__global__ void gemm_kernel(__grid_constant__ const typename Kernel::Params params) {
  Kernel::run(params);
}

template <class T, int kSwizzle, Major kMajorA, Major kMajorB, bool kARegisters>
void run_gemm(const void* a, const void* b, float* d, int m, int n, int k) {
  using Kernel = GemmKernel<T, kMajorA, kMajorB, kSwizzle, kARegisters>;
  using M = typename Kernel::M;
  using N = typename Kernel::N;
  typename Kernel::Params const params{
      Kernel::template copy_of<kMajorA>(a, m, k, typename Kernel::LayoutA{}, M{}),
      Kernel::template copy_of<kMajorB>(b, n, k, typename Kernel::LayoutB{}, N{}),
      d,
      m,
      n,
      k};
  dim3 const grid((n + N{} - 1) / N{}, (m + M{} - 1) / M{});
  launch("gemm_tile", gemm_kernel<Kernel>, {grid, dim3(128), dim3(1), sizeof(typename Kernel::Shared)},
         nullptr, params);
}

// Registers hold A by rows only.
template <class T, int kSwizzle>
void run_gemm(const GemmTile& tile, const void* a, const void* b, float* d, int m, int n, int k) {
  constexpr Major kK = Major::K, kMN = Major::MN;
  if (tile.a_in_registers && tile.a_mn_major) fail("gemm_tile: A in registers is K-major");
  auto* run =
      tile.a_in_registers
          ? (tile.b_mn_major ? run_gemm<T, kSwizzle, kK, kMN, true> : run_gemm<T, kSwizzle, kK, kK, true>)
      : tile.a_mn_major
          ? (tile.b_mn_major ? run_gemm<T, kSwizzle, kMN, kMN, false> : run_gemm<T, kSwizzle, kMN, kK, false>)
          : (tile.b_mn_major ? run_gemm<T, kSwizzle, kK, kMN, false> : run_gemm<T, kSwizzle, kK, kK, false>);
  run(a, b, d, m, n, k);
}

}  // namespace blip3v::selftest

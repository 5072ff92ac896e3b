// Threads of a block: named barriers, shuffles, stmatrix, ldmatrix, proxy fences, and accesses with known
// bank conflicts.
#include <cutlass/arch/barrier.h>

#include <cute/arch/copy_sm90.hpp>
#include <cute/tensor.hpp>

#include "common/launch.cuh"
#include "common/memory.cuh"
#include "sim/selftest/selftest.h"

namespace blip3v::selftest {
namespace {

using cutlass::arch::NamedBarrier;

struct PingPongShared {
  float value;
};

// Warp 0 puts a number down, warp 1 adds one, warp 0 takes it: `there` and `back` are each arrived at by one
// warp and waited for by the other.
__global__ void ping_pong_kernel(const float* x, float* out, int rounds) {
  auto& s = dynamic_shared<PingPongShared>();
  NamedBarrier const there(64, 0u), back(64, 1u);
  bool const first = threadIdx.x % 32 == 0;
  for (int round = 0; round < rounds; ++round) {
    if (threadIdx.x < 32) {
      if (first) store_shared(&s.value, load_global(x + round));
      there.arrive();
      back.arrive_and_wait();
      if (first) store_global(out + round, load_shared(&s.value));
    } else {
      there.arrive_and_wait();
      if (first) store_shared(&s.value, load_shared(&s.value) + 1);
      __syncwarp();
      back.arrive();
    }
  }
}

__global__ void shuffle_kernel(const std::uint32_t* x, std::uint32_t* out) {
  unsigned const all = ~0u, lane = threadIdx.x;
  std::uint32_t const mine = load_global(x + lane);
  int row = 0;
  auto put = [&](std::uint32_t value) { store_global(out + 32 * row++ + lane, value); };
  put(__shfl_sync(all, mine, 5));
  put(__shfl_sync(all, mine, 3, 8));
  put(__shfl_xor_sync(all, mine, 9));
  put(__shfl_down_sync(all, mine, 4));
  put(__shfl_down_sync(all, mine, 3, 16));
  put(__shfl_up_sync(all, mine, 2));
  put(__ballot_sync(all, mine % 3 == 0));
  put(lane % 2 ? __shfl_sync(0xaaaaaaaau, mine, 31) : __shfl_sync(0x55555555u, mine, 0));
  put(std::uint32_t(__any_sync(all, mine == 7)) + 2 * std::uint32_t(__all_sync(all, mine > 0)));
}

struct StmatrixShared {
  alignas(128) std::uint16_t rows[32][8];
};

__global__ void stmatrix_kernel(const std::uint16_t* x, std::uint16_t* out) {
  auto& s = dynamic_shared<StmatrixShared>();
  int const lane = threadIdx.x;
  std::uint32_t part[4];
  for (int matrix = 0; matrix < 4; ++matrix) {
    part[matrix] =
        load_global(reinterpret_cast<const std::uint32_t*>(x + (8 * matrix + lane / 4) * 8 + lane % 4 * 2));
  }
  cute::SM90_U32x4_STSM_N::copy(part[0], part[1], part[2], part[3],
                                *reinterpret_cast<cute::uint128_t*>(s.rows[lane]));
  __syncwarp();
  store_global(reinterpret_cast<uint4*>(out + 8 * lane), load_shared(reinterpret_cast<uint4*>(s.rows[lane])));
}

__global__ void ldmatrix_kernel(const std::uint16_t* x, std::uint16_t* out) {
  auto& s = dynamic_shared<StmatrixShared>();
  int const lane = threadIdx.x;
  store_shared(reinterpret_cast<uint4*>(s.rows[lane]),
               load_global(reinterpret_cast<const uint4*>(x + 8 * lane)));
  __syncwarp();
  std::uint32_t part[4];
  cute::SM75_U32x4_LDSM_N::copy(*reinterpret_cast<const cute::uint128_t*>(s.rows[lane]), part[0], part[1],
                                part[2], part[3]);
  for (int matrix = 0; matrix < 4; ++matrix) {
    store_global(reinterpret_cast<std::uint32_t*>(out + (8 * matrix + lane / 4) * 8 + lane % 4 * 2),
                 part[matrix]);
  }
}

using StagedTile = cute::Layout<cute::Shape<cute::_64, cute::_32>, cute::Stride<cute::_32, cute::_1>>;

auto staged_copy(float* out) {
  using namespace cute;
  Tensor tensor = make_tensor(make_gmem_ptr(out), StagedTile{});
  return make_tma_copy(SM90_TMA_STORE{}, tensor, StagedTile{}, Shape<_64, _32>{}, _1{});
}
using StagedCopy = decltype(staged_copy(nullptr));

struct StagedShared {
  alignas(128) float tile[64 * 32];
};

// Thread t stages row t.
__global__ void staged_kernel(__grid_constant__ const StagedCopy copy, const float* x, Fence fence) {
  using namespace cute;
  auto& s = dynamic_shared<StagedShared>();
  int const row = threadIdx.x;
  for (int column = 0; column < 32; column += 4) {
    auto const* from = reinterpret_cast<const float4*>(x + row * 32 + column);
    store_shared(reinterpret_cast<float4*>(s.tile + row * 32 + column), load_global(from));
  }
  if (fence == Fence::kEveryThread || (fence == Fence::kFirstThread && row == 0)) tma_store_fence();
  __syncthreads();
  if (row == 0) {
    Tensor global =
        local_tile(copy.get_tma_tensor(make_shape(_64{}, _32{})), Shape<_64, _32>{}, make_coord(0, 0));
    Tensor tile = make_tensor(make_smem_ptr(s.tile), StagedTile{});
    auto [to, from] =
        tma_partition(copy, _0{}, Layout<_1>{}, group_modes<0, 2>(tile), group_modes<0, 2>(global));
    cute::copy(copy, from, to);
    tma_store_arrive();
    tma_store_wait<0>();
  }
}

struct StridedShared {
  alignas(16) char bytes[32 * 256];
};

template <class T>
__global__ void strided_kernel(int stride, int repeats) {
  auto& s = dynamic_shared<StridedShared>();
  for (int i = 0; i < repeats; ++i) store_shared(reinterpret_cast<T*>(s.bytes + threadIdx.x * stride), T{});
}

}  // namespace

void ping_pong(const float* x, float* out, int rounds) {
  launch("ping_pong", ping_pong_kernel, {dim3(1), dim3(64), dim3(1), sizeof(PingPongShared)}, nullptr, x, out,
         rounds);
}

void shuffles(const std::uint32_t* x, std::uint32_t* out) {
  launch("shuffles", shuffle_kernel, {dim3(1), dim3(32), dim3(1), 0}, nullptr, x, out);
}

void stmatrix(const std::uint16_t* x, std::uint16_t* out) {
  launch("stmatrix", stmatrix_kernel, {dim3(1), dim3(32), dim3(1), sizeof(StmatrixShared)}, nullptr, x, out);
}

void ldmatrix(const std::uint16_t* x, std::uint16_t* out) {
  launch("ldmatrix", ldmatrix_kernel, {dim3(1), dim3(32), dim3(1), sizeof(StmatrixShared)}, nullptr, x, out);
}

void staged_store(const float* x, float* out, Fence fence) {
  launch("staged_store", staged_kernel, {dim3(1), dim3(64), dim3(1), sizeof(StagedShared)}, nullptr,
         staged_copy(out), x, fence);
}

void strided_stores(int bytes, int stride, int repeats) {
  auto* kernel = bytes == 2    ? strided_kernel<std::uint16_t>
                 : bytes == 4  ? strided_kernel<float>
                 : bytes == 8  ? strided_kernel<float2>
                 : bytes == 16 ? strided_kernel<float4>
                               : nullptr;
  if (!kernel) fail("strided_stores: 2, 4, 8 or 16 bytes");
  launch("strided_stores", kernel, {dim3(1), dim3(32), dim3(1), sizeof(StridedShared)}, nullptr, stride,
         repeats);
}

}  // namespace blip3v::selftest

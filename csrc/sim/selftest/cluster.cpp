// Blocks of a cluster: TMA multicast with remote arrivals, distributed shared memory.
#include <cutlass/arch/barrier.h>

#include <cute/tensor.hpp>

#include "common/launch.cuh"
#include "common/memory.cuh"
#include "sim/selftest/selftest.h"

namespace blip3v::selftest {
namespace {

using Barrier = cutlass::arch::ClusterTransactionBarrier;
Barrier& barrier(std::uint64_t& word) {
  return reinterpret_cast<Barrier&>(word);
}

using Tile = cute::Layout<cute::Shape<cute::_32, cute::_32>, cute::Stride<cute::_32, cute::_1>>;

auto multicast_copy(const float* x, int rows) {
  using namespace cute;
  Tensor tensor =
      make_tensor(make_gmem_ptr(x), make_layout(make_shape(rows, _32{}), make_stride(_32{}, _1{})));
  return make_tma_copy(SM90_TMA_LOAD_MULTICAST{}, tensor, Tile{}, Shape<_32, _32>{}, _1{});
}
using MulticastCopy = decltype(multicast_copy(nullptr, 1));

struct SumShared {
  alignas(1024) float x[2][32 * 32];
  std::uint64_t full, empty;
};

// Each block loads its half of 64 rows into both blocks; remote arrivals guard the next round's reuse.
__global__ void sum_kernel(__grid_constant__ const MulticastCopy copy, float* out, int rounds) {
  using namespace cute;
  auto& s = dynamic_shared<SumShared>();
  std::uint32_t const rank = block_rank_in_cluster();
  if (threadIdx.x == 0) {
    barrier(s.full).init(1);
    barrier(s.empty).init(2 * 32);
    cutlass::arch::fence_barrier_init();
  }
  cluster_sync();
  float sum = 0;
  for (int round = 0; round < rounds; ++round) {
    if (threadIdx.x == 0) {
      barrier(s.empty).wait((round & 1) ^ 1);  // the readers of both blocks are done with both copies
      barrier(s.full).arrive_and_expect_tx(sizeof s.x);
      Tensor global = local_tile(copy.get_tma_tensor(make_shape(64 * rounds, _32{})), Shape<_32, _32>{},
                                 make_coord(2 * round + int(rank), 0));
      Tensor tile = make_tensor(make_smem_ptr(s.x[rank]), Tile{});
      auto [from, to] =
          tma_partition(copy, _0{}, Layout<_1>{}, group_modes<0, 2>(tile), group_modes<0, 2>(global));
      cute::copy(copy.with(s.full, std::uint16_t(3)), from, to);
    }
    barrier(s.full).wait(round & 1);
    for (int half = 0; half < 2; ++half) {
      for (int row = 0; row < 32; ++row) sum += load_shared(&s.x[half][row * 32 + threadIdx.x]);
    }
    barrier(s.empty).arrive(0u);
    barrier(s.empty).arrive(1u);
  }
  store_global(out + rank * 32 + threadIdx.x, sum);
  cluster_sync();
}

struct RotateShared {
  float received[32];
};

__global__ void rotate_kernel(const float* x, float* out) {
  auto& s = dynamic_shared<RotateShared>();
  std::uint32_t const rank = cute::block_rank_in_cluster(), blocks = cute::cluster_shape().x;
  cute::cluster_sync();  // a peer may not be written before it has started
  store_shared(peer_shared(&s.received[threadIdx.x], (rank + 1) % blocks),
               load_global(x + rank * 32 + threadIdx.x));
  cute::cluster_sync();
  store_global(out + rank * 32 + threadIdx.x, load_shared(&s.received[threadIdx.x]));
}

}  // namespace

void multicast_sum(const float* x, float* out, int rounds) {
  launch("multicast_sum", sum_kernel, {dim3(2), dim3(32), dim3(2), sizeof(SumShared)}, nullptr,
         multicast_copy(x, 64 * rounds), out, rounds);
}

void rotate_blocks(const float* x, float* out, int blocks) {
  launch("rotate_blocks", rotate_kernel, {dim3(blocks), dim3(32), dim3(blocks), sizeof(RotateShared)},
         nullptr, x, out);
}

}  // namespace blip3v::selftest

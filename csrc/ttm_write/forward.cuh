// The write of one step and the read of the next in one pass: memory and processed rows become the new
// memory, which with the next frame is the next group, and its LayerNorm. Blocks are persistent; one position
// at a time.
#pragma once

#include "common/device_scope.h"
#include "ttm_write/learner.cuh"

namespace blip3v::ttm_write {

template <class T, int kSlots>
struct ForwardMemory {
  Arena arena;
  LearnerMemory<T, kSlots, 0> learner;
  RowSums for_mean, for_square;  // of the group's LayerNorm

  CUTE_HOST_DEVICE ForwardMemory(unsigned char* base, int processed, int threads)
      : arena{base},
        learner(arena, kSlots + processed, threads),
        for_mean(arena.sums(threads / 32, kSlots + 1)),
        for_square(arena.sums(threads / 32, kSlots + 1)) {}
};

template <class T, int kSlots>
__global__ void __launch_bounds__(most_threads(kSlots)) forward_kernel(Forward const call) {
  constexpr int kRows = kSlots + 1;
  Sizes const& sizes = call.in.sizes;
  ForwardMemory<T, kSlots> const memory(dynamic_shared<SharedBase>().bytes, sizes.processed, blockDim.x);
  Learner<T, kSlots, 0> learner(call.in, memory.learner);
  Columns const& columns = learner.columns;
  bool const reads = call.frame.data;
  ttm_read::GroupOut<T> const out{static_cast<T*>(call.group), static_cast<T*>(call.normed), call.mean,
                                  call.rstd};
  int const items = sizes.videos * sizes.positions, warp = threadIdx.x / kLanes;
  for (int item = blockIdx.x; item < items; item += gridDim.x) {
    learner.read(item);
    Pack<T> frame;
    if (reads) frame = columns.load(row_of<T>(call.frame, sizes.positions, item, 0));
    learner.hidden([](int, Own const&, auto&) {});
    for (int g = warp; g < kSlots; g += blockDim.x / kLanes) learner.attend(g);
    __syncthreads();
    Own rows[kRows] = {};
    CUTE_NO_UNROLL
    for (int n = 0; n < learner.row_count; ++n) {
      Own x;
      float attention[kSlots];
      learner.row(n, x);
      load_shared_row(memory.learner.attention + n * kSlots, attention);
      CUTE_UNROLL
      for (int g = 0; g < kSlots; ++g) {
        CUTE_UNROLL
        for (int i = 0; i < kOwn; ++i) rows[g][i] += attention[g] * x[i];
      }
    }
    if (reads) {
      CUTE_UNROLL
      for (int g = 0; g < kSlots; ++g) unpack(ttm_read::pack<T>(rows[g]), rows[g]);
      Own gamma, beta;
      columns.load(call.gamma, gamma);
      columns.load(call.beta, beta);
      unpack(frame, rows[kSlots]);
      ttm_read::add_stamp<T>(columns, call.stamp, rows[kSlots]);
      ttm_read::write_group<T, kRows>(columns, rows, gamma, beta, call.in.eps, memory.for_mean,
                                      memory.for_square, item, out);
    } else {
      CUTE_UNROLL
      for (int g = 0; g < kSlots; ++g) {
        columns.store(out.group + (std::int64_t(item) * kSlots + g) * columns.width, rows[g]);
      }
    }
  }
}

template <class T, int kSlots>
std::size_t forward_shared_bytes(int processed, int width) {
  return ForwardMemory<T, kSlots>(nullptr, processed, threads_of(width)).arena.used;
}

template <class T, int kSlots>
void forward(const Forward& call, cudaStream_t stream) {
  Sizes const& sizes = call.in.sizes;
  int const items = sizes.videos * sizes.positions;
  if (items == 0) return;
  LaunchShape const shape{{unsigned(blocks(items, kForwardBlocks, multiprocessors()))},
                          {unsigned(threads_of(sizes.width))},
                          {1, 1, 1},
                          forward_shared_bytes<T, kSlots>(sizes.processed, sizes.width)};
  launch("ttm_write", forward_kernel<T, kSlots>, shape, stream, call);
}

}  // namespace blip3v::ttm_write

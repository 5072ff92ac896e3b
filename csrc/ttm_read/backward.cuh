// The gradients of memory and frame: what reached the group, and what came through its LayerNorm. Each block
// keeps the sums of the LayerNorm's own gradients in registers and writes them once.
#pragma once

#include "common/device_scope.h"
#include "common/launch.cuh"
#include "ttm_read/group.cuh"

namespace blip3v::ttm_read {

template <int kSlots>
struct BackwardShared {
  static constexpr int kWarps = most_threads(kSlots) / kLanes, kSums = 2 * (kSlots + 1);
  float partial[2][kWarps][kSums];  // items take turns: one barrier for each is enough
};

template <class T, int kSlots>
__global__ void __launch_bounds__(most_threads(kSlots)) backward_kernel(Backward const call) {
  constexpr int kRows = kSlots + 1, kSums = 2 * kRows;
  auto& shared = dynamic_shared<BackwardShared<kSlots>>();
  Columns const columns(call.sizes.width);
  int const width = call.sizes.width;
  Own gamma, dgamma = {}, dbeta = {};
  columns.load(call.gamma, gamma);
  int const items = call.sizes.videos * call.sizes.positions;
  int turn = 0;
  for (int item = blockIdx.x; item < items; item += gridDim.x, turn ^= 1) {
    RowSums const sums{&shared.partial[turn][0][0], kSums};
    GroupGradient<T, kRows> const gradient(columns, call.dgroup, call.dnormed, call.group, call.mean,
                                           call.rstd, item);
    float values[width_for(kSums)] = {}, totals[kSums];
    gradient.start(gamma, dgamma, dbeta, values);
    sums.put(values, 0, kSums);
    __syncthreads();
    sums.totals(totals);
    CUTE_UNROLL
    for (int r = 0; r < kRows; ++r) {
      Own row;
      gradient.finish(r, gamma, totals[2 * r] / width, totals[2 * r + 1] / width, row);
      T* const to = r < kSlots ? static_cast<T*>(call.dmemory) + (std::int64_t(item) * kSlots + r) * width
                               : static_cast<T*>(call.dframe) + std::int64_t(item) * width;
      columns.store(to, row);
    }
  }
  float* const partial = call.partial + std::int64_t(blockIdx.x) * 2 * width;
  columns.store(partial, dgamma);
  columns.store(partial + width, dbeta);
}

template <class T, int kSlots>
void backward(const Backward& call, cudaStream_t stream) {
  int const items = call.sizes.videos * call.sizes.positions;
  if (items == 0) return;
  LaunchShape const shape{{unsigned(blocks(items, multiprocessors()))},
                          {unsigned(threads_of(call.sizes.width))},
                          {1, 1, 1},
                          sizeof(BackwardShared<kSlots>)};
  launch("ttm_read", backward_kernel<T, kSlots>, shape, stream, call);
}

}  // namespace blip3v::ttm_read

// Memory and frame become the group of a position, and its LayerNorm: one pass over memory, one block for a
// position.
#pragma once

#include "common/device_scope.h"
#include "common/launch.cuh"
#include "ttm_read/group.cuh"

namespace blip3v::ttm_read {

template <int kSlots>
struct ForwardShared {
  static constexpr int kWarps = most_threads(kSlots) / kLanes, kRows = kSlots + 1;
  float for_mean[kWarps][kRows], for_square[kWarps][kRows];
};

template <class T, int kSlots>
__global__ void __launch_bounds__(most_threads(kSlots)) forward_kernel(Forward const call) {
  constexpr int kRows = kSlots + 1;
  auto& shared = dynamic_shared<ForwardShared<kSlots>>();
  RowSums const for_mean{&shared.for_mean[0][0], kRows}, for_square{&shared.for_square[0][0], kRows};
  Columns const columns(call.sizes.width);
  Own gamma, beta;
  columns.load(call.gamma, gamma);
  columns.load(call.beta, beta);
  GroupOut<T> const out{static_cast<T*>(call.group), static_cast<T*>(call.normed), call.mean, call.rstd};
  int const items = call.sizes.videos * call.sizes.positions;
  for (int item = blockIdx.x; item < items; item += gridDim.x) {
    Pack<T> raw[kRows];
    CUTE_UNROLL
    for (int r = 0; r < kSlots; ++r) {
      raw[r] = columns.load(row_of<T>(call.memory, call.sizes.positions, item, r));
    }
    raw[kSlots] = columns.load(row_of<T>(call.frame, call.sizes.positions, item, 0));
    Own rows[kRows];
    CUTE_UNROLL
    for (int r = 0; r < kRows; ++r) unpack(raw[r], rows[r]);
    add_stamp<T>(columns, call.stamp, rows[kSlots]);
    write_group<T, kRows>(columns, rows, gamma, beta, call.eps, for_mean, for_square, item, out);
  }
}

template <class T, int kSlots>
void forward(const Forward& call, cudaStream_t stream) {
  int const items = call.sizes.videos * call.sizes.positions;
  if (items == 0) return;
  unsigned const grid = blocks(items, multiprocessors());
  LaunchShape const shape{
      {grid}, {unsigned(threads_of(call.sizes.width))}, {1, 1, 1}, sizeof(ForwardShared<kSlots>)};
  launch("ttm_read", forward_kernel<T, kSlots>, shape, stream, call);
}

}  // namespace blip3v::ttm_read

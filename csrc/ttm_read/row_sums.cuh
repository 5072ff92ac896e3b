// Sums over rows whose channels lie across a whole block, many of them in one round and in a fixed order: the
// same bits in every run.
#pragma once

#include <cute/numeric/math.hpp>

#include "common/rows.cuh"

namespace blip3v::ttm_read {

// The smallest power of two that holds so many values.
constexpr int width_for(int values) {
  int width = 1;
  while (width < values) width *= 2;
  return width;
}

// One round: every warp puts its part into shared memory; between `put` or `add` and the totals stands a
// __syncthreads, and another one before the same memory is used again.
struct RowSums {
  float* partial;  // shared memory, [warps, count]
  int count;

  // values[i]: the thread's part of sum first + i, of which there are `sums`. They are overwritten.
  template <int kCount>
  CUTE_DEVICE void put(float (&values)[kCount], int first, int sums) const {
    static_assert(kCount <= kLanes, "a lane for each");
    int const lane = threadIdx.x % kLanes;
    SpreadSums<kCount> const spread(values, lane);
    int const number = spread.first(lane);
    if (lane % spread.kCopies == 0 && number < sums) {
      store_shared(partial + threadIdx.x / kLanes * count + first + number, spread.held[0]);
    }
  }

  // Sum row * kPer + i: f(row, values) sets the thread's parts of row's kPer sums, of kRows rows at a time.
  template <int kPer, int kRows, class F>
  CUTE_DEVICE void add(int rows, F const& f) const {
    CUTE_NO_UNROLL
    for (int start = 0; start < rows; start += kRows) {
      float values[width_for(kPer * kRows)] = {};
      CUTE_UNROLL
      for (int r = 0; r < kRows; ++r) {
        float row[kPer] = {};
        if (start + r < rows) f(start + r, row);
        CUTE_UNROLL
        for (int i = 0; i < kPer; ++i) values[r * kPer + i] = row[i];
      }
      put(values, start * kPer, cute::min(kRows, rows - start) * kPer);
    }
  }

  // Sum number i, over the warps one after the other.
  CUTE_DEVICE float total(int i) const {
    float sum = 0.f;
    for (int warp = 0; warp < int(blockDim.x) / kLanes; ++warp) {
      sum += load_shared(partial + warp * count + i);
    }
    return sum;
  }

  // The first kSums totals for every thread of a warp, all of whose lanes must call.
  template <int kSums>
  CUTE_DEVICE void totals(float (&sums)[kSums]) const {
    static_assert(kSums <= kLanes, "a lane for each");
    int const lane = threadIdx.x % kLanes;
    float const mine = lane < kSums ? total(lane) : 0.f;
    CUTE_UNROLL
    for (int i = 0; i < kSums; ++i) sums[i] = __shfl_sync(kWholeWarp, mine, i);
  }
};

}  // namespace blip3v::ttm_read

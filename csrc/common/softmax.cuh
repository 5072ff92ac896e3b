// Softmax of rows that arrive in tiles: a running maximum and sum, and the factor that earlier results need.
#pragma once

#include "common/wgmma.cuh"

namespace blip3v {

constexpr float kLog2E = 1.4426950408889634f;

// The two rows of one thread. Scores are raw products; the softmax is of scale * score, scale > 0.
struct OnlineSoftmax {
  float scale_log2;                       // scale / ln 2: powers of two are what the hardware computes
  float max[2] = {-INFINITY, -INFINITY};  // over the whole quad
  float sum[2] = {0.f, 0.f};              // over this thread's columns only, see total()

  // scores -> exp(scale * (score - max)), in place. Whatever was accumulated with the old maximum must be
  // multiplied by factor[row]. A row of which nothing was seen so far keeps sum 0, never NaN.
  template <class C>
  CUTE_DEVICE void update(C& scores, float (&factor)[2]) {
    float next[2] = {max[0], max[1]}, seen[2] = {0.f, 0.f}, shift[2];
    CUTE_UNROLL
    for (int i = 0; i < cute::size(scores); ++i) next[row_of(i)] = fmaxf(next[row_of(i)], scores(i));
    CUTE_UNROLL
    for (int r = 0; r < 2; ++r) {
      next[r] = quad_max(next[r]);
      shift[r] = next[r] == -INFINITY ? 0.f : next[r] * scale_log2;
      factor[r] = exp2f(max[r] * scale_log2 - shift[r]);  // the first tile: exp2(-inf) = 0
      max[r] = next[r];
    }
    CUTE_UNROLL
    for (int i = 0; i < cute::size(scores); ++i) {
      scores(i) = exp2f(scores(i) * scale_log2 - shift[row_of(i)]);
      seen[row_of(i)] += scores(i);
    }
    CUTE_UNROLL
    for (int r = 0; r < 2; ++r) sum[r] = sum[r] * factor[r] + seen[r];
  }

  // Sum over the row; every thread of the quad must call it.
  CUTE_DEVICE float total(int r) const { return quad_sum(sum[r]); }
};

// log(sum exp(scale * score)); -inf for a row that saw nothing.
CUTE_DEVICE float log_sum_exp(float max, float total, float scale_log2) {
  return total == 0.f ? -INFINITY : max * scale_log2 / kLog2E + logf(total);
}

}  // namespace blip3v

// Rows of channels in registers: how they are read and written two channels at a time, sums over the lanes of
// a warp and over the warps of a block, and the mean and spread that a LayerNorm needs. All sums are fp32, in
// one order.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>
#include <cstring>
#include <cute/config.hpp>
#include <cute/numeric/numeric_types.hpp>

#include "common/memory.cuh"

namespace blip3v {

constexpr int kLanes = 32;
constexpr unsigned kWholeWarp = ~0u;

// Two neighbouring channels as they lie in memory: one load or store of 4 (bf16) or 8 (fp32) bytes.
template <class Element>
struct Pair;

template <>
struct Pair<cute::bfloat16_t> {
  std::uint32_t bits;
  Pair() = default;
  CUTE_DEVICE explicit Pair(float2 v) {
    __nv_bfloat162 const rounded = __floats2bfloat162_rn(v.x, v.y);
    std::memcpy(&bits, &rounded, sizeof bits);
  }
  CUTE_DEVICE float2 wide() const {
    return {__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u)};
  }
};

template <>
struct Pair<float> {
  float2 bits;
  Pair() = default;
  CUTE_DEVICE explicit Pair(float2 v) : bits(v) {}
  CUTE_DEVICE float2 wide() const { return bits; }
};

// A number that the whole warp agrees on, through a shuffle: what follows from it cannot be computed any
// earlier. The compiler would rather compute the addresses of a whole loop body ahead, and spill them.
CUTE_DEVICE int not_before(int value) {
  return __shfl_sync(kWholeWarp, value, 0);
}

// Sum over the warp, the same bits in every lane. Every lane must call it.
CUTE_DEVICE float warp_sum(float value) {
  CUTE_UNROLL
  for (int bit = kLanes / 2; bit > 0; bit /= 2) value += __shfl_xor_sync(kWholeWarp, value, bit);
  return value;
}

// kCount sums over the lanes of a warp, kCount a power of two, spread over these lanes. Each step sends half
// of what a lane holds to its partner: 32 sums cost 31 shuffles and not 160. Every lane must call every
// function.
template <int kCount>
struct SpreadSums {
  static_assert(kCount > 0 && (kCount & (kCount - 1)) == 0, "a power of two");
  static constexpr int kPerLane = kCount > kLanes ? kCount / kLanes : 1;
  static constexpr int kCopies = kCount < kLanes ? kLanes / kCount : 1;  // neighbours that hold the same sum

  // terms: this lane's share of every sum; they are overwritten.
  CUTE_DEVICE SpreadSums(float (&terms)[kCount], int lane) {
    halve<kLanes / 2, kCount / 2>(terms, lane);
    CUTE_UNROLL
    for (int i = 0; i < kPerLane; ++i) held[i] = terms[i];
  }

  // Numbers that the lanes made themselves, spread likewise.
  CUTE_DEVICE explicit SpreadSums(float own) {
    CUTE_UNROLL
    for (int i = 0; i < kPerLane; ++i) held[i] = own;
  }

  // Number of the sum in held[0]; held[i] is sum first + i.
  CUTE_DEVICE static int first(int lane) { return lane / kCopies * kPerLane; }

  // Sum base + offset in every lane that asks for it. base: a multiple of kPerLane; offset: known at compile
  // time.
  CUTE_DEVICE float get(int base, int offset) const {
    return __shfl_sync(kWholeWarp, held[offset % kPerLane], (base + offset) / kPerLane * kCopies);
  }

  float held[kPerLane];

 private:
  // Keeps half of the 2 * kHalf terms and sends the others to the lane that differs in kBit; a single one is
  // summed up in both. Templates and not a loop, so that every index is a constant and the terms stay in
  // registers.
  template <int kBit, int kHalf>
  CUTE_DEVICE static void halve(float (&terms)[kCount], int lane) {
    bool const upper = lane & kBit;
    CUTE_UNROLL
    for (int i = 0; i < kHalf; ++i) {
      float const sent = upper ? terms[i] : terms[i + kHalf];
      terms[i] = (upper ? terms[i + kHalf] : terms[i]) + __shfl_xor_sync(kWholeWarp, sent, kBit);
    }
    if constexpr (kHalf == 0) terms[0] += __shfl_xor_sync(kWholeWarp, terms[0], kBit);
    if constexpr (kBit > 1) halve<kBit / 2, kHalf / 2>(terms, lane);
  }
};

// Shared memory for sums over the warps of a block. Two buffers in turn: one barrier a round is enough,
// because whoever writes to a buffer again has passed the barrier that all had read it before.
template <int kRows, int kWarps>
struct BlockSums {
  static_assert(kWarps % 4 == 0, "a row is read 16 bytes at a time");
  float4 of[2][kRows][kWarps / 4];
};

// rows[r]: this thread's share -> the sum over the block, the same bits in every thread. `round` counts a
// block's calls.
template <int kRows, int kWarps>
CUTE_DEVICE void block_sums(BlockSums<kRows, kWarps>& shared, int round, float (&rows)[kRows]) {
  constexpr int kCount = kRows <= 1    ? 1
                         : kRows <= 2  ? 2
                         : kRows <= 4  ? 4
                         : kRows <= 8  ? 8
                         : kRows <= 16 ? 16
                                       : 32;
  static_assert(kRows <= kCount, "at most 32 sums");
  int const lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  auto& buffer = shared.of[round % 2];
  float terms[kCount];
  CUTE_UNROLL
  for (int r = 0; r < kCount; ++r) terms[r] = r < kRows ? rows[r] : 0.f;
  SpreadSums<kCount> const sums(terms, lane);
  int const row = sums.first(lane);
  if (lane % sums.kCopies == 0 && row < kRows) {
    store_shared(reinterpret_cast<float*>(buffer[row]) + warp, sums.held[0]);
  }
  __syncthreads();
  CUTE_UNROLL
  for (int r = 0; r < kRows; ++r) {
    rows[r] = 0.f;
    CUTE_UNROLL
    for (int w = 0; w < kWarps / 4; ++w) {
      float4 const part = load_shared(&buffer[r][w]);
      rows[r] += (part.x + part.y) + (part.z + part.w);
    }
  }
}

// Mean and 1 / sqrt(variance + eps) of a row.
struct Moments {
  float mean, rstd;
};

// 1 / x to about one unit in the last place: the exact division is a function call on the GPU.
CUTE_DEVICE float reciprocal(float x) {
  return __fdividef(1.f, x);
}

// Of one row that a warp holds: value(i), i < kCount, are this lane's channels, of which those count that
// live(i). Two passes: the variance is a sum of squared distances from the mean. Every lane must call it.
template <int kCount, class Value, class Live>
CUTE_DEVICE Moments warp_moments(Value const& value, Live const& live, int width, float eps) {
  float const share = reciprocal(float(width));
  float sum = 0.f, squares = 0.f;
  CUTE_UNROLL
  for (int i = 0; i < kCount; ++i) sum += live(i) ? value(i) : 0.f;
  float const mean = warp_sum(sum) * share;
  CUTE_UNROLL
  for (int i = 0; i < kCount; ++i) {
    float const distance = live(i) ? value(i) - mean : 0.f;
    squares += distance * distance;
  }
  return {mean, rsqrtf(warp_sum(squares) * share + eps)};
}

// Of kRows rows that the kWarps warps of a block hold together: value(r, i) of row r. Takes two rounds of
// block_sums, `round` and the one after it. Every thread must call it.
template <int kCount, int kRows, int kWarps, class Value, class Live>
CUTE_DEVICE void block_moments(BlockSums<kRows, kWarps>& shared, int round, Value const& value,
                               Live const& live, int width, float eps, Moments (&moments)[kRows]) {
  float const share = reciprocal(float(width));
  float sums[kRows];
  CUTE_UNROLL
  for (int r = 0; r < kRows; ++r) {
    sums[r] = 0.f;
    CUTE_UNROLL
    for (int i = 0; i < kCount; ++i) sums[r] += live(i) ? value(r, i) : 0.f;
  }
  block_sums(shared, round, sums);
  CUTE_UNROLL
  for (int r = 0; r < kRows; ++r) {
    moments[r].mean = sums[r] * share;
    sums[r] = 0.f;
    CUTE_UNROLL
    for (int i = 0; i < kCount; ++i) {
      float const distance = live(i) ? value(r, i) - moments[r].mean : 0.f;
      sums[r] += distance * distance;
    }
  }
  block_sums(shared, round + 1, sums);
  CUTE_UNROLL
  for (int r = 0; r < kRows; ++r) moments[r].rstd = rsqrtf(sums[r] * share + eps);
}

}  // namespace blip3v

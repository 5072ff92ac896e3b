// What forward and backward share: a lane's channels of a head, and the products of two sets of tokens.
#pragma once

#include <cute/numeric/integral_constant.hpp>

#include "common/launch.cuh"
#include "common/rows.cuh"
#include "grouped_attention/params.h"
#include "grouped_attention/tiles.h"

namespace blip3v::grouped_attention {

constexpr float kLog2E = 1.4426950408889634f;

// A lane's share of one head of kTokens tokens: pairs lane, lane + 32, ... of its channels.
template <class Element, int kTokens, int kPairs>
using Operand = Pair<Element>[kTokens][kPairs];

// Where a lane's channels are in a row, and which of its pairs exist: none where the head does not.
struct Channels {
  int first;   // in the row, of the lane's first pair
  int beyond;  // pairs of the head from there on

  CUTE_DEVICE Channels(Sizes const& sizes, int head, int lane)
      : first(head * sizes.head_dim + 2 * lane), beyond(head < sizes.heads ? sizes.head_dim / 2 - lane : 0) {}

  CUTE_DEVICE bool has(int p) const { return p * kLanes < beyond; }
};

template <class Element>
CUTE_DEVICE Element* token_of(View const& view, int group, int token) {
  return static_cast<Element*>(view.data) + group * view.group + std::int64_t(token) * view.token;
}

// Of a contiguous tensor.
template <class Element, class Pointer>
CUTE_DEVICE Element* row_at(Pointer* data, std::int64_t row, int width) {
  return static_cast<Element*>(data) + row * width;
}

// A lane's share of one row; zeros where there is no such row or channel. from: the lane's first channel.
template <class Element, int kPairs>
CUTE_DEVICE void read_head(Pair<Element> (&to)[kPairs], Element const* from, Channels const& channels,
                           bool live = true) {
  CUTE_UNROLL
  for (int p = 0; p < kPairs; ++p) {
    to[p] = Pair<Element>(float2{0.f, 0.f});
    if (live && channels.has(p))
      to[p] = load_global(reinterpret_cast<Pair<Element> const*>(from) + p * kLanes);
  }
}

template <class Element>
CUTE_DEVICE void write_pair(Element* to, Channels const& channels, int p, Pair<Element> value) {
  if (channels.has(p)) store_global(reinterpret_cast<Pair<Element>*>(to) + p * kLanes, value);
}

// The scores of kRows x kColumns tokens, row after row, spread over the lanes of a warp.
template <int kRows, int kColumns>
struct Scores : SpreadSums<(kRows * kColumns <= 16   ? 16
                            : kRows * kColumns <= 32 ? 32
                                                     : 64)> {
  static constexpr int kCount = kRows * kColumns <= 16 ? 16 : kRows * kColumns <= 32 ? 32 : 64;
  using Sums = SpreadSums<kCount>;
  static_assert(kRows * kColumns <= 64, "at most two scores per lane");
  static_assert(kColumns % Sums::kPerLane == 0, "the scores of a lane belong to one row");

  CUTE_DEVICE Scores(float (&terms)[kCount], int lane) : Sums(terms, lane) {}
  // A number of this lane's row.
  CUTE_DEVICE explicit Scores(float of_row) : Sums(of_row) {}

  // Where this lane's score i stands. A lane beyond the last score repeats the last row's.
  CUTE_DEVICE static int row(int lane) {
    int const number = Sums::first(lane);
    return number < kRows * kColumns ? number / kColumns : kRows - 1;
  }
  CUTE_DEVICE static int column(int lane, int i) { return (Sums::first(lane) + i) % kColumns; }

  // Score (row, column) in every lane that asks for it; column known at compile time.
  CUTE_DEVICE float at(int row, int column) const { return Sums::get(row * kColumns, column); }

  // All of them in every lane.
  CUTE_DEVICE void gather(float (&all)[kRows][kColumns]) const {
    CUTE_UNROLL
    for (int i = 0; i < kRows; ++i) {
      CUTE_UNROLL
      for (int j = 0; j < kColumns; ++j) all[i][j] = at(i, j);
    }
  }

  // Over the whole row of this lane.
  CUTE_DEVICE float row_max(int lane) const {
    float largest = at(row(lane), 0);
    CUTE_UNROLL
    for (int j = 1; j < kColumns; ++j) largest = fmaxf(largest, at(row(lane), j));
    return largest;
  }
  CUTE_DEVICE float row_sum(int lane) const {
    float sum = at(row(lane), 0);
    CUTE_UNROLL
    for (int j = 1; j < kColumns; ++j) sum += at(row(lane), j);
    return sum;
  }
};

// a b^T over the channels of a head. Every lane must call it.
template <class Element, int kRows, int kColumns, int kPairs>
CUTE_DEVICE Scores<kRows, kColumns> products(Operand<Element, kRows, kPairs> const& a,
                                             Operand<Element, kColumns, kPairs> const& b, int lane) {
  float terms[Scores<kRows, kColumns>::kCount];
  CUTE_UNROLL
  for (int t = 0; t < Scores<kRows, kColumns>::kCount; ++t) terms[t] = 0.f;
  CUTE_UNROLL
  for (int p = 0; p < kPairs; ++p) {
    CUTE_UNROLL
    for (int i = 0; i < kRows; ++i) {
      float2 const left = a[i][p].wide();
      CUTE_UNROLL
      for (int j = 0; j < kColumns; ++j) {
        float2 const right = b[j][p].wide();
        terms[i * kColumns + j] += left.x * right.x + left.y * right.y;
      }
    }
  }
  return Scores<kRows, kColumns>(terms, lane);
}

CUTE_DEVICE void add_scaled(float2& sum, float factor, float2 v) {
  sum.x += factor * v.x;
  sum.y += factor * v.y;
}

// scores -> exp(score / sqrt(d)) up to one factor per row.
template <int kTokens>
CUTE_DEVICE void exponentiate(Scores<kTokens, kTokens>& scores, int lane, float scale_log2) {
  float const largest = scores.row_max(lane);
  CUTE_UNROLL
  for (int i = 0; i < scores.kPerLane; ++i) scores.held[i] = exp2f((scores.held[i] - largest) * scale_log2);
}

// The work of one warp on larger groups: a tile of tokens of one head.
struct Item {
  int head, first;  // its first token
  int group;        // beyond the last one: nothing to do

  CUTE_DEVICE Item(Sizes const& sizes, int tile) {
    unsigned const number = blockIdx.x * kWarps + threadIdx.x / kLanes, tiles = tiles_of(sizes.tokens, tile);
    first = int(number % tiles) * tile;
    head = int(number / tiles % sizes.heads);
    group = int(number / tiles / sizes.heads);
  }
};

inline std::int64_t items(Sizes const& sizes, int tile) {
  return std::int64_t(sizes.groups) * sizes.heads * tiles_of(sizes.tokens, tile);
}

// A grid of so many warps.
inline LaunchShape warps(std::int64_t count) {
  return {dim3(unsigned((count + kWarps - 1) / kWarps)), dim3(kThreads)};
}

// Calls run(kTokens, kPairs) with the constants that hold the group; false where tiles must.
template <class Run>
bool with_held_group(Sizes const& sizes, Run const& run) {
  if (!holds_group(sizes)) return false;
  auto const with_tokens = [&](auto tokens) {
    using cute::Int;
    if (pairs_per_lane(sizes.head_dim) == 1) return run(tokens, Int<1>{});
    if constexpr (fits_registers(tokens, 3)) run(tokens, Int<3>{});
  };
  switch (sizes.tokens) {
#define BLIP3V_CASE(n)           \
  case n:                        \
    with_tokens(cute::Int<n>{}); \
    break;
    BLIP3V_GROUPED_ATTENTION_HELD(BLIP3V_CASE)
#undef BLIP3V_CASE
  }
  return true;
}

// Calls run(kPairs) with the pairs per lane of any head.
template <class Run>
void with_pairs(Sizes const& sizes, Run const& run) {
  switch (pairs_per_lane(sizes.head_dim)) {
    case 1:
      return run(cute::Int<1>{});
    case 3:
      return run(cute::Int<3>{});
    default:
      return run(cute::Int<4>{});
  }
}

}  // namespace blip3v::grouped_attention

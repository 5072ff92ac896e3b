// Every tuned number of grouped_attention, with its reason. Nothing here has been tuned on a GPU yet.
#pragma once

#include <cstddef>

#include "grouped_attention/params.h"

namespace blip3v::grouped_attention {

// A warp per head; the model has 8.
constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;

// Sizes of the groups that a block holds in registers, compiled one by one: conditions on the number of
// tokens would cost more registers than the tokens. 5 are the model's four slots of memory and a frame token.
#define BLIP3V_GROUPED_ATTENTION_HELD(F) F(2) F(3) F(4) F(5) F(8)
constexpr bool is_held(int tokens) {
#define BLIP3V_IS(n) tokens == n ||
  return BLIP3V_GROUPED_ATTENTION_HELD(BLIP3V_IS) false;
#undef BLIP3V_IS
}

// Pairs of channels per lane: 1 is up to 64 channels per head, the small models; 3 is up to 192, the model's
// 144; 4 is up to 256.
constexpr int kMostHeldPairs = 3;
constexpr int pairs_per_lane(int head_dim) {
  return head_dim <= 64 ? 1 : head_dim <= 192 ? 3 : 4;
}
constexpr int kMostHeadDim = 256;

// Pairs of one operand of a thread. The backward has four operands, and the compiler keeps much of them
// widened to fp32: 8 tokens of 144 channels would spill.
constexpr int kMostHeld = 15;
constexpr bool fits_registers(int tokens, int pairs) {
  return tokens * pairs <= kMostHeld;
}

// Whether a block holds a whole group; otherwise warps take tiles of it.
inline bool holds_group(Sizes const& sizes) {
  int const pairs = pairs_per_lane(sizes.head_dim);
  return is_held(sizes.tokens) && sizes.heads <= kWarps && pairs <= kMostHeldPairs &&
         fits_registers(sizes.tokens, pairs);
}

// Blocks on a multiprocessor that the compiler leaves registers for: three times the 46 KB that the forward
// loads for a group of the model are more than the 26 KB in flight that 800 ns at 4.3 TB/s over 132
// multiprocessors ask for, even when two of the three compute. The model's backward needs more than 128
// registers: one block, with 69 KB a group.
constexpr int forward_blocks(int element_bytes, int tokens) {
  return tokens > 5 ? 1 : element_bytes > 2 ? 2 : 3;
}
constexpr int backward_blocks(int tokens, int pairs) {
  return tokens * pairs > 4 ? 1 : 2;
}

// Shared memory of row_backward for its sums: two per channel. With 16,384 channels that is 128 KiB.
constexpr int kMostWidth = 16384;
inline std::size_t row_backward_bytes(Sizes const& sizes) {
  return 2 * sizeof(float) * std::size_t(sizes.width());
}

// Blocks of the backward per multiprocessor: they walk through the groups and each leaves one row of partial
// sums.
constexpr int kBackwardBlocks = 1;

// Tiles of larger groups: 32 scores, one in each lane, or 16 where a lane has more channels to hold.
constexpr int kKeys = 4;
constexpr int queries(int pairs) {
  return pairs > 1 ? 4 : 8;
}

constexpr int tiles_of(int tokens, int tile) {
  return (tokens + tile - 1) / tile;
}

}  // namespace blip3v::grouped_attention

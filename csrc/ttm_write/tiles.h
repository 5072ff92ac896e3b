// Every tuned number of ttm_write, with its reason. Nothing here has been tuned on a GPU yet.
#pragma once

#include "ttm_read/tiles.h"

namespace blip3v::ttm_write {

using ttm_read::kOwn;
using ttm_read::most_threads;
using ttm_read::most_width;
using ttm_read::threads_of;

// Rows of one TokenLearner: a lane of each warp keeps the statistics of one.
constexpr int kMostProcessed = 16;

// Whether the largest of the backward's sums and the gradient of the new memory take turns in the registers.
// Eight slots have registers for both, and would not have the shared memory.
constexpr bool takes_turns(int slots) {
  return slots <= 4;
}

// Blocks for each multiprocessor. At the model's width its registers hold one of either kind, and narrower
// rows leave room for more; a block reads its weights once for all of its positions, and in the backward
// leaves a row of sums, so more of them cost more.
constexpr int kForwardBlocks = 2;
constexpr int kBackwardBlocks = 1;

// Rows that a thread asks for before it uses the first: all nine of the model's four slots in bf16, and else
// five, for want of registers.
constexpr int rows_at_once(int slots, int element_bytes) {
  return slots >= 4 && element_bytes == 2 ? 9 : 5;
}
// Rows whose two sums of the second round go through the warp together: half of the model's nine.
constexpr int kSecondRows = 5;

// Of the third round: three rows have 27 sums in the model's forward. One has 13 in its backward, whose
// registers are wanted.
constexpr int third_rows(bool backward, int sums_of_a_row) {
  return !backward && sums_of_a_row < 10 ? 3 : 1;
}
// And of the backward's fourth round, which does most for a row.
constexpr int kFourthRows = 1;

// Of a launch over so many positions.
inline int blocks(int items, int each, int multiprocessors) {
  return items < each * multiprocessors ? items : each * multiprocessors;
}

// What a block of the backward adds up, in this order: the gradients of gamma1, beta1, gamma2, beta2, w1 [J],
// gamma and beta, D each, and that of w2, G * J and as many more as make the next block's begin at 16 bytes.
constexpr int sums(int slots, int width) {
  return (2 * slots + 6) * width + (2 * slots * slots + 3) / 4 * 4;
}

}  // namespace blip3v::ttm_write

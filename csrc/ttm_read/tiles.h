// Every tuned number of ttm_read, with its reason. Nothing here has been tuned on a GPU yet.
#pragma once

namespace blip3v::ttm_read {

// A thread owns this many neighbouring channels in every row of the group: 8 bytes of bf16, 16 of fp32 in one
// access. 1152 channels are 288 threads with none idle.
constexpr int kOwn = 4;

// Of a block: 12 warps, three on each quarter of a multiprocessor, leave 168 registers to a thread; eight
// slots need the 255 that 8 warps leave.
constexpr int most_threads(int slots) {
  return slots > 4 ? 256 : 384;
}
constexpr int most_width(int slots) {
  return most_threads(slots) * kOwn;
}

// Blocks for each multiprocessor: a block mostly waits, for memory or for its own sums.
constexpr int kBlocksPerMultiprocessor = 4;

// Of a launch over so many positions.
inline int blocks(int items, int multiprocessors) {
  return items < kBlocksPerMultiprocessor * multiprocessors ? items
                                                            : kBlocksPerMultiprocessor * multiprocessors;
}

constexpr int threads_of(int width) {
  return (width + 32 * kOwn - 1) / (32 * kOwn) * 32;
}

}  // namespace blip3v::ttm_read

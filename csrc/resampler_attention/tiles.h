// Every tuned number of resampler_attention, with its reason. Nothing here has been tuned on a GPU yet.
#pragma once

namespace blip3v::resampler_attention {

// A warpgroup's share of the queries is what one wgmma covers; two of them hold all 128 queries of a frame,
// so that keys and values are read once and the backward finishes dK and dV of a tile without atomics.
constexpr int kRows = 64;
constexpr int kConsumers = 2;
constexpr int kQueries = kRows * kConsumers;
constexpr int kThreads = 128 * (1 + kConsumers);  // and one warpgroup whose first thread feeds TMA

// Keys per tile: 64 keeps scores and probabilities in 48 registers. 729 + 128 keys are 12 + 2 tiles.
constexpr int kTile = 64;

// Registers per thread of the producer and of the consumers; (producer + 2 * consumer) * 128 are at most the
// 65,536 of a multiprocessor. The forward has registers to spare and a producer that keeps track of two
// rings.
constexpr int kForwardProducerRegisters = 40;
constexpr int kForwardConsumerRegisters = 232;
constexpr int kBackwardProducerRegisters = 24;
constexpr int kBackwardConsumerRegisters = 240;

// Tiles in flight. Latency of about 1 us at 4.3 TB/s over 132 multiprocessors is 33 KB; three stages of K and
// V at 96 channels are 72 KB.
constexpr int kForwardStages = 3;
// Queries of the next (frame, head) are loaded while this one is being computed.
constexpr int kQueryStages = 2;

// The portable limit of a cluster.
constexpr int kMaxSplits = 8;

// wgmma multiplies 16 channels at a time; TMA fills the channels beyond the head dimension with zeros.
constexpr int padded(int head_dim) {
  return (head_dim + 15) / 16 * 16;
}

}  // namespace blip3v::resampler_attention

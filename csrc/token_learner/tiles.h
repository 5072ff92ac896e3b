// Every tuned number of token_learner, with its reason. Nothing here has been tuned on a GPU yet.
#pragma once

namespace blip3v::token_learner {

// Tokens of a warpgroup, what one wgmma covers, and channels of a chunk, the width of the 128-byte swizzle.
constexpr int kRows = 64;
constexpr int kChunk = 64;

// Two warpgroups compute, so that a chunk of the weights serves 128 tokens; one more feeds TMA.
constexpr int kConsumers = 2;
constexpr int kTokens = kRows * kConsumers;
constexpr int kThreads = 128 * (1 + kConsumers);

// Tokens made that are compiled for; k is rounded up to one of them.
constexpr int kMost = 256;
constexpr int kMostHidden = 512;
constexpr int kMostChannels = 1536;
constexpr int made_tile(int made) {
  return made <= 64 ? 64 : made <= 128 ? 128 : 256;
}

// Hidden columns that are computed in one pass over x. With 128 tokens made, two passes instead of four;
// with 256, the accumulator of the logits leaves no registers for more than 64.
constexpr int hidden_tile(int made_tile) {
  return made_tile == 128 ? 128 : 64;
}

// Chunks of x and of the weights in flight, 96 to 144 KB of them. A second block per multiprocessor would
// leave the row statistics too few registers.
constexpr int logits_stages(int made_tile) {
  return made_tile == 64 ? 6 : made_tile == 128 ? 3 : 4;
}

// Registers per thread of the producer and of the consumers. A block redistributes what it was launched with:
// 3 * 168 at one block per multiprocessor; two warpgroups with 128 each where two blocks share it.
constexpr int kProducerRegisters = 24;
constexpr int kConsumerRegisters = 240;
constexpr int pool_registers(int consumers) {
  return consumers == 1 ? 232 : kConsumerRegisters;
}

// The portable limit of a cluster.
constexpr int kMostSplits = 8;

// Channels of a block of the pooling. 192: the weights of a video, exp(logits - lse), are computed by few
// blocks; 64: more blocks, for few videos or narrow models.
constexpr int kWidePool = 192;
constexpr int kNarrowPool = 64;
constexpr int kPoolStages = 4;

// The gradient of the logits: chunks of x and of dout in flight.
constexpr int slopes_stages(int made_tile) {
  return made_tile == 256 ? 3 : 4;
}

// The gradient of x: channels of a block, and chunks of both factors in flight.
constexpr int kWideInputs = 192;
constexpr int kNarrowInputs = 64;
constexpr int kInputStages = 3;

}  // namespace blip3v::token_learner

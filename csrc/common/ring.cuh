// A ring of shared-memory buffers between one TMA producer and consumer warps.
//
//   producer                                   consumer warp
//   acquire(slot, bytes)  waits until empty    wait(slot)     waits until the bytes have landed
//   ... issues TMA on barrier(slot) ...        ... reads ...
//   slot.advance()                             release(slot)  one lane of each warp arrives
//                                              slot.advance()
//
// An mbarrier completes a phase when all arrivals and all announced bytes are in; a waiter names the parity
// of the phase it waits for. Slots flip their parity each time round, so nobody ever resets a barrier.
#pragma once

#include <cutlass/arch/barrier.h>

#include <cstdint>

namespace blip3v {

using Barrier = cutlass::arch::ClusterTransactionBarrier;

// mbarriers live in shared memory as words; CUTLASS's class, which cannot be constructed, only names the
// methods.
CUTE_DEVICE Barrier& barrier(std::uint64_t& word) {
  return reinterpret_cast<Barrier&>(word);
}

template <int kStages>
struct Slot {
  int stage = 0;
  std::uint32_t parity = 0;

  CUTE_DEVICE void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

template <int kStages>
struct Ring {
  std::uint64_t full[kStages], empty[kStages];

  // By one thread, before a fence and a barrier of the block.
  CUTE_DEVICE void init(int consumer_warps) {
    for (int stage = 0; stage < kStages; ++stage) {
      barrier(full[stage]).init(1);
      barrier(empty[stage]).init(consumer_warps);
    }
  }

  CUTE_DEVICE void acquire(Slot<kStages> slot, std::uint32_t bytes) {
    barrier(empty[slot.stage]).wait(slot.parity ^ 1);  // the first time round nothing has to be released
    barrier(full[slot.stage]).arrive_and_expect_tx(bytes);
  }

  CUTE_DEVICE void wait(Slot<kStages> slot) { barrier(full[slot.stage]).wait(slot.parity); }

  CUTE_DEVICE void release(Slot<kStages> slot, int lane) {
    if (lane == 0) barrier(empty[slot.stage]).arrive();
  }
};

}  // namespace blip3v

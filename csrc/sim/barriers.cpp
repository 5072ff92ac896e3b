// Rendezvous of threads: __syncthreads and named barriers, warps (shuffles), clusters, the register pool.
#include "sim/machine.h"

namespace blip3v::sim {
namespace {

constexpr unsigned kSyncThreads = 0;

void release(Block& block, unsigned id) {
  block.barriers[id].arrived = 0;
  wake_if(State::kBarrier, [&](Thread& t) { return t.block == &block && t.barrier == id; });
}

// Gives every lane of the mask the value of the lane it asked for.
void exchange(Thread* lanes, std::uint32_t mask) {
  std::array<std::uint64_t, kWarp> received{};
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    const unsigned source = mask >> lane & 1 ? lanes[lane].exchange_source : lane;
    if (mask >> lane & 1) received[lane] = lanes[mask >> source & 1 ? source : lane].exchanged;
  }
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if (!(mask >> lane & 1)) continue;
    lanes[lane].exchanged = received[lane];
    if (lanes[lane].state == State::kWarp) wake(lanes[lane]);
  }
}

bool complete(const Warp& warp, const Rendezvous& r) {
  return (r.arrived | warp.absent) == (r.mask | warp.absent);
}

void pass_cluster_barrier() {
  machine.cluster_arrived = 0;
  ++machine.cluster_generation;
  wake_if(State::kCluster, [](Thread&) { return true; });
}

unsigned registers_of(const Block& block) {
  unsigned sum = 0;
  for (const Warp& warp : block.warps) sum += warp.registers * kWarp;
  return sum;
}

}  // namespace

void sync_threads() {
  Thread& thread = self();
  Block& block = *thread.block;
  thread.barrier = kSyncThreads;
  ++machine.stats.barrier_waits;
  block.barriers[kSyncThreads].expected = block.live;
  if (++block.barriers[kSyncThreads].arrived < block.live) return wait_as(State::kBarrier);
  release(block, kSyncThreads);
  preempt();
}

void named_barrier(unsigned id, unsigned threads, bool wait) {
  if (id == kSyncThreads || id >= kBarriers)
    fail(text("named barrier %u: only 1 to 15 exist beside __syncthreads", id));
  if (threads == 0 || threads % kWarp)
    fail(text("named barrier %u: %u threads are not whole warps", id, threads));
  Thread& thread = self();
  NamedBarrier& barrier = thread.block->barriers[id];
  if (barrier.arrived && barrier.expected != threads) {
    fail(text("named barrier %u: %u threads expected here, %u by earlier arrivals", id, threads,
              barrier.expected));
  }
  barrier.expected = threads;
  thread.barrier = id;
  if (wait) ++machine.stats.barrier_waits;
  if (++barrier.arrived == threads) {
    release(*thread.block, id);
    preempt();
  } else if (wait) {
    wait_as(State::kBarrier);
  }
}

std::uint64_t warp_exchange(std::uint32_t mask, std::uint64_t value, unsigned source) {
  Thread& thread = self();
  Warp& warp = thread.block->warps[thread.ids.warp];
  if (!(mask >> thread.ids.lane & 1)) fail(text("a lane that is not in its own warp mask 0x%x", mask));
  thread.exchanged = value;
  thread.exchange_source = source % kWarp;
  thread.exchange_mask = mask;
  std::size_t i = 0;
  while (i < warp.rendezvous.size() && warp.rendezvous[i].mask != mask) ++i;
  if (i == warp.rendezvous.size()) warp.rendezvous.push_back({mask, 0});
  Rendezvous& r = warp.rendezvous[i];
  r.arrived |= 1u << thread.ids.lane;
  if (!complete(warp, r)) {
    wait_as(State::kWarp);
    return thread.exchanged;
  }
  const std::uint32_t arrived = r.arrived;
  warp.rendezvous.erase(warp.rendezvous.begin() + long(i));
  exchange(&thread - thread.ids.lane, arrived);
  return thread.exchanged;
}

void sync_warp(std::uint32_t mask) {
  warp_exchange(mask, 0, me().lane);
}

void cluster_arrive() {
  Thread& thread = self();
  if (thread.cluster_arrived) fail("cluster barrier: a second arrive without a wait between them");
  thread.cluster_arrived = true;
  thread.cluster_generation = machine.cluster_generation;
  if (++machine.cluster_arrived == machine.live) pass_cluster_barrier();
}

void cluster_wait() {
  Thread& thread = self();
  if (!thread.cluster_arrived) fail("cluster barrier: wait without arrive");
  ++machine.stats.barrier_waits;
  while (thread.cluster_generation == machine.cluster_generation) wait_as(State::kCluster);
  thread.cluster_arrived = false;
}

// Registers move between the warps of a block; who asks for more than is free waits for others to give back,
// as on the hardware. How many a kernel starts with is the compiler's choice: the most that fit is assumed.
void set_registers(unsigned per_thread) {
  Thread& thread = self();
  Block& block = *thread.block;
  Warp& warp = block.warps[thread.ids.warp];
  thread.registers_wanted = per_thread;
  while (registers_of(block) - warp.registers * kWarp + per_thread * kWarp > block.register_pool) {
    wait_as(State::kRegisters);
  }
  warp.registers = per_thread;
  wake_if(State::kRegisters, [&](Thread& t) { return t.block == &block; });
}

void barriers_without(Thread& ended) {
  Block& block = *ended.block;
  if (block.live && block.barriers[kSyncThreads].arrived == block.live) release(block, kSyncThreads);
  if (machine.live && machine.cluster_arrived == machine.live) pass_cluster_barrier();
  Warp& warp = block.warps[ended.ids.warp];
  warp.absent |= 1u << ended.ids.lane;
  for (std::size_t i = warp.rendezvous.size(); i-- > 0;) {
    if (!complete(warp, warp.rendezvous[i])) continue;
    const std::uint32_t arrived = warp.rendezvous[i].arrived;
    warp.rendezvous.erase(warp.rendezvous.begin() + long(i));
    exchange(&ended - ended.ids.lane, arrived);
  }
}

}  // namespace blip3v::sim

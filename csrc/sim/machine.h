// The simulated machine: one cluster of blocks, its threads, the asynchronous work that is under way. Each
// part of it is moved by the file of its name; sim.h is what device code sees.
#pragma once

#include <array>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "sim/sim.h"
#include "sim/tensor_map.h"

namespace blip3v::sim {

constexpr unsigned kWarp = 32, kWarpgroup = 128, kBarriers = 16;
constexpr std::size_t kPage = 4096, kGuard = 16 * kPage;  // around shared memory and stacks
constexpr int kPoison = 0xff;                             // NaN as bf16, fp16 and fp32

enum class State {
  kRunnable,
  kBarrier,
  kWarp,
  kMbarrier,
  kWgmma,
  kBulkStore,
  kCluster,
  kRegisters,
  kPolling,
  kDone,
};

struct Block;

struct SharedRange {
  Block* block;
  std::uint32_t offset, bytes;
};

struct Thread {
  void* stack_pointer = nullptr;
  Ids ids{};
  Block* block = nullptr;
  unsigned index = 0, number = 0;  // in the cluster, in the block
  State state = State::kRunnable;

  std::uint64_t* mbarrier = nullptr;  // waited for, and the parity of the phase
  std::uint32_t parity = 0;
  std::vector<std::uint64_t*> unfenced_mbarriers;  // initialised by this thread since its last fence
  unsigned barrier = 0;
  std::uint64_t exchanged = 0;  // warp_exchange: given, later received
  unsigned exchange_source = 0;
  std::uint32_t exchange_mask = 0;
  bool cluster_arrived = false;
  std::uint64_t cluster_generation = 0;
  unsigned registers_wanted = 0;
  std::vector<SharedRange> unfenced;  // written by store_shared since the last proxy fence

  std::uint64_t wgmma_issued = 0, wgmma_target = 0;
  std::vector<std::uint64_t> wgmma_groups;  // instructions issued up to each commit
  bool wgmma_fenced = false;

  std::uint32_t bulk_groups = 0, bulk_target = 0;
  bool bulk_open = false;                       // stores issued since the last commit
  std::map<std::uint32_t, unsigned> bulk_left;  // group -> stores under way
};

// ---- what a block holds
// ------------------------------------------------------------------------------------------

struct NamedBarrier {
  unsigned arrived = 0, expected = 0;
};

struct Rendezvous {
  std::uint32_t mask, arrived;
};

struct WgmmaInstruction {
  Wgmma op;
  std::array<const std::uint32_t*, kWarpgroup> a;
  std::array<float*, kWarpgroup> d;
  unsigned issued = 0;  // by so many threads
};
struct Warpgroup {
  std::deque<WgmmaInstruction> queue;
  std::uint64_t executed = 0;
};

// One instruction of a warp that touches shared memory, gathered lane by lane.
struct WarpAccess {
  std::uint32_t lanes = 0, bytes = 0;
  std::array<std::uint32_t, kWarp> offset;
};
struct CallSite {
  std::array<std::uint32_t, kWarp> executed{};  // by each lane
  std::uint32_t first = 0;                      // the number of pending.front()
  std::deque<WarpAccess> pending;
};
struct Warp {
  std::vector<Rendezvous> rendezvous;
  std::uint32_t absent = 0;  // lanes that do not exist or have ended
  unsigned registers = 0;    // per thread
  std::unordered_map<const void*, CallSite> sites;
};

struct Block {
  char* shared = nullptr;  // what threads see (generic proxy)
  std::vector<char> view;  // what TMA stores and wgmma see (async proxy)
  bool publish = false;    // a proxy fence has happened since `view` was brought up to date
  std::vector<std::uint16_t>
      unfenced_by;  // per 4 bytes: 1 + index of the thread whose store waits for a fence
  std::array<NamedBarrier, kBarriers> barriers;  // 0 is __syncthreads
  std::vector<Warp> warps;
  std::vector<Warpgroup> warpgroups;
  unsigned live = 0;           // threads that have not ended
  unsigned rank = 0;           // in the cluster
  unsigned register_pool = 0;  // what the launch gave to all threads together
};

struct TmaOperation {
  bool store = false;
  Store kind = Store::kWrite;
  TensorMap map;
  std::array<int, 5> at;
  struct Target {
    Block* block;
    char* shared;
    std::uint64_t* mbarrier;
  } target;
  bool counted = true;  // the first of a multicast's copies stands for its traffic
  unsigned thread = 0;  // whose bulk group it belongs to
  std::uint32_t group = 0;
};

struct Random {
  std::uint64_t state = 1;
  std::uint64_t next() {
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
  }
  unsigned below(std::size_t n) { return unsigned((next() >> 20) % n); }
  bool chance(unsigned of_256) { return below(256) < of_256; }
};

// What kRandom draws for each cluster. Speeds: 0 is only when every thread is stuck, 3 at issue.
struct Temper {
  int tma_speed = 0, wgmma_speed = 0;
  std::uint64_t late_salt = 0;  // not 0: the data of some barriers is always the last to arrive
  bool by_priority = false;     // some warps fall far behind
  std::vector<unsigned> warp_order;
};

struct Machine {
  Options options;
  Stats stats;
  std::string error;  // not empty: the launch has failed
  LaunchConfig config;
  std::size_t shared_bytes = 0;  // rounded up
  const std::function<void()>* body = nullptr;

  std::vector<Thread> threads;
  Thread* current = nullptr;
  std::vector<std::unique_ptr<Block>> blocks;
  std::vector<std::uint64_t> runnable;  // one bit per thread
  unsigned cursor = 0, live = 0;
  std::vector<TmaOperation> tma;
  unsigned cluster_arrived = 0;
  std::uint64_t cluster_generation = 0;
  Random random;
  Temper temper;
  std::map<const char*, std::size_t> buffers;  // declared global memory
};
extern Machine machine;

inline Thread& self() {
  return *machine.current;
}

// ---- fiber.cpp: stacks and switching
// -----------------------------------------------------------------------------
char* map_guarded(
    std::size_t bytes);  // between two guard pages, ends exactly at the second when bytes are pages
void unmap_guarded(char* base, std::size_t bytes);
void prepare_fiber(Thread& thread);  // its next resume() starts the body
void resume(Thread& thread);         // from the scheduler, until the thread suspends
void suspend();                      // from a fiber, back to the scheduler
bool in_stack_guard(const char* address);

// ---- scheduler.cpp
// -----------------------------------------------------------------------------------------------
void run_cluster();         // until every thread has ended or machine.error is set
void wait_as(State state);  // takes the current thread off the processor
void wake(Thread& thread);
template <typename Condition>
void wake_if(State state, Condition condition) {
  for (Thread& t : machine.threads) {
    if (t.state == state && condition(t)) wake(t);
  }
}
bool done_at_issue(int speed);

// ---- tma.cpp, wgmma.cpp: engines
// ---------------------------------------------------------------------------------
bool run_one_tma();
bool run_one_wgmma();
void require_no_stores_left(const Thread& ending);
void require_no_wgmma_left(const Thread& ending);

// ---- barriers.cpp, mbarrier.cpp
// ----------------------------------------------------------------------------------
void barriers_without(Thread& ended);                  // those it will never reach
void require_fenced_mbarrier(const std::uint64_t* b);  // before TMA may signal it
std::string describe_mbarrier(const std::uint64_t* b);

// ---- shared.cpp, traffic.cpp
// -------------------------------------------------------------------------------------
Block* block_of(const void* p);  // nullptr outside shared memory
std::uint32_t offset_in(const Block& block, const void* p);
void written_by_store(Block& block, std::uint32_t offset, std::size_t bytes);
const char* async_view(Block& block);  // of the whole shared memory, brought up to date
void overwrite_async(Block& block, std::uint32_t offset, std::size_t bytes);  // in flight: nobody may look
void require_global(const char* p, std::size_t bytes, const char* what);
void count_remaining_accesses(Block& block);

// ---- report.cpp
// --------------------------------------------------------------------------------------------------
struct EngineFault {};  // thrown by fail() on the scheduler's own stack; the message is in machine.error
template <typename... Values>
std::string text(const char* format, Values... values) {
  char buffer[512];
  std::snprintf(buffer, sizeof buffer, format, values...);
  return buffer;
}
std::string who(const Thread& thread);
std::string describe_deadlock();
void run_guarded(void (*work)());  // until it returns, a fault of the CPU ends the launch with a report

}  // namespace blip3v::sim

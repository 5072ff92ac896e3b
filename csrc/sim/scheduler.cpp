// Which thread runs next, and when asynchronous work is done. A thread runs until it waits, ends, or is
// interrupted by kRandom; between two such points nothing else happens.
#include "sim/machine.h"

// The CUDA built-in variables of the running thread; prelude.h declares them const.
struct BuiltIn {
  unsigned x, y, z;
};
extern "C++" {
__attribute__((visibility("hidden"))) BuiltIn threadIdx, blockIdx, blockDim, gridDim;
}

namespace blip3v::sim {
namespace {

bool is(Schedule schedule) {
  return machine.options.schedule == schedule;
}

std::uint64_t& word_of(const Thread& t) {
  return machine.runnable[t.index / 64];
}

std::uint64_t bit_of(const Thread& t) {
  return std::uint64_t(1) << t.index % 64;
}

// First runnable thread with an index of at least `from`, cyclically.
Thread* next_runnable(unsigned from) {
  const unsigned words = unsigned(machine.runnable.size());
  for (unsigned k = 0; k <= words; ++k) {
    const unsigned word = (from / 64 + k) % words;
    std::uint64_t bits = machine.runnable[word];
    if (k == 0) bits &= ~std::uint64_t(0) << from % 64;
    if (bits) return &machine.threads[word * 64 + unsigned(__builtin_ctzll(bits))];
  }
  return nullptr;
}

Thread* last_runnable() {
  for (std::size_t word = machine.runnable.size(); word-- > 0;) {
    const std::uint64_t bits = machine.runnable[word];
    if (bits) return &machine.threads[word * 64 + 63 - unsigned(__builtin_clzll(bits))];
  }
  return nullptr;
}

Thread* any_of_first_warp() {
  for (unsigned warp : machine.temper.warp_order) {
    const std::uint32_t lanes = std::uint32_t(machine.runnable[warp / 2] >> warp % 2 * 32);
    if (!lanes) continue;
    const unsigned turn = machine.random.below(32);
    const std::uint32_t turned = turn ? lanes >> turn | lanes << (32 - turn) : lanes;
    return &machine.threads[warp * kWarp + (unsigned(__builtin_ctz(turned)) + turn) % 32];
  }
  return nullptr;
}

Thread* pick() {
  if (is(Schedule::kReverse)) return last_runnable();
  if (is(Schedule::kRandom)) {
    if (machine.temper.by_priority) return any_of_first_warp();
    return next_runnable(machine.random.below(machine.threads.size()));
  }
  Thread* thread = next_runnable(machine.cursor);
  if (thread) machine.cursor = thread->index;
  return thread;
}

void shuffle_warps() {
  std::vector<unsigned>& order = machine.temper.warp_order;
  order.resize((machine.threads.size() + kWarp - 1) / kWarp);
  for (unsigned i = 0; i < order.size(); ++i) {
    order[i] = i;
    std::swap(order[i], order[machine.random.below(i + 1)]);
  }
}

void draw_temper() {
  Temper& t = machine.temper;
  t = Temper{};
  if (!is(Schedule::kRandom)) return;
  Random& random = machine.random;
  t.tma_speed = int(random.below(4));
  t.wgmma_speed = int(random.below(4));
  t.by_priority = random.chance(128);
  t.late_salt = random.chance(128) ? random.next() : 0;
  shuffle_warps();
}

void maybe_async() {
  static constexpr unsigned kOf256[] = {0, 4, 48, 0};  // by speed; 3 is done at issue
  if (machine.random.chance(kOf256[machine.temper.tma_speed])) run_one_tma();
  if (machine.random.chance(kOf256[machine.temper.wgmma_speed])) run_one_wgmma();
}

// No thread can run: the faster engine does one piece of work.
bool run_one_async() {
  const Temper& t = machine.temper;
  bool tma_first = is(Schedule::kForward);
  if (is(Schedule::kRandom)) {
    tma_first = t.tma_speed == t.wgmma_speed ? machine.random.chance(128) : t.tma_speed > t.wgmma_speed;
  }
  return tma_first ? run_one_tma() || run_one_wgmma() : run_one_wgmma() || run_one_tma();
}

bool wake_polling() {
  bool any = false;
  wake_if(State::kPolling, [&](Thread&) { return any = true; });
  return any;
}

void enter(Thread& thread) {
  const auto built_in = [](Dim3 d) { return BuiltIn{d.x, d.y, d.z}; };
  threadIdx = built_in(thread.ids.thread);
  blockIdx = built_in(thread.ids.block);
  blockDim = built_in(thread.ids.block_dim);
  gridDim = built_in(thread.ids.grid_dim);
  machine.current = &thread;
  ++machine.stats.switches;
  resume(thread);
  machine.current = nullptr;
}

}  // namespace

void wait_as(State state) {
  Thread& thread = self();
  thread.state = state;
  if (state != State::kRunnable) word_of(thread) &= ~bit_of(thread);
  suspend();
}

void wake(Thread& thread) {
  thread.state = State::kRunnable;
  word_of(thread) |= bit_of(thread);
}

bool done_at_issue(int speed) {
  return is(Schedule::kForward) || (is(Schedule::kRandom) && speed == 3);
}

void preempt() {
  Machine& m = machine;
  if (!is(Schedule::kRandom) || !m.current || !m.random.chance(32)) return;
  if (m.temper.by_priority && m.random.chance(16)) shuffle_warps();
  wait_as(State::kRunnable);
}

// The manual leaves the choice open; CUTLASS counts on lane 0, so lane 0 it is.
bool elect_one() {
  sync_warp(~0u);
  return me().lane == 0;
}

void run_cluster() {
  constexpr int kFruitlessPolls =
      64;  // rounds in which every thread only polled: nobody will change anything
  int polls = 0;
  draw_temper();
  while (machine.live && machine.error.empty()) {
    ++machine.stats.schedule_points;
    if (is(Schedule::kRandom)) maybe_async();
    if (Thread* thread = pick()) {
      enter(*thread);
      if (thread->state != State::kPolling) polls = 0;
    } else if (!run_one_async() && !(++polls < kFruitlessPolls && wake_polling())) {
      machine.error = describe_deadlock();
    }
  }
  while (machine.error.empty() && run_one_async()) {
  }
}

}  // namespace blip3v::sim

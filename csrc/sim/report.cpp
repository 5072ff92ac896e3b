// How a launch ends when a kernel breaks a rule: what happened, which block and thread, and for a deadlock
// who waits for what.
#include <execinfo.h>
#include <setjmp.h>
#include <signal.h>

#include <cstdlib>
#include <map>

#include "sim/machine.h"

namespace blip3v::sim {
namespace {

// SIGSEGV and its kin end the launch while this lives, and go where they went before afterwards.
class SignalScope {
 public:
  SignalScope() {
    static char stack[64 << 10];  // a fault may be an overflow of the fiber's own stack
    stack_t alternate{};
    alternate.ss_sp = stack;
    alternate.ss_size = sizeof stack;
    sigaltstack(&alternate, &previous_stack_);
    struct sigaction action{};
    action.sa_sigaction = &handle;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (int i = 0; i < kSignals; ++i) sigaction(kNumber[i], &action, &previous_[i]);
    active_ = true;
  }
  ~SignalScope() {
    active_ = false;
    for (int i = 0; i < kSignals; ++i) sigaction(kNumber[i], &previous_[i], nullptr);
    sigaltstack(&previous_stack_, nullptr);
  }
  SignalScope(const SignalScope&) = delete;
  SignalScope& operator=(const SignalScope&) = delete;

  static sigjmp_buf scheduler;

 private:
  static void handle(int number, siginfo_t* info, void*);

  static constexpr int kSignals = 4;
  static constexpr int kNumber[kSignals] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
  static thread_local bool active_;
  stack_t previous_stack_;
  struct sigaction previous_[kSignals];
};
sigjmp_buf SignalScope::scheduler;
thread_local bool SignalScope::active_ = false;

std::string describe_signal(int number, const char* address) {
  if (number == SIGILL) return "trap: a check inside the kernel or CUTLASS failed";
  if (number == SIGFPE) return "arithmetic fault: an integer division by zero";
  for (auto& block : machine.blocks) {
    const long offset = address - block->shared;
    if (offset >= -long(kGuard) && offset < long(machine.shared_bytes + kGuard)) {
      return text("access outside shared memory: offset %ld of a block with %zu bytes", offset,
                  machine.config.shared_bytes);
    }
  }
  if (in_stack_guard(address)) return "a thread's stack is full: too many or too large local variables";
  return text("access to unmapped memory at %p", static_cast<const void*>(address));
}

void SignalScope::handle(int number, siginfo_t* info, void*) {
  if (!active_) {  // another thread's fault is not ours: let it happen again, without us
    signal(number, SIG_DFL);
    return;
  }
  machine.error = describe_signal(number, static_cast<const char*>(info->si_addr));
  if (machine.current) {
    machine.error += " [" + who(*machine.current) + "]";
    suspend();  // never resumed
  }
  siglongjmp(scheduler, 1);
}

std::string waits_for(const Thread& t) {
  const Block& block = *t.block;
  switch (t.state) {
    case State::kMbarrier:
      return text("mbarrier wait for parity %u ", t.parity) + describe_mbarrier(t.mbarrier);
    case State::kBarrier: {
      const NamedBarrier& b = block.barriers[t.barrier];
      const std::string name = t.barrier ? text("named barrier %u", t.barrier) : "__syncthreads";
      return name + text(" (%u of %u threads arrived)", b.arrived, b.expected);
    }
    case State::kWarp:
      return text("warp synchronisation or shuffle (other lanes of the mask 0x%x are missing)",
                  t.exchange_mask);
    case State::kWgmma:
      return text("wgmma wait (not all 128 threads of warpgroup %u issued the same instructions)",
                  t.number / kWarpgroup);
    case State::kBulkStore:
      return "wait for TMA stores";
    case State::kCluster:
      return text("cluster barrier (%u of %u threads arrived)", machine.cluster_arrived, machine.live);
    case State::kRegisters:
      return text("setmaxnreg: wants %u registers per thread, the block has %u in all", t.registers_wanted,
                  block.register_pool);
    case State::kPolling:
      return "polling an mbarrier or sleeping";
    default:
      return "runnable";
  }
}

}  // namespace

std::string who(const Thread& thread) {
  const Ids& i = thread.ids;
  return text("block (%u,%u,%u) thread %u = warp %u lane %u", i.block.x, i.block.y, i.block.z, thread.number,
              i.warp, i.lane);
}

void fail(const std::string& what) {
  machine.error = what;
  if (machine.current) machine.error += " [" + who(*machine.current) + "]";
  if (std::getenv("BLIP3V_SIM_BACKTRACE")) {  // for addr2line -Cfie on the module
    void* frames[24];
    backtrace_symbols_fd(frames, backtrace(frames, 24), 2);
  }
  if (!machine.current) throw EngineFault{};
  suspend();
  std::abort();  // a failed thread is never resumed
}

std::string describe_deadlock() {
  struct Group {
    const Thread *first, *last;
    unsigned count;
  };
  std::map<std::string, Group> groups;
  for (const Thread& t : machine.threads) {
    if (t.state == State::kDone) continue;
    const Dim3 b = t.ids.block;
    Group& g = groups.try_emplace(text("block (%u,%u,%u): ", b.x, b.y, b.z) + waits_for(t), Group{&t, &t, 0})
                   .first->second;
    g.last = &t;
    ++g.count;
  }
  std::string report = "deadlock: no thread can run and no asynchronous work is under way";
  for (const auto& [what, g] : groups) {
    report += text("\n  %u threads (first %u, last %u) in ", g.count, g.first->number, g.last->number) + what;
  }
  return report;
}

void run_guarded(void (*work)()) {
  SignalScope signals;
  if (sigsetjmp(SignalScope::scheduler, 1)) return;  // machine.error says why
  try {
    work();
  } catch (const EngineFault&) {
  }
}

}  // namespace blip3v::sim

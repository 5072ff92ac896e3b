// mbarriers. The state lives in the 64-bit word itself, as on the hardware, so overwriting a barrier is
// noticed.
#include <cstring>

#include "sim/machine.h"

namespace blip3v::sim {
namespace {

constexpr std::uint64_t kFresh = 0x15;  // initialised, and no fence since
constexpr std::uint64_t kValid = 0x2a;
constexpr std::int64_t kBias = 1 << 24;
constexpr std::int64_t kMostBytes = (1 << 20) - 1;

struct Word {
  std::uint64_t mark : 6, phase : 1, expected : 16, pending : 16, bytes : 25;  // bytes is biased by kBias
};
static_assert(sizeof(Word) == 8, "");

std::string name(const std::uint64_t* b) {
  return text("mbarrier at shared offset 0x%x", shared_address(b) & 0xffffff);
}

Word read(const std::uint64_t* b) {
  const Block* block = block_of(b);
  if (!block) fail("mbarrier: the address is not in shared memory");
  if (reinterpret_cast<std::uintptr_t>(b) % 8) fail(name(b) + " is not 8-byte aligned");
  if (block->live == 0) fail(text("mbarrier of block rank %u, which has ended", block->rank));
  Word w;
  std::memcpy(&w, b, 8);
  if (w.mark != kValid && w.mark != kFresh) {
    fail(name(b) +
         text(" is used before init, or was overwritten (its word is 0x%016llx)", (unsigned long long)*b));
  }
  return w;
}

void write(std::uint64_t* b, Word w) {
  const bool completes = w.pending == 0 && std::int64_t(w.bytes) == kBias;
  if (completes) {
    w.phase ^= 1;
    w.pending = w.expected;
  }
  std::memcpy(b, &w, 8);
  if (completes) wake_if(State::kMbarrier, [&](Thread& t) { return t.mbarrier == b && w.phase != t.parity; });
}

void add_bytes(const std::uint64_t* b, Word& w, std::int64_t bytes) {
  const std::int64_t now = std::int64_t(w.bytes) - kBias + bytes;
  if (now > kMostBytes || now < -kMostBytes) fail(name(b) + ": more transaction bytes than it can count");
  w.bytes = std::uint64_t(now + kBias) & ((1u << 25) - 1);
}

void require_parity(std::uint32_t parity) {
  if (parity > 1) fail(text("mbarrier wait: parity %u is neither 0 nor 1", parity));
}

}  // namespace

void mbarrier_init(std::uint64_t* b, std::uint32_t arrivals) {
  if (!block_of(b)) fail("mbarrier init: the address is not in shared memory");
  if (reinterpret_cast<std::uintptr_t>(b) % 8) fail(name(b) + " is not 8-byte aligned");
  if (arrivals < 1 || arrivals > 0xffff) fail(name(b) + text(": init with %u arrivals", arrivals));
  const Word w{kFresh, 0, arrivals, arrivals, std::uint64_t(kBias)};
  std::memcpy(b, &w, 8);
  self().unfenced_mbarriers.push_back(b);
}

void mbarrier_invalidate(std::uint64_t* b) {
  read(b);
  *b = 0;
}

void fence_mbarrier_init() {
  for (std::uint64_t* b : self().unfenced_mbarriers) {
    Word w;
    std::memcpy(&w, b, 8);
    if (w.mark == kFresh) w.mark = kValid;
    std::memcpy(b, &w, 8);
  }
  self().unfenced_mbarriers.clear();
}

void require_fenced_mbarrier(const std::uint64_t* b) {
  if (read(b).mark == kFresh)
    fail(name(b) + " is given to TMA without a fence after its init (fence_barrier_init)");
}

void mbarrier_arrive(std::uint64_t* b) {
  Word w = read(b);
  if (w.pending == 0) {
    fail(name(b) + text(": more arrivals than its count of %u in one phase", unsigned(w.expected)));
  }
  --w.pending;
  write(b, w);
  preempt();
}

void mbarrier_expect_bytes(std::uint64_t* b, std::uint32_t bytes) {
  Word w = read(b);
  add_bytes(b, w, bytes);
  std::memcpy(b, &w, 8);  // only an arrival or the bytes themselves complete a phase
}

void mbarrier_complete_bytes(std::uint64_t* b, std::uint32_t bytes) {
  Word w = read(b);
  add_bytes(b, w, -std::int64_t(bytes));
  write(b, w);
}

bool mbarrier_test(std::uint64_t* b, std::uint32_t parity) {
  require_parity(parity);
  if (read(b).phase == parity)
    wait_as(State::kPolling);
  else
    preempt();
  const bool completed = read(b).phase != parity;
  machine.stats.mbarrier_waits += completed;
  return completed;
}

void mbarrier_wait(std::uint64_t* b, std::uint32_t parity) {
  require_parity(parity);
  Thread& thread = self();
  while (read(b).phase == parity) {
    thread.mbarrier = b;
    thread.parity = parity;
    wait_as(State::kMbarrier);
  }
  ++machine.stats.mbarrier_waits;
  preempt();
}

std::string describe_mbarrier(const std::uint64_t* b) {
  Word w;
  std::memcpy(&w, b, 8);
  return text(
      "at shared offset 0x%x (phase bit %u, %u of %u arrivals missing, %lld transaction bytes outstanding)",
      shared_address(b) & 0xffffff, unsigned(w.phase), unsigned(w.pending), unsigned(w.expected),
      (long long)w.bytes - (long long)kBias);
}

}  // namespace blip3v::sim

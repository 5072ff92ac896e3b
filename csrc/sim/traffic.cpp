// Ordinary accesses of kernels (csrc/common/memory.cuh): checked, counted, and for shared memory put together
// again into the instructions of a warp, because bank conflicts arise between its lanes.
//
// The k-th time that a lane comes past a call site belongs to the same instruction as the k-th time of its
// neighbours. Where lanes go round a loop different numbers of times that guess is wrong, and the count with
// it.
#include <algorithm>
#include <iterator>

#include "sim/machine.h"

namespace blip3v::sim {
namespace {

constexpr std::uint32_t kBanks = 32, kBankBytes = 4;

const char* name(Access kind) {
  return kind == Access::kLoad ? "load" : "store";
}

// Memory serves 128 bytes at a time: all lanes when each moves at most 4 bytes, 16 of them at 8 bytes, 8
// at 16. Lanes that want different words of one bank take turns.
unsigned extra_wavefronts(const WarpAccess& access) {
  const unsigned lanes_at_once = std::min(kWarp, kBanks * kBankBytes / std::max(access.bytes, kBankBytes));
  const unsigned words_per_lane = std::max(access.bytes / kBankBytes, 1u);
  unsigned extra = 0;
  for (unsigned first = 0; first < kWarp; first += lanes_at_once) {
    std::array<std::array<std::uint32_t, kWarp>, kBanks> words;
    std::array<unsigned, kBanks> count{};
    unsigned wavefronts = 1;
    for (unsigned lane = first; lane < first + lanes_at_once; ++lane) {
      if (!(access.lanes >> lane & 1)) continue;
      for (unsigned i = 0; i < words_per_lane; ++i) {
        const std::uint32_t word = access.offset[lane] / kBankBytes + i;
        const std::uint32_t bank = word % kBanks;
        const auto end = words[bank].begin() + count[bank];
        if (std::find(words[bank].begin(), end, word) == end) words[bank][count[bank]++] = word;
        wavefronts = std::max(wavefronts, count[bank]);
      }
    }
    extra += wavefronts - 1;
  }
  return extra;
}

void count(const WarpAccess& access) {
  ++machine.stats.shared_accesses;
  machine.stats.shared_conflicts += extra_wavefronts(access);
}

void gather(CallSite& site, unsigned lane, std::uint32_t offset, std::uint32_t bytes) {
  const std::uint32_t number = site.executed[lane]++;
  while (site.first + site.pending.size() <= number) site.pending.emplace_back();
  WarpAccess& access = site.pending[number - site.first];
  access.lanes |= 1u << lane;
  access.bytes = bytes;
  access.offset[lane] = offset;
  while (!site.pending.empty() && site.pending.front().lanes == ~0u) {
    count(site.pending.front());
    site.pending.pop_front();
    ++site.first;
  }
}

void require_aligned(const void* p, std::size_t bytes, const char* what, Access kind) {
  if (reinterpret_cast<std::uintptr_t>(p) % bytes) {
    fail(text("%s %s of %zu bytes at %p, which is not aligned to them", what, name(kind), bytes, p));
  }
}

}  // namespace

void require_global(const char* p, std::size_t bytes, const char* what) {
  if (machine.buffers.empty()) return;
  auto after = machine.buffers.upper_bound(p);
  if (after != machine.buffers.begin()) {
    const auto& [base, size] = *std::prev(after);
    if (p + bytes <= base + size) return;
    fail(text("%s of %zu bytes at %p, %zu bytes into a buffer of %zu", what, bytes,
              static_cast<const void*>(p), std::size_t(p - base), size));
  }
  fail(text("%s of %zu bytes at %p, in front of every declared buffer", what, bytes,
            static_cast<const void*>(p)));
}

void global_access(const void* p, std::size_t bytes, Access kind) {
  preempt();
  require_aligned(p, bytes, "global", kind);
  if (in_shared(p)) fail(text("global %s at an address in shared memory", name(kind)));
  require_global(static_cast<const char*>(p), bytes, kind == Access::kLoad ? "global load" : "global store");
  (kind == Access::kLoad ? machine.stats.global_load_bytes : machine.stats.global_store_bytes) += bytes;
}

__attribute__((noinline)) void shared_access(const void* p, std::size_t bytes, Access kind) {
  const void* call_site = __builtin_return_address(0);
  preempt();
  require_aligned(p, bytes, "shared", kind);
  Block* block = block_of(p);
  if (!block) fail(text("shared %s at %p, which is not in shared memory", name(kind), p));
  const std::uint32_t offset = offset_in(*block, p);
  if (offset + bytes > machine.config.shared_bytes) {
    fail(text("shared %s at offset 0x%x, beyond the %zu bytes of the block", name(kind), offset,
              machine.config.shared_bytes));
  }
  if (block->live == 0) fail(text("shared %s in block rank %u, which has ended", name(kind), block->rank));
  if (kind == Access::kStore) written_by_store(*block, offset, bytes);
  Thread& thread = self();
  if (block == thread.block) {
    gather(block->warps[thread.ids.warp].sites[call_site], thread.ids.lane, offset, std::uint32_t(bytes));
  } else {
    machine.stats.remote_shared_bytes += bytes;
  }
}

// Instructions that some lanes never executed.
void count_remaining_accesses(Block& block) {
  for (Warp& warp : block.warps) {
    for (auto& [address, site] : warp.sites) {
      for (const WarpAccess& access : site.pending) {
        if (access.lanes) count(access);
      }
    }
    warp.sites.clear();
  }
}

}  // namespace blip3v::sim

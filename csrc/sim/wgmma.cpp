// The wgmma engine: D[64][n] (+)= A[64][16] B[n][16]^T for a warpgroup. An instruction exists once all 128
// threads have issued it. Operands (shared memory, A registers) are read and accumulators written when the
// schedule gets to it, at the latest when every thread waits, so a register touched too early shows.
#include <immintrin.h>

#include <cstring>

#include "sim/machine.h"

namespace blip3v::sim {
namespace {

constexpr int kRows = 64, kDepth = 16, kMostColumns = 256;

// A shared-memory matrix descriptor: addresses and strides in bytes.
struct Descriptor {
  std::uint32_t start, leading, stride;
  unsigned swizzle;
};

Descriptor decode(std::uint64_t bits) {
  static constexpr unsigned kSwizzle[] = {0, 3, 2, 1};  // of the hardware's codes: none, 128B, 64B, 32B
  if (bits >> 49 & 7) fail("not simulated: a wgmma descriptor with a base offset");
  const auto address = [&](int shift) { return std::uint32_t(bits >> shift & 0x3fff) << 4; };
  return {address(0), address(16), address(32), kSwizzle[bits >> 62]};
}

// Where the 16-byte chunk that starts at (mn, k) lies, by the canonical layouts of the PTX manual.
std::uint32_t chunk_offset(const Descriptor& d, bool mn_major, unsigned mn, unsigned k) {
  const std::uint32_t span = kSwizzleSpan[d.swizzle], per_span = span / 2;
  std::uint32_t offset;
  if (!mn_major && d.swizzle)
    offset = mn % 8 * span + mn / 8 * d.stride + k * 2;
  else if (!mn_major)
    offset = mn % 8 * 16 + mn / 8 * d.stride + k / 8 * d.leading;
  else if (d.swizzle)
    offset = mn % per_span * 2 + mn / per_span * d.leading + k % 8 * span + k / 8 * d.stride;
  else
    offset = mn / 8 * d.stride + k % 8 * 16 + k / 8 * d.leading;
  return swizzled(d.start + offset, d.swizzle);
}

float to_float(std::uint16_t bits, bool fp16) {
  if (fp16) return _cvtsh_ss(bits);
  const std::uint32_t wide = std::uint32_t(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

struct Operand {
  std::uint64_t descriptor;
  bool mn_major, fp16;
  unsigned count;  // rows of A or columns of B
};

// Reads [count][16], or [16][count] transposed.
void read_operand(const Operand& operand, const Thread& issuer, const char* shared, bool transposed,
                  float* out) {
  const Descriptor d = decode(operand.descriptor);
  const bool mn_major = operand.mn_major;
  const unsigned count = operand.count;
  const unsigned mn_step = mn_major ? 8 : 1, k_step = mn_major ? 1 : 8;
  for (unsigned mn = 0; mn < count; mn += mn_step) {
    for (unsigned k = 0; k < kDepth; k += k_step) {
      const std::uint32_t offset = chunk_offset(d, mn_major, mn, k);
      if (offset + 16 > machine.config.shared_bytes) {
        fail(text("wgmma, issued by %s, reads shared offset 0x%x, beyond the %zu bytes of the block",
                  who(issuer).c_str(), offset, machine.config.shared_bytes));
      }
      std::uint16_t chunk[8];
      std::memcpy(chunk, shared + offset, sizeof chunk);
      for (unsigned e = 0; e < 8; ++e) {
        const unsigned i = mn_major ? mn + e : mn, j = mn_major ? k : k + e;
        out[transposed ? j * count + i : i * kDepth + j] = to_float(chunk[e], operand.fp16);
      }
    }
  }
}

// Fragments of m64 tiles: a thread holds rows lane / 4 and + 8 of its warp's 16, pairs of columns lane % 4 *
// 2, + 8 ...
unsigned row_of(unsigned thread, unsigned half) {
  return thread / kWarp * 16 + thread % kWarp / 4 + half * 8;
}
unsigned column_of(unsigned thread, unsigned group, unsigned element) {
  return group * 8 + thread % 4 * 2 + element;
}

void read_registers(const WgmmaInstruction& w, float* a) {
  for (unsigned t = 0; t < kWarpgroup; ++t) {
    for (unsigned r = 0; r < 4; ++r) {
      for (unsigned e = 0; e < 2; ++e) {
        const std::uint16_t bits = std::uint16_t(w.a[t][r] >> 16 * e);
        a[row_of(t, r & 1) * kDepth + column_of(t, r >> 1, e)] = to_float(bits, w.op.fp16);
      }
    }
  }
}

template <typename Move>
void each_accumulator(const std::array<float*, kWarpgroup>& registers, unsigned n, float* tile, Move move) {
  for (unsigned t = 0; t < kWarpgroup; ++t) {
    for (unsigned i = 0; i < n / 2; ++i) {
      move(tile[row_of(t, i >> 1 & 1) * n + column_of(t, i >> 2, i & 1)], registers[t][i]);
    }
  }
}

// d[64][n] += a[64][16] b[16][n]: a block of 4 x 8 stays in registers.
void multiply(float* d, const float* a, const float* b, unsigned n) {
  constexpr unsigned kRowBlock = 4, kColumnBlock = 8;
  for (unsigned row = 0; row < kRows; row += kRowBlock) {
    for (unsigned column = 0; column < n; column += kColumnBlock) {
      float sum[kRowBlock][kColumnBlock];
      for (unsigned r = 0; r < kRowBlock; ++r) {
        std::memcpy(sum[r], d + (row + r) * n + column, sizeof sum[r]);
      }
      for (unsigned k = 0; k < unsigned(kDepth); ++k) {
        for (unsigned r = 0; r < kRowBlock; ++r) {
          const float factor = a[(row + r) * kDepth + k];
          for (unsigned c = 0; c < kColumnBlock; ++c) sum[r][c] += factor * b[k * n + column + c];
        }
      }
      for (unsigned r = 0; r < kRowBlock; ++r) {
        std::memcpy(d + (row + r) * n + column, sum[r], sizeof sum[r]);
      }
    }
  }
}

bool ready(const Warpgroup& group) {
  return !group.queue.empty() && group.queue.front().issued == kWarpgroup;
}

// Runs the instructions that are ready and share one accumulator tile.
void execute(Block& block, unsigned which) {
  static float d[kRows * kMostColumns], a[kRows * kDepth], b[kDepth * kMostColumns];
  Warpgroup& group = block.warpgroups[which];
  const unsigned n = unsigned(group.queue.front().op.n);
  const auto registers = group.queue.front().d;
  const char* shared = async_view(block);
  const Thread& issuer = machine.threads[block.rank * machine.config.block.count() + which * kWarpgroup];
  each_accumulator(registers, n, d, [](float& element, float& reg) { element = reg; });
  while (ready(group) && group.queue.front().d == registers && unsigned(group.queue.front().op.n) == n) {
    const WgmmaInstruction& w = group.queue.front();
    if (!w.op.accumulate) std::memset(d, 0, sizeof(float) * kRows * n);
    if (w.op.a_in_registers)
      read_registers(w, a);
    else
      read_operand({w.op.a, w.op.a_mn_major, w.op.fp16, kRows}, issuer, shared, false, a);
    read_operand({w.op.b, w.op.b_mn_major, w.op.fp16, n}, issuer, shared, true, b);
    if (w.op.sign != 1.f) {
      for (float& value : a) value *= w.op.sign;
    }
    multiply(d, a, b, n);
    machine.stats.wgmma_flops += 2ull * kRows * n * kDepth;
    group.queue.pop_front();
    ++group.executed;
    if (machine.options.schedule == Schedule::kRandom && machine.random.chance(64)) break;
  }
  each_accumulator(registers, n, d, [](float& element, float& reg) { reg = element; });
  wake_if(State::kWgmma, [&](Thread& t) {
    return t.block == &block && t.number / kWarpgroup == which && t.wgmma_target <= group.executed;
  });
}

}  // namespace

bool run_one_wgmma() {
  std::vector<std::pair<Block*, unsigned>> candidates;
  for (auto& block : machine.blocks) {
    for (unsigned g = 0; g < block->warpgroups.size(); ++g) {
      if (ready(block->warpgroups[g])) candidates.emplace_back(block.get(), g);
    }
  }
  if (candidates.empty()) return false;
  std::size_t chosen = 0;
  if (machine.options.schedule == Schedule::kReverse) chosen = candidates.size() - 1;
  if (machine.options.schedule == Schedule::kRandom) chosen = machine.random.below(candidates.size());
  execute(*candidates[chosen].first, candidates[chosen].second);
  return true;
}

void wgmma(const Wgmma& op, const std::uint32_t* a, float* d) {
  Thread& thread = self();
  const unsigned which = thread.number / kWarpgroup, place = thread.number % kWarpgroup;
  if (which >= thread.block->warpgroups.size()) fail("wgmma by threads that are not a whole warpgroup");
  if (!thread.wgmma_fenced) fail("wgmma without a fence (warpgroup_arrive) since the last wait");
  Warpgroup& group = thread.block->warpgroups[which];
  const std::uint64_t at = thread.wgmma_issued - group.executed;
  if (at == group.queue.size()) {
    group.queue.emplace_back();
    group.queue.back().op = op;
  }
  WgmmaInstruction& w = group.queue[at];
  const Wgmma& o = w.op;
  if (o.n != op.n || o.fp16 != op.fp16 || o.a_mn_major != op.a_mn_major || o.b_mn_major != op.b_mn_major ||
      o.a_in_registers != op.a_in_registers || o.accumulate != op.accumulate || o.sign != op.sign ||
      o.a != op.a || o.b != op.b) {
    fail("wgmma: the threads of a warpgroup disagree on descriptors or shape");
  }
  w.a[place] = a;
  w.d[place] = d;
  ++thread.wgmma_issued;
  if (++w.issued == kWarpgroup && at == 0 && done_at_issue(machine.temper.wgmma_speed))
    execute(*thread.block, which);
  preempt();
}

void wgmma_fence() {
  self().wgmma_fenced = true;
}

void wgmma_commit() {
  self().wgmma_groups.push_back(self().wgmma_issued);
}

void wgmma_wait(unsigned groups_left) {
  Thread& thread = self();
  if (thread.wgmma_groups.size() <= groups_left) return;
  thread.wgmma_fenced = false;
  thread.wgmma_target = thread.wgmma_groups[thread.wgmma_groups.size() - 1 - groups_left];
  const Warpgroup& group = thread.block->warpgroups[thread.number / kWarpgroup];
  while (group.executed < thread.wgmma_target) wait_as(State::kWgmma);
}

void require_no_wgmma_left(const Thread& ending) {
  const unsigned which = ending.number / kWarpgroup;
  if (which >= ending.block->warpgroups.size()) return;
  if (ending.wgmma_issued > ending.block->warpgroups[which].executed) {
    fail("the thread ends with wgmma instructions that it never waited for");
  }
}

}  // namespace blip3v::sim

// The TMA engine: boxes of a tensor between global and shared memory. An operation waits in a list until the
// schedule lets it happen; until then the destination of a load is NaN and a store has not read its source.
#include <algorithm>
#include <cstring>

#include "sim/machine.h"

namespace blip3v::sim {
namespace {

constexpr std::uint32_t kChunk = 16;  // bytes: what a swizzle moves as a whole

void require_alive(const TmaOperation& op) {
  if (op.target.block->live) return;
  fail(text("TMA load, issued by %s, arrives in the shared memory of block rank %u, which has ended",
            who(machine.threads[op.thread]).c_str(), op.target.block->rank));
}

// Global address of row `row` of the box, or nullptr when it lies outside of the tensor.
char* row_address(const TmaOperation& op, std::size_t row) {
  const TensorMap& map = op.map;
  char* address = map.base;
  for (int d = 1; d < map.rank; ++d) {
    const std::int64_t at = op.at[d] + std::int64_t(row % map.box[d]);
    row /= map.box[d];
    if (at < 0 || std::uint64_t(at) >= map.size[d]) return nullptr;
    address += at * std::int64_t(map.stride[d - 1]);
  }
  return address;
}

void store(const TmaOperation& op, char* global, const char* shared, std::size_t bytes) {
  if (op.kind == Store::kWrite) {
    std::memcpy(global, shared, bytes);
    return;
  }
  if (op.map.type != CU_TENSOR_MAP_DATA_TYPE_FLOAT32)
    fail("not simulated: TMA reduce-add of a type that is not fp32");
  for (std::size_t at = 0; at < bytes; at += sizeof(float)) {
    float sum, more;
    std::memcpy(&sum, global + at, sizeof sum);
    std::memcpy(&more, shared + at, sizeof more);
    sum += more;
    std::memcpy(global + at, &sum, sizeof sum);
  }
}

// Moves the elements of one chunk, the first of which is element x of its row, that lie inside of the tensor;
// gives their bytes.
std::size_t move_chunk(const TmaOperation& op, char* row, std::int64_t x, char* chunk) {
  const std::int64_t element = op.map.element_bytes;
  const std::int64_t first = std::max<std::int64_t>(x, 0);
  const std::int64_t last = std::min<std::int64_t>(x + kChunk / element, std::int64_t(op.map.size[0]));
  if (!row || first >= last) return 0;
  const std::size_t bytes = std::size_t((last - first) * element);
  char* global = row + first * element;
  char* shared = chunk + (first - x) * element;
  require_global(global, bytes, op.store ? "TMA store" : "TMA load");
  if (op.store)
    store(op, global, shared, bytes);
  else
    std::memcpy(shared, global, bytes);
  return bytes;
}

void move_box(const TmaOperation& op) {
  Block& block = *op.target.block;
  const TensorMap& map = op.map;
  const std::uint32_t row_bytes = map.box[0] * map.element_bytes, start = offset_in(block, op.target.shared);
  const std::size_t rows = map.box_bytes() / row_bytes;
  const char* source = op.store ? async_view(block) : nullptr;
  std::uint64_t moved = 0;
  for (std::size_t r = 0; r < rows; ++r) {
    char* row = row_address(op, r);
    for (std::uint32_t c = 0; c < row_bytes / kChunk; ++c) {
      const std::uint32_t offset = swizzled(start + std::uint32_t(r) * row_bytes + c * kChunk, map.swizzle);
      const std::int64_t x = op.at[0] + std::int64_t(c * kChunk / map.element_bytes);
      alignas(kChunk) char chunk[kChunk] = {};
      if (op.store) std::memcpy(chunk, source + offset, kChunk);
      moved += move_chunk(op, row, x, chunk);
      if (!op.store) {
        std::memcpy(block.shared + offset, chunk, kChunk);
        std::memcpy(block.view.data() + offset, chunk, kChunk);
      }
    }
  }
  if (op.counted) (op.store ? machine.stats.tma_store_bytes : machine.stats.tma_load_bytes) += moved;
}

bool stores_done(const Thread& thread) {
  return thread.bulk_left.empty() || thread.bulk_left.begin()->first >= thread.bulk_target;
}

void execute(const TmaOperation& op) {
  if (!op.store) require_alive(op);
  move_box(op);
  if (!op.store) return mbarrier_complete_bytes(op.target.mbarrier, std::uint32_t(op.map.box_bytes()));
  Thread& thread = machine.threads[op.thread];
  if (--thread.bulk_left[op.group] == 0) thread.bulk_left.erase(op.group);
  if (thread.state == State::kBulkStore && stores_done(thread)) wake(thread);
}

void issue(const TmaOperation& op) {
  if (done_at_issue(machine.temper.tma_speed))
    execute(op);
  else
    machine.tma.push_back(op);
}

TmaOperation describe(const void* tensor_map, void* shared, int dims, const int* coordinate) {
  TmaOperation op;
  std::memcpy(&op.map, tensor_map, sizeof op.map);
  if (op.map.magic != TensorMap::kMagic) fail("TMA: the descriptor is not a tensor map");
  if (op.map.rank != dims)
    fail(text("TMA: %d coordinates for a tensor map of rank %d", dims, int(op.map.rank)));
  for (int d = 0; d < dims; ++d) op.at[d] = coordinate[d];
  Block* block = block_of(shared);
  if (!block) fail("TMA: the tile is not in shared memory");
  const std::uint32_t offset = offset_in(*block, shared);
  const std::uint32_t alignment = op.map.swizzle ? kSwizzleSpan[op.map.swizzle] * 8 : 128;
  if (offset % alignment) {
    fail(text("TMA: shared offset 0x%x is not aligned to %u bytes, the period of its swizzle", offset,
              alignment));
  }
  if (offset + op.map.box_bytes() > machine.config.shared_bytes) {
    fail(text("TMA: a box of %zu bytes at shared offset 0x%x does not fit in the %zu bytes of the block",
              op.map.box_bytes(), offset, machine.config.shared_bytes));
  }
  op.target = {block, static_cast<char*>(shared), nullptr};
  op.thread = self().index;
  return op;
}

// Half of the seeds let the data of some barriers, or the stores of some buffers, always be the last.
std::uint64_t lateness(const TmaOperation& op) {
  const char* place = op.store ? op.target.shared : reinterpret_cast<const char*>(op.target.mbarrier);
  return ((offset_in(*op.target.block, place) >> 3) ^ machine.temper.late_salt) * 0x9e3779b97f4a7c15ull;
}

std::size_t choose() {
  const std::size_t count = machine.tma.size();
  if (machine.options.schedule == Schedule::kForward) return 0;
  if (machine.options.schedule == Schedule::kReverse) return count - 1;
  std::size_t chosen = machine.random.below(count);
  for (std::size_t i = 0; machine.temper.late_salt && i < count; ++i) {
    if (lateness(machine.tma[i]) < lateness(machine.tma[chosen])) chosen = i;
  }
  return chosen;
}

}  // namespace

bool run_one_tma() {
  if (machine.tma.empty()) return false;
  const std::size_t chosen = choose();
  const TmaOperation op = machine.tma[chosen];
  machine.tma.erase(machine.tma.begin() + long(chosen));
  execute(op);
  return true;
}

void tma_load(const void* tensor_map, std::uint64_t* mbarrier, void* shared, int dims, const int* coordinate,
              std::uint16_t multicast) {
  ++machine.stats.tma_loads;
  const unsigned ranks = multicast ? multicast : 1u << me().rank;
  bool counted = true;
  for (unsigned rank = 0; rank < 16; ++rank) {
    if (!(ranks >> rank & 1)) continue;
    TmaOperation op = describe(tensor_map, map_to_rank(shared, rank), dims, coordinate);
    op.target.mbarrier = static_cast<std::uint64_t*>(map_to_rank(mbarrier, rank));
    require_fenced_mbarrier(op.target.mbarrier);
    op.counted = counted;
    counted = false;
    overwrite_async(*op.target.block, offset_in(*op.target.block, op.target.shared), op.map.box_bytes());
    issue(op);
  }
  preempt();
}

void tma_store(const void* tensor_map, const void* shared, int dims, const int* coordinate, Store kind) {
  ++machine.stats.tma_stores;
  TmaOperation op = describe(tensor_map, const_cast<void*>(shared), dims, coordinate);
  Thread& thread = self();
  if (op.target.block != thread.block) fail("TMA store from the shared memory of another block");
  op.store = true;
  op.kind = kind;
  op.group = thread.bulk_groups;
  ++thread.bulk_left[op.group];
  thread.bulk_open = true;
  issue(op);
  preempt();
}

void bulk_commit() {
  ++self().bulk_groups;
  self().bulk_open = false;
}

void bulk_wait(unsigned groups_left) {
  Thread& thread = self();
  thread.bulk_target = thread.bulk_groups > groups_left ? thread.bulk_groups - groups_left : 0;
  while (!stores_done(thread)) wait_as(State::kBulkStore);
}

void require_no_stores_left(const Thread& ending) {
  if (ending.bulk_left.empty() && !ending.bulk_open) return;
  fail("the thread ends with TMA stores that it never waited for: shared memory may vanish under them");
}

}  // namespace blip3v::sim

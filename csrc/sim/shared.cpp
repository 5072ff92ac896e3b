// Shared memory of the cluster's blocks, its addresses, and its two faces. Threads write through the generic
// proxy; TMA stores and wgmma read through the async proxy, which here is a copy that only a proxy fence
// brings up to date.
//
// Writes that went through store_shared become visible by a fence of the thread that made them. Others (plain
// stores of CuTe or CUTLASS code) cannot be told apart: any fence in the block publishes all of them.
#include <cstring>

#include "sim/machine.h"

namespace blip3v::sim {
namespace {

constexpr std::uint32_t kGranule = 4;

template <typename Visit>
void each_granule(std::uint32_t offset, std::size_t bytes, Visit visit) {
  for (std::uint32_t g = offset / kGranule; g <= (offset + bytes - 1) / kGranule; ++g) visit(g);
}

std::uint16_t name_of(const Thread& thread) {
  return std::uint16_t(thread.index + 1);
}

}  // namespace

Block* block_of(const void* p) {
  const char* address = static_cast<const char*>(p);
  for (auto& block : machine.blocks) {
    if (address >= block->shared && address < block->shared + machine.shared_bytes) return block.get();
  }
  return nullptr;
}

std::uint32_t offset_in(const Block& block, const void* p) {
  return std::uint32_t(static_cast<const char*>(p) - block.shared);
}

void* dynamic_shared(std::size_t bytes) {
  if (bytes > machine.config.shared_bytes) {
    fail(text("the kernel uses %zu bytes of dynamic shared memory, its launch gave %zu", bytes,
              machine.config.shared_bytes));
  }
  return self().block->shared;
}

std::uint32_t shared_address(const void* p) {
  const Block* block = block_of(p);
  if (!block) fail("the address is not in dynamic shared memory");
  return offset_in(*block, p) | block->rank << 24;
}

bool in_shared(const void* p) {
  return block_of(p) != nullptr;
}

void* map_to_rank(const void* p, unsigned rank) {
  const Block* block = block_of(p);
  if (!block) fail("distributed shared memory: the address is not in shared memory");
  if (rank >= machine.blocks.size()) {
    fail(text("distributed shared memory: rank %u in a cluster of %zu blocks", rank, machine.blocks.size()));
  }
  return machine.blocks[rank]->shared + offset_in(*block, p);
}

void written_by_store(Block& block, std::uint32_t offset, std::size_t bytes) {
  each_granule(offset, bytes, [&](std::uint32_t g) { block.unfenced_by[g] = name_of(self()); });
  self().unfenced.push_back({&block, offset, std::uint32_t(bytes)});
}

void fence_proxy_async() {
  Thread& thread = self();
  for (const SharedRange& range : thread.unfenced) {
    each_granule(range.offset, range.bytes, [&](std::uint32_t g) {
      if (range.block->unfenced_by[g] != name_of(thread)) return;
      range.block->unfenced_by[g] = 0;
      std::memcpy(range.block->view.data() + g * kGranule, range.block->shared + g * kGranule, kGranule);
    });
  }
  thread.unfenced.clear();
  thread.block->publish = true;
  fence_mbarrier_init();
}

const char* async_view(Block& block) {
  if (!machine.options.check_proxy) return block.shared;
  if (block.publish) {
    block.publish = false;
    for (std::size_t g = 0; g < block.unfenced_by.size(); ++g) {
      if (block.unfenced_by[g]) continue;
      std::memcpy(block.view.data() + g * kGranule, block.shared + g * kGranule, kGranule);
    }
  }
  return block.view.data();
}

void overwrite_async(Block& block, std::uint32_t offset, std::size_t bytes) {
  std::memset(block.shared + offset, kPoison, bytes);
  std::memset(block.view.data() + offset, kPoison, bytes);
  each_granule(offset, bytes, [&](std::uint32_t g) { block.unfenced_by[g] = 0; });
}

}  // namespace blip3v::sim

// A launch: the grid cut into clusters, fresh blocks for each, and the lock that makes all of this one at a
// time.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <mutex>
#include <stdexcept>

#include "sim/machine.h"

namespace blip3v::sim {

Machine machine;

namespace {

constexpr std::size_t kMostShared = 227 * 1024;
constexpr unsigned kMostThreads = 1024, kMostBlocksOfCluster = 8, kRegisters = 65536, kMostRegisters = 256;
constexpr std::size_t kSharedAlignment =
    1024;  // a page holds several: the end of shared memory is the end of a page

std::mutex lock;

// Shared memory of the blocks of a cluster, kept between launches of the same size.
struct Pool {
  std::vector<char*> memory;
  std::size_t bytes = 0;
} pool;

void fit_pool(std::size_t bytes, unsigned blocks) {
  if (pool.bytes != bytes) {
    for (char* base : pool.memory) unmap_guarded(base, pool.bytes);
    pool = {{}, bytes};
  }
  while (pool.memory.size() < blocks) pool.memory.push_back(map_guarded(bytes));
}

std::string refusal(const LaunchConfig& c) {
  const unsigned threads = c.block.count(), blocks = c.cluster.count();
  if (threads < 1 || threads > kMostThreads)
    return text("%u threads in a block, need 1 to %u", threads, kMostThreads);
  if (blocks < 1 || blocks > kMostBlocksOfCluster) {
    return text("%u blocks in a cluster, need 1 to %u", blocks, kMostBlocksOfCluster);
  }
  if (c.shared_bytes > kMostShared) {
    return text("%zu bytes of shared memory, a block has at most %zu", c.shared_bytes, kMostShared);
  }
  if (c.grid.count() == 0) return "an empty grid";
  if (c.grid.x % c.cluster.x || c.grid.y % c.cluster.y || c.grid.z % c.cluster.z) {
    return "the grid is not a multiple of the cluster";
  }
  return "";
}

std::unique_ptr<Block> make_block(unsigned rank) {
  const unsigned threads = machine.config.block.count();
  auto block = std::make_unique<Block>();
  const std::size_t pages = (machine.shared_bytes + kPage - 1) / kPage * kPage;
  block->shared = pool.memory[rank] + (pages - machine.shared_bytes);
  std::memset(pool.memory[rank], kPoison, pages);
  block->view.assign(machine.shared_bytes, char(kPoison));
  block->unfenced_by.assign(machine.shared_bytes / 4, 0);
  block->warps.resize((threads + kWarp - 1) / kWarp);
  block->warpgroups.resize(threads / kWarpgroup);
  block->live = threads;
  block->rank = rank;
  const unsigned registers = std::min(kRegisters / threads / 8 * 8, kMostRegisters);
  for (Warp& warp : block->warps) warp.registers = registers;
  if (threads % kWarp) block->warps.back().absent = ~0u << threads % kWarp;
  block->register_pool = registers * kWarp * unsigned(block->warps.size());
  return block;
}

void make_cluster(Dim3 first) {
  const LaunchConfig& c = machine.config;
  const unsigned threads = c.block.count(), blocks = c.cluster.count();
  machine.blocks.clear();
  machine.tma.clear();
  machine.threads.clear();
  machine.threads.resize(threads * blocks);
  machine.runnable.assign((threads * blocks + 63) / 64, 0);
  machine.cursor = machine.cluster_arrived = 0;
  machine.live = threads * blocks;
  for (unsigned rank = 0; rank < blocks; ++rank) {
    machine.blocks.push_back(make_block(rank));
    const Dim3 at{rank % c.cluster.x, rank / c.cluster.x % c.cluster.y, rank / (c.cluster.x * c.cluster.y)};
    for (unsigned t = 0; t < threads; ++t) {
      Thread& thread = machine.threads[rank * threads + t];
      thread.index = rank * threads + t;
      thread.number = t;
      thread.block = machine.blocks.back().get();
      thread.ids.thread = {t % c.block.x, t / c.block.x % c.block.y, t / (c.block.x * c.block.y)};
      thread.ids.block = {first.x + at.x, first.y + at.y, first.z + at.z};
      thread.ids.block_dim = c.block;
      thread.ids.grid_dim = c.grid;
      thread.ids.cluster_dim = c.cluster;
      thread.ids.block_in_cluster = at;
      thread.ids.rank = rank;
      thread.ids.lane = t % kWarp;
      thread.ids.warp = t / kWarp;
      prepare_fiber(thread);
      wake(thread);
    }
    ++machine.stats.blocks;
  }
}

void run_grid() {
  const LaunchConfig& c = machine.config;
  for (unsigned z = 0; z < c.grid.z; z += c.cluster.z) {
    for (unsigned y = 0; y < c.grid.y; y += c.cluster.y) {
      for (unsigned x = 0; x < c.grid.x; x += c.cluster.x) {
        make_cluster({x, y, z});
        run_cluster();
        for (auto& block : machine.blocks) count_remaining_accesses(*block);
        if (!machine.error.empty()) return;
      }
    }
  }
}

}  // namespace

void configure(const Options& options) {
  std::lock_guard<std::mutex> hold(lock);
  machine.options = options;
}

Stats stats() {
  std::lock_guard<std::mutex> hold(lock);
  return machine.stats;
}

void reset_stats() {
  std::lock_guard<std::mutex> hold(lock);
  machine.stats = {};
}

void declare_buffer(const void* base, std::size_t bytes) {
  std::lock_guard<std::mutex> hold(lock);
  machine.buffers[static_cast<const char*>(base)] = bytes;
}

void forget_buffers() {
  std::lock_guard<std::mutex> hold(lock);
  machine.buffers.clear();
}

const Ids& me() {
  return self().ids;
}

void launch(const char* name, const LaunchConfig& config, const std::function<void()>& body) {
  std::lock_guard<std::mutex> hold(lock);
  const std::string no = refusal(config);
  if (!no.empty()) throw std::runtime_error(std::string("blip3v: ") + name + ": " + no);
  const auto start = std::chrono::steady_clock::now();
  machine.error.clear();
  machine.config = config;
  machine.body = &body;
  machine.random.state = (machine.options.seed + 1) * 0x9e3779b97f4a7c15ull | 1;
  machine.shared_bytes = (config.shared_bytes + kSharedAlignment - 1) / kSharedAlignment * kSharedAlignment;
  fit_pool(std::max(machine.shared_bytes, kSharedAlignment), config.cluster.count());
  ++machine.stats.launches;
  run_guarded(&run_grid);
  machine.current = nullptr;
  machine.blocks.clear();
  machine.stats.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (!machine.error.empty()) {
    throw std::runtime_error(std::string("blip3v: ") + name + ": simulator: " + machine.error);
  }
}

}  // namespace blip3v::sim

// What device code calls when it runs on the CPU: prelude.h (the CUDA language) and overlay/ (the
// instructions that CuTe and CUTLASS wrap) are built on these functions, csrc/common/launch.cuh and
// memory.cuh too. All of them are out of line on purpose: the compiler must assume that a call changes
// registers whose address was given away.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace blip3v::sim {

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
  unsigned count() const { return x * y * z; }
};

// ---- settings and counters, for the tests; each call takes the lock that a launch holds
// --------------------------

// kForward: threads in order, TMA and wgmma done when they are issued (infinitely fast).
// kReverse: threads in reverse order, asynchronous work done only when nothing else can run, newest first.
// kRandom:  both drawn from the seed, and threads are interrupted where they synchronise or use memory.
enum class Schedule { kForward, kReverse, kRandom };

struct Options {
  Schedule schedule = Schedule::kForward;
  std::uint64_t seed = 1;
  bool check_proxy = true;  // TMA and wgmma see ordinary writes to shared memory only after a proxy fence
};

// Sums over all launches since reset_stats(). The same in every schedule, except for the first group.
struct Stats {
  std::uint64_t switches = 0, schedule_points = 0;  // fibers entered, decisions of the scheduler
  double seconds = 0;

  std::uint64_t launches = 0, blocks = 0;
  std::uint64_t tma_loads = 0, tma_stores = 0;            // instructions
  std::uint64_t tma_load_bytes = 0, tma_store_bytes = 0;  // of global memory: no zero fill, a multicast once
  std::uint64_t global_load_bytes = 0, global_store_bytes = 0;  // by load_global, store_global
  std::uint64_t wgmma_flops = 0;
  std::uint64_t mbarrier_waits = 0, barrier_waits = 0;      // calls that passed, per thread
  std::uint64_t shared_accesses = 0, shared_conflicts = 0;  // instructions of a warp, extra wavefronts
  std::uint64_t remote_shared_bytes = 0;                    // to and from other blocks of the cluster
};

void configure(const Options& options);
Stats stats();
void reset_stats();

// Global memory that kernels may touch. While none is declared, only unmapped addresses are noticed.
void declare_buffer(const void* base, std::size_t bytes);
void forget_buffers();

// ---- launching
// ---------------------------------------------------------------------------------------------------

struct LaunchConfig {
  Dim3 grid, block, cluster;
  std::size_t shared_bytes = 0;
};

// Runs `body` once per thread of the grid: clusters one after another, the blocks of a cluster together.
// Throws std::runtime_error with the report when the kernel breaks a rule or cannot go on.
void launch(const char* name, const LaunchConfig& config, const std::function<void()>& body);

// From device code: ends the launch, which throws with this message, the block and the thread.
[[noreturn]] void fail(const std::string& what);
inline void fail_if(bool bad, const char* what) {
  if (bad) fail(what);
}

// ---- where am I
// --------------------------------------------------------------------------------------------------

struct Ids {
  Dim3 thread, block, block_dim, grid_dim, cluster_dim, block_in_cluster;
  unsigned rank, lane, warp;
};
const Ids& me();

void* dynamic_shared(std::size_t bytes);          // fails when the launch gave fewer
std::uint32_t shared_address(const void* p);      // the 32-bit "shared" address: rank << 24 | offset
bool in_shared(const void* p);                    // of any block of the cluster
void* map_to_rank(const void* p, unsigned rank);  // the same place in another block of the cluster

// ---- ordinary memory accesses
// ------------------------------------------------------------------------------------

enum class Access { kLoad, kStore };
void global_access(const void* p, std::size_t bytes,
                   Access kind);  // checks and counts; the caller moves the data
void shared_access(const void* p, std::size_t bytes, Access kind);

// ---- thread synchronisation
// --------------------------------------------------------------------------------------

void sync_threads();
void named_barrier(unsigned id, unsigned threads, bool wait);
void sync_warp(std::uint32_t mask);
std::uint64_t warp_exchange(std::uint32_t mask, std::uint64_t value,
                            unsigned source_lane);  // basis of shuffles
bool elect_one();
void cluster_arrive();
void cluster_wait();
void preempt();                           // a point where kRandom may go on with another thread
void set_registers(unsigned per_thread);  // setmaxnreg of the calling warpgroup

// ---- mbarrier
// ----------------------------------------------------------------------------------------------------

void mbarrier_init(std::uint64_t* b, std::uint32_t arrivals);
void mbarrier_invalidate(std::uint64_t* b);
void fence_mbarrier_init();
void mbarrier_arrive(std::uint64_t* b);
void mbarrier_expect_bytes(std::uint64_t* b, std::uint32_t bytes);
void mbarrier_complete_bytes(std::uint64_t* b, std::uint32_t bytes);
bool mbarrier_test(std::uint64_t* b, std::uint32_t parity);  // whether the phase of that parity has completed
void mbarrier_wait(std::uint64_t* b, std::uint32_t parity);

// ---- TMA
// ---------------------------------------------------------------------------------------------------------

// multicast: ranks that receive the box; 0 for the own block.
void tma_load(const void* tensor_map, std::uint64_t* mbarrier, void* shared, int dims, const int* coordinate,
              std::uint16_t multicast = 0);
enum class Store { kWrite, kReduceAdd };
void tma_store(const void* tensor_map, const void* shared, int dims, const int* coordinate, Store kind);
void bulk_commit();
void bulk_wait(unsigned groups_left);
void fence_proxy_async();

// ---- wgmma: m64 n k16, bf16 or fp16 into fp32
// --------------------------------------------------------------------

struct Wgmma {
  int n = 0;
  bool fp16 = false;  // otherwise bf16
  bool a_mn_major = false, b_mn_major = false;
  bool a_in_registers = false;
  bool accumulate = false;
  float sign = 1;
  std::uint64_t a = 0, b = 0;  // shared-memory descriptors
};
void wgmma(const Wgmma& op, const std::uint32_t* a_registers, float* d_registers);  // read and written LATER
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(unsigned groups_left);

}  // namespace blip3v::sim

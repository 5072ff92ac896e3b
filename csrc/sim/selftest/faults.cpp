// Kernels that break one rule each. tests/sim/test_faults.py says what the report must contain.
#include <cutlass/arch/barrier.h>
#include <cutlass/arch/reg_reconfig.h>

#include <cute/arch/copy_sm75.hpp>
#include <cute/arch/copy_sm80.hpp>
#include <cute/arch/mma_sm80.hpp>
#include <cute/tensor.hpp>

#include "common/launch.cuh"
#include "common/memory.cuh"
#include "sim/selftest/selftest.h"

namespace blip3v::selftest {
namespace {

using namespace cute;
using bf16 = cutlass::bfloat16_t;
using Barrier = cutlass::arch::ClusterTransactionBarrier;
using cutlass::arch::NamedBarrier;

using Tile = decltype(tile_to_shape(GMMA::Layout_K_SW128_Atom<bf16>{}, Shape<_64, _64>{}));
using Mma = decltype(make_tiled_mma(SM90_64x64x16_F32BF16BF16_SS<GMMA::Major::K, GMMA::Major::K>{}));

template <class Op, class T>
auto copy_for(Op op, T* data) {
  Tensor tensor =
      make_tensor(make_gmem_ptr(data), make_layout(make_shape(16, _64{}), make_stride(_64{}, _1{})));
  return make_tma_copy(op, tensor, Tile{}, Shape<_64, _64>{}, _1{});
}
using Load = decltype(copy_for(SM90_TMA_LOAD{}, (const bf16*)nullptr));
using Save = decltype(copy_for(SM90_TMA_STORE{}, (bf16*)nullptr));

struct Shared {
  alignas(1024) bf16 tile[cosize_v<Tile>];
  std::uint64_t words[2];
};
constexpr std::uint32_t kTileBytes = sizeof(Shared::tile);

struct Params {
  Load load;
  Save save;
  char* memory;
};

// What the broken kernels below have at hand.
struct Scene {
  Params const& p;
  Shared& s;
  int thread, lane, rank;

  Barrier& barrier(int i = 0) const { return reinterpret_cast<Barrier&>(s.words[i]); }

  void init(int arrivals) const {
    if (thread == 0) {
      barrier().init(arrivals);
      cutlass::arch::fence_barrier_init();
    }
    __syncthreads();
  }

  void load_tile(bf16* to) const {
    Tensor global =
        local_tile(p.load.get_tma_tensor(make_shape(16, _64{})), Shape<_64, _64>{}, make_coord(0, 0));
    Tensor tile = make_tensor(make_smem_ptr(to), Tile{});
    auto [from, into] =
        tma_partition(p.load, _0{}, Layout<_1>{}, group_modes<0, 2>(tile), group_modes<0, 2>(global));
    copy(p.load.with(s.words[0]), from, into);
  }

  void save_tile() const {
    Tensor global =
        local_tile(p.save.get_tma_tensor(make_shape(16, _64{})), Shape<_64, _64>{}, make_coord(0, 0));
    Tensor tile = make_tensor(make_smem_ptr(s.tile), Tile{});
    auto [into, from] =
        tma_partition(p.save, _0{}, Layout<_1>{}, group_modes<0, 2>(tile), group_modes<0, 2>(global));
    copy(p.save, from, into);
  }

  template <class C>
  void multiply(C& acc, int column = 0) const {
    Tensor tile = make_tensor(make_smem_ptr(s.tile), Tile{});
    auto slice = Mma{}.get_thread_slice(thread % 128);
    Tensor a = slice.partition_fragment_A(tile), b = slice.partition_fragment_B(tile);
    gemm(Mma{}, a(_, _, column), b(_, _, 0), acc);
  }
};

auto accumulator() {
  Tensor acc = partition_fragment_C(Mma{}, Shape<_64, _64>{});
  clear(acc);
  return acc;
}

struct Fault {
  const char* name;
  int threads, blocks;  // all blocks in one cluster
  void (*run)(Scene const& s);
};

void fill_stack(int depth) {
  volatile char room[4096];
  room[0] = char(depth);
  if (depth) fill_stack(depth - 1);
  room[1] = room[0];
}

const Fault kFaults[] = {
    // mbarriers
    {"mbarrier without init", 32, 1, [](Scene const& s) { s.barrier().wait(0); }},
    {"mbarrier overwritten", 32, 1,
     [](Scene const& s) {
       s.init(32);
       if (s.thread == 0) store_shared(reinterpret_cast<float*>(s.s.words), 1.f);
       s.barrier().arrive();
     }},
    {"mbarrier arrival too many", 32, 1,
     [](Scene const& s) {
       s.init(1);
       s.barrier().expect_transaction(64);  // keeps the phase open
       s.barrier().arrive();
     }},
    {"mbarrier parity of 2", 32, 1,
     [](Scene const& s) {
       s.init(1);
       s.barrier().wait(2);
     }},
    {"mbarrier bytes missing", 128, 1,
     [](Scene const& s) {
       s.init(1);
       if (s.thread == 0) {
         s.barrier().arrive_and_expect_tx(kTileBytes + 64);
         s.load_tile(s.s.tile);
       }
       s.barrier().wait(0);
     }},
    // TMA
    {"TMA before the fence of its mbarrier", 32, 1,
     [](Scene const& s) {
       if (s.thread == 0) {
         s.barrier().init(1);
         s.barrier().arrive_and_expect_tx(kTileBytes);
         s.load_tile(s.s.tile);
       }
     }},
    {"TMA to a misaligned tile", 32, 1,
     [](Scene const& s) {
       s.init(1);
       if (s.thread == 0) s.load_tile(s.s.tile + 64);
     }},
    {"TMA beyond shared memory", 32, 1,
     [](Scene const& s) {
       s.init(1);
       if (s.thread == 0) s.load_tile(s.s.tile + 1024);
     }},
    {"TMA load after the block", 32, 1,
     [](Scene const& s) {
       s.init(1);
       if (s.thread == 0) {
         s.barrier().arrive_and_expect_tx(kTileBytes);
         s.load_tile(s.s.tile);
       }
     }},
    {"TMA store without wait", 32, 1,
     [](Scene const& s) {
       if (s.thread == 0) {
         s.save_tile();
         tma_store_arrive();
       }
     }},
    {"TMA store without commit", 32, 1,
     [](Scene const& s) {
       if (s.thread == 0) {
         s.save_tile();
         tma_store_wait<0>();
       }
     }},
    // wgmma
    {"wgmma without fence", 128, 1,
     [](Scene const& s) {
       auto acc = accumulator();
       s.multiply(acc);
     }},
    {"wgmma without wait", 128, 1,
     [](Scene const& s) {
       auto acc = accumulator();
       warpgroup_arrive();
       s.multiply(acc);
       warpgroup_commit_batch();
     }},
    {"wgmma with two opinions", 128, 1,
     [](Scene const& s) {
       auto acc = accumulator();
       warpgroup_arrive();
       s.multiply(acc, s.thread == 77 ? 1 : 0);
       warpgroup_commit_batch();
       warpgroup_wait<0>();
     }},
    {"wgmma by half a warpgroup", 128, 1,
     [](Scene const& s) {
       auto acc = accumulator();
       if (s.thread >= 64) return;
       warpgroup_arrive();
       s.multiply(acc);
       warpgroup_commit_batch();
       warpgroup_wait<0>();
     }},
    {"wgmma by three warps", 96, 1,
     [](Scene const& s) {
       auto acc = accumulator();
       warpgroup_arrive();
       s.multiply(acc);
     }},
    // memory
    {"shared store out of bounds", 32, 1,
     [](Scene const& s) { store_shared(s.s.words + 120 + s.thread, std::uint64_t(1)); }},
    {"plain shared store out of bounds", 32, 1,
     [](Scene const& s) { reinterpret_cast<volatile char*>(&s.s)[sizeof(Shared) + 4096] = 1; }},
    {"shared load misaligned", 32, 1,
     [](Scene const& s) { load_shared(reinterpret_cast<const float4*>(s.s.tile + 1)); }},
    {"shared load of global memory", 32, 1, [](Scene const& s) { load_shared(s.p.memory); }},
    {"global load of shared memory", 32, 1, [](Scene const& s) { load_global(s.s.tile); }},
    {"global store to null", 32, 1,
     [](Scene const& s) {
       if (s.thread == 7) store_global(static_cast<int*>(nullptr), 1);
     }},
    {"global store behind the buffer", 32, 1,
     [](Scene const& s) { store_global(s.p.memory + 4081 + s.thread, 'x'); }},
    {"stack overflow", 32, 1, [](Scene const&) { fill_stack(100); }},
    {"more shared memory than launched", 32, 1,
     [](Scene const&) { dynamic_shared<std::array<char, sizeof(Shared) + 1>>(); }},
    // threads
    {"syncthreads in half of the block", 64, 1,
     [](Scene const& s) {
       if (s.thread < 32)
         __syncthreads();
       else
         NamedBarrier(64, 0u).sync();
     }},
    {"named barrier with two counts", 64, 1,
     [](Scene const& s) { NamedBarrier(s.thread < 32 ? 64 : 96, 0u).sync(); }},
    {"named barrier of half a warp", 32, 1, [](Scene const&) { NamedBarrier(16, 0u).sync(); }},
    {"named barrier 16", 32, 1, [](Scene const&) { NamedBarrier(32, 8u).sync(); }},
    {"shuffle in divergent code", 32, 1,
     [](Scene const& s) {
       if (s.lane % 4 == 0)
         __shfl_sync(~0u, 1, 0);
       else
         __syncthreads();
     }},
    {"shuffle outside of its mask", 32, 1, [](Scene const&) { __shfl_sync(0xffffu, 1, 0); }},
    {"overlapping masks", 32, 1,
     [](Scene const& s) {
       __syncwarp(s.lane < 16 ? 0x1ffffu : 0xffff0000u);
       __syncthreads();
     }},
    {"trap", 32, 1,
     [](Scene const& s) {
       if (s.thread == 3) __trap();
     }},
    {"brkpt", 32, 1,
     [](Scene const& s) {
       if (s.thread == 3) __asm__ volatile("brkpt");
     }},
    {"registers for nobody", 384, 1, [](Scene const&) { cutlass::arch::warpgroup_reg_alloc<240>(); }},
    // clusters
    {"rank that does not exist", 32, 2, [](Scene const& s) { peer_shared(s.s.words, 2); }},
    {"peer that has ended", 32, 2,
     [](Scene const& s) {
       if (s.rank == 0) return;
       load_shared(peer_shared(s.s.words, 0));
     }},
    {"cluster wait without arrive", 32, 2, [](Scene const&) { cluster_wait(); }},
    {"cluster arrive twice", 32, 2,
     [](Scene const&) {
       cluster_arrive();
       cluster_arrive();
     }},
    // what is not simulated
    {"ldmatrix transposed", 32, 1,
     [](Scene const& s) {
       std::uint32_t d;
       SM75_U16x2_LDSM_T::copy(*reinterpret_cast<uint128_t const*>(s.s.tile), d);
     }},
    {"cp.async", 32, 1,
     [](Scene const& s) {
       SM80_CP_ASYNC_CACHEGLOBAL<uint128_t>::copy(*reinterpret_cast<uint128_t const*>(s.p.memory),
                                                  *reinterpret_cast<uint128_t*>(s.s.tile));
     }},
    {"mma.sync", 32, 1,
     [](Scene const&) {
       float d[4] = {};
       std::uint32_t const a[4] = {}, b[2] = {};
       SM80_16x8x16_F32BF16BF16F32_TN::fma(d[0], d[1], d[2], d[3], a[0], a[1], a[2], a[3], b[0], b[1], d[0],
                                           d[1], d[2], d[3]);
     }},
};

__global__ void fault_kernel(__grid_constant__ const Params params, int which) {
  auto& s = dynamic_shared<Shared>();
  kFaults[which].run({params, s, int(threadIdx.x), int(threadIdx.x % 32), int(block_rank_in_cluster())});
}

}  // namespace

std::vector<std::string> faults() {
  std::vector<std::string> names;
  for (const Fault& fault : kFaults) names.push_back(fault.name);
  return names;
}

void run_fault(const std::string& name, void* memory) {
  int which = 0;
  for (const Fault& fault : kFaults) {
    if (name == fault.name) {
      auto* data = static_cast<bf16*>(memory);
      Params const params{copy_for(SM90_TMA_LOAD{}, const_cast<const bf16*>(data)),
                          copy_for(SM90_TMA_STORE{}, data), static_cast<char*>(memory)};
      return launch("fault", fault_kernel,
                    {dim3(fault.blocks), dim3(fault.threads), dim3(fault.blocks), sizeof(Shared)}, nullptr,
                    params, which);
    }
    ++which;
  }
  fail("run_fault: no fault is called " + name);
}

}  // namespace blip3v::selftest

// The tokens made of a video: out = softmax(logits)^T x, for a slice of channels and 64 (or, with kBlocks
// consumers, more) of the tokens made at a time.
//
// Maxima and sums of the logits' tiles are joined in their order, which gives lse; the weights
// exp(logit - lse) go rounded from registers into the product with x, which is read once per slice of
// channels, and what leaves a block is finished. With few videos a cluster of `splits` blocks shares the
// tokens of one; the blocks' sums are added through distributed shared memory in the order of their ranks.
//
// Runs in the simulator and compiles for sm_90a; it has not run on a GPU yet.
#pragma once

#include "common/device_scope.h"
#include "common/launch.cuh"
#include "common/softmax.cuh"
#include "token_learner/layouts.cuh"

namespace blip3v::token_learner {

template <int kChannels, int kBlocks>
struct PoolKernel {
  static constexpr int kStages = kPoolStages, kThreads = 128 * (1 + kBlocks);
  static constexpr int kBlocksPerSm = kBlocks == 1 ? 2 : 1;
  using X = Tile<kRows, kChannels>;
  using LayoutX = typename X::template Stack<kStages>;
  using LayoutXt = typename X::template Transposed<kStages>;
  using Product = RegisterProduct<kChannels, kRows, kMajorMN>;
  static constexpr int kPitch = kChannels + 8;  // spreads the rows over the banks

  struct Params {
    Pool call;
    Load<X> x;
    int made_rows;  // kp
    int padded;     // Np
    int slices;     // of channels
    int made_blocks;
  };
  struct Shared {
    union {
      alignas(1024) bf16 x[kStages * X::kElements];
      float partial[kBlocks][kRows][kPitch];  // of a split video, when the ring is empty
    };
    float shift[kBlocks][kRows];  // lse / ln 2, or infinity where no token is seen
    Ring<kStages> ring;
  };
  static_assert(kBlocksPerSm * (sizeof(Shared) + 1024) <= 228 * 1024);

  struct Work {
    int rank, slice, made, video;
    int first, last;  // tiles of tokens

    CUTE_DEVICE explicit Work(Params const& p) {
      int const splits = p.call.splits, tiles = divide_up(p.call.sizes.tokens, kRows);
      int number = blockIdx.x / splits;
      rank = blockIdx.x % splits;
      slice = number % p.slices;
      number /= p.slices;
      made = number % p.made_blocks * kBlocks * kRows;
      video = number / p.made_blocks;
      first = tiles * rank / splits;
      last = tiles * (rank + 1) / splits;
    }
  };

  static CUTE_DEVICE void produce(Params const& p, Shared& s, Work const& work) {
    using namespace cute;
    Tensor sX = make_tensor(make_smem_ptr(s.x), LayoutX{});
    Slot<kStages> slot;
    CUTE_NO_UNROLL
    for (int j = work.first; j < work.last; ++j) {
      s.ring.acquire(slot, X::kBytes);
      load_tile<X>(p.x, s.ring.full[slot.stage], j, work.slice, work.video, sX(_, _, slot.stage));
      slot.advance();
    }
  }

  // lse of the consumer's 64 tokens made.
  static CUTE_DEVICE void join_parts(Params const& p, Shared& s, Work const& work, int who, int thread) {
    if (thread < kRows) {
      int const made = work.made + who * kRows + thread;
      float const nothing = -INFINITY;
      float max = nothing, sum = 0.f;
      if (made < p.call.sizes.made) {
        float2 const* parts =
            p.call.parts + std::int64_t(work.video) * p.call.part_count * p.made_rows + made;
        for (int i = 0; i < p.call.part_count; ++i) {
          max = fmaxf(max, load_global(parts + std::int64_t(i) * p.made_rows).x);
        }
        float const shift = max == nothing ? 0.f : max * kLog2E;
        for (int i = 0; i < p.call.part_count; ++i) {
          float2 const part = load_global(parts + std::int64_t(i) * p.made_rows);
          sum += part.y * exp2f(part.x * kLog2E - shift);
        }
        float const lse = log_sum_exp(max, sum, kLog2E);
        if (work.slice == 0 && work.rank == 0) {
          store_global(p.call.lse + std::int64_t(work.video) * p.call.sizes.made + made, lse);
        }
        store_shared(&s.shift[who][thread], lse == nothing ? INFINITY : lse * kLog2E);
      } else {
        store_shared(&s.shift[who][thread], float(INFINITY));
      }
    }
    sync_consumer(who);
  }

  static __device__ void consume(Params const& p, Shared& s, Work const& work, int who, int thread) {
    using namespace cute;
    Tensor sXt = make_tensor(make_smem_ptr(s.x), LayoutXt{});
    auto product = Product{}.get_thread_slice(thread);
    Tensor fX = product.partition_fragment_B(sXt);
    Tensor out = partition_fragment_C(Product{}, cute::Shape<Int<kRows>, Int<kChannels>>{});
    OperandA<kRows> weights;
    Slot<kStages> slot;
    clear(out);

    join_parts(p, s, work, who, thread);
    int const row = first_row(thread), made = work.made + who * kRows + row;
    float const shift[2] = {load_shared(&s.shift[who][row]), load_shared(&s.shift[who][row + 8])};
    float const* logits =
        p.call.logits + (std::int64_t(work.video) * p.made_rows + made) * p.padded + first_column(thread);
    bool const real[2] = {made < p.call.sizes.made, made + 8 < p.call.sizes.made};
    float next[size(weights)];
    auto read = [&](int j) {
      CUTE_UNROLL
      for (int i = 0; i < size(weights); i += 2) {
        float2 pair = make_float2(0.f, 0.f);
        if (real[row_of(i)]) {
          pair = load_global(reinterpret_cast<float2 const*>(logits + std::int64_t(8 * row_of(i)) * p.padded +
                                                             j * kRows + column_of(i)));
        }
        next[i] = pair.x;
        next[i + 1] = pair.y;
      }
    };
    if (work.first < work.last) read(work.first);
    for (int j = work.first; j < work.last; ++j) {
      CUTE_UNROLL
      for (int i = 0; i < size(weights); ++i) {
        weights(i) = bf16(exp2f(next[i] * kLog2E - shift[row_of(i)]));
      }
      s.ring.wait(slot);
      start_product(Product{}, weights, fX(_, _, _, slot.stage), out, true);
      if (j + 1 < work.last) read(j + 1);
      finish_product<0>(out);
      s.ring.release(slot, thread % 32);
      slot.advance();
    }

    if (p.call.splits == 1) {
      CUTE_UNROLL
      for (int i = 0; i < size(out); i += 2) {
        int const channel = work.slice * kChannels + first_column(thread) + column_of(i);
        if (real[row_of(i)] && channel < p.call.sizes.channels) {
          store_global(reinterpret_cast<std::uint32_t*>(place(p, work, made + 8 * row_of(i)) + channel),
                       pack(out(i), out(i + 1)));
        }
      }
    } else {
      cutlass::arch::NamedBarrier::sync(128 * kBlocks, kConsumers);  // all are through with the ring
      CUTE_UNROLL
      for (int i = 0; i < size(out); i += 2) {
        store_shared(reinterpret_cast<float2*>(
                         &s.partial[who][row + 8 * row_of(i)][first_column(thread) + column_of(i)]),
                     float2{out(i), out(i + 1)});
      }
    }
  }

  static CUTE_DEVICE bf16* place(Params const& p, Work const& work, int made) {
    return static_cast<bf16*>(p.call.out.data) + work.video * p.call.out.video + made * p.call.out.row;
  }

  // Adds up this block's share of the rows; `thread` counts the consumers' threads.
  static CUTE_DEVICE void combine(Params const& p, Shared& s, Work const& work, int thread) {
    constexpr int kUnits = kChannels / 8;
    int const splits = p.call.splits, rows = kBlocks * kRows;
    int const first = rows * work.rank / splits, last = rows * (work.rank + 1) / splits;
    for (int item = first * kUnits + thread; item < last * kUnits; item += 128 * kBlocks) {
      int const row = item / kUnits, unit = item % kUnits * 8;
      int const channel = work.slice * kChannels + unit;
      if (work.made + row >= p.call.sizes.made || channel >= p.call.sizes.channels) continue;
      float sum[8] = {};
      for (int peer = 0; peer < splits; ++peer) {
        float const* from = peer_shared(&s.partial[row / kRows][row % kRows][unit], peer);
        CUTE_UNROLL
        for (int e = 0; e < 8; e += 4) {
          float4 const part = load_shared(reinterpret_cast<float4 const*>(from + e));
          sum[e] += part.x;
          sum[e + 1] += part.y;
          sum[e + 2] += part.z;
          sum[e + 3] += part.w;
        }
      }
      store_global(
          reinterpret_cast<uint4*>(place(p, work, work.made + row) + channel),
          uint4{pack(sum[0], sum[1]), pack(sum[2], sum[3]), pack(sum[4], sum[5]), pack(sum[6], sum[7])});
    }
  }

  static __device__ void run(Params const& p) {
    Shared& s = dynamic_shared<Shared>();
    int const warpgroup = threadIdx.x / 128, thread = threadIdx.x % 128;
    Work const work(p);
    if (threadIdx.x == 0) {
      s.ring.init(4 * kBlocks);
      cutlass::arch::fence_barrier_init();
    }
    __syncthreads();
    if (warpgroup == 0) {
      cutlass::arch::warpgroup_reg_dealloc<kProducerRegisters>();
      if (thread < 32 && cute::elect_one_sync()) produce(p, s, work);
      __syncwarp();
      if (p.call.splits > 1) {
        cute::cluster_sync();
        cute::cluster_sync();
      }
    } else {
      cutlass::arch::warpgroup_reg_alloc<pool_registers(kBlocks)>();
      consume(p, s, work, warpgroup - 1, thread);
      if (p.call.splits > 1) {
        cute::cluster_sync();  // every block has published
        combine(p, s, work, threadIdx.x - 128);
        cute::cluster_sync();  // nobody leaves while others read
      }
    }
  }
};

template <int kChannels, int kBlocks>
__global__ void __launch_bounds__(PoolKernel<kChannels, kBlocks>::kThreads,
                                  PoolKernel<kChannels, kBlocks>::kBlocksPerSm)
    pool_kernel(__grid_constant__ const typename PoolKernel<kChannels, kBlocks>::Params params) {
  PoolKernel<kChannels, kBlocks>::run(params);
}

template <int kChannels, int kBlocks>
void pool(const Pool& call, cudaStream_t stream) {
  using Kernel = PoolKernel<kChannels, kBlocks>;
  Sizes const& sizes = call.sizes;
  typename Kernel::Params const params{call,
                                       make_load<typename Kernel::X>(matrices(call.x, sizes.tokens, sizes)),
                                       made_tile(sizes.made),
                                       divide_up(sizes.tokens, kTokens) * kTokens,
                                       divide_up(sizes.channels, kChannels),
                                       divide_up(sizes.made, kRows * kBlocks)};
  launch("token_learner", pool_kernel<kChannels, kBlocks>,
         {dim3(sizes.videos * params.made_blocks * params.slices * call.splits), dim3(Kernel::kThreads),
          dim3(call.splits), sizeof(typename Kernel::Shared)},
         stream, params);
}

}  // namespace blip3v::token_learner

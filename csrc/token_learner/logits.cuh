// The logits of a tile of 128 tokens, and maximum and sum of every column of them:
//
//   h = r1 r2 (x Wf^T - mu c1) + r2 (c2 - m2 c3) + c4      (both norms; see fold.cuh)
//   logits = gelu(h) w2^T
//
// x goes from TMA to the tensor cores as it is. While these multiply a chunk, the threads add up the row
// statistics of both norms from the same shared memory. The hidden layer stays in registers: rounded to bf16,
// it is the left factor of the second product. With many hidden columns x passes by several times.
//
// Warpgroup 0 is the producer, one thread of which issues every TMA load; warpgroups 1 and 2 own 64 tokens
// each. With few tiles a cluster of `splits` blocks shares the channels of one: each adds up over its
// channels, then each finishes its share of the rows, read from all of them through distributed shared memory
// in the order of their ranks.
//
// Runs in the simulator and compiles for sm_90a; it has not run on a GPU yet.
#pragma once

#include "common/device_scope.h"
#include "common/launch.cuh"
#include "common/softmax.cuh"
#include "token_learner/layouts.cuh"
#include "token_learner/row_sums.cuh"

namespace blip3v::token_learner {

CUTE_DEVICE float gelu(float x) {
  return 0.5f * x * (1.f + erff(x * 0.70710678118654752f));
}

template <int kMade>
struct LogitsKernel {
  static constexpr int kHidden = hidden_tile(kMade), kStages = logits_stages(kMade);
  using X = Tile<kRows, kChunk>;
  using W1 = Tile<kHidden, kChunk>;
  using W2 = Tile<kMade, kHidden>;
  using LayoutX = typename X::template Stack<kConsumers * kStages>;
  using LayoutW1 = typename W1::template Stack<kStages>;
  using LayoutW2 = typename W2::template Stack<1>;
  using HiddenProduct = SharedProduct<kHidden, kChunk, kMajorK>;
  using LogitProduct = RegisterProduct<kMade, kHidden, kMajorK>;
  using ChunkSlot = Slot<kStages>;

  struct Params {
    Logits call;
    Load<X> x;
    Load<W1> w1;
    Load<W2> w2;
    int tiles;   // of a video
    int passes;  // over x
  };

  // A row of partial sums is 8 floats longer than it need be, which spreads rows over the banks.
  static constexpr int kPitch = kHidden + 8;

  struct Shared {
    union {
      struct {
        alignas(1024) bf16 x[kConsumers * kStages * X::kElements];
        alignas(1024) bf16 w1[kStages * W1::kElements];
      };
      // Of a split tile, between two passes, when the ring is empty.
      struct {
        float partial[kConsumers][kRows][kPitch];  // this block's channels
        float sum[kConsumers][kRows / 2][kPitch];  // this block's rows
      } split;
    };
    alignas(1024) bf16 w2[W2::kElements];
    float4 rows[kConsumers][kRows];  // r1 r2, -r1 r2 mu, r2, -r2 m2
    union {
      Sums sums[kRows];          // in the first pass
      float2 columns[4][kMade];  // at the end: of each warp
    } own[kConsumers];
    Ring<kStages> ring;
    Ring<1> w2_ring;
  };
  static_assert(sizeof(Shared) <= 227 * 1024);

  // Which tile, and which share of it.
  struct Work {
    int video, tile, rank, splits;
    int first, last;  // chunks of channels

    CUTE_DEVICE explicit Work(Params const& p) {
      splits = p.call.splits;
      rank = blockIdx.x % splits;
      int const number = blockIdx.x / splits, chunks = divide_up(p.call.sizes.channels, kChunk);
      video = number / p.tiles;
      tile = number % p.tiles;
      first = chunks * rank / splits;
      last = chunks * (rank + 1) / splits;
    }
    // Rows of 64 that this block finishes.
    CUTE_DEVICE int rows() const { return kRows / splits; }
    CUTE_DEVICE bool mine(int row) const { return row / rows() == rank; }
    CUTE_DEVICE int token(int who, int row) const { return (tile * kConsumers + who) * kRows + row; }
  };

  static CUTE_DEVICE void produce(Params const& p, Shared& s, Work const& work, int pass, ChunkSlot& slot,
                                  Slot<1>& w2_slot) {
    using namespace cute;
    Tensor sX = make_tensor(make_smem_ptr(s.x), LayoutX{});
    Tensor sW1 = make_tensor(make_smem_ptr(s.w1), LayoutW1{});
    Tensor sW2 = make_tensor(make_smem_ptr(s.w2), LayoutW2{});
    // w2 is wanted last: of the first pass there is room at once, later when the pass before is over.
    int const with_w2 = pass == 0 ? work.first : work.last - 1;
    CUTE_NO_UNROLL
    for (int c = work.first; c < work.last; ++c) {
      s.ring.acquire(slot, kConsumers * X::kBytes + W1::kBytes);
      CUTE_UNROLL
      for (int who = 0; who < kConsumers; ++who) {
        load_tile<X>(p.x, s.ring.full[slot.stage], work.tile * kConsumers + who, c, work.video,
                     sX(_, _, slot.stage * kConsumers + who));
      }
      load_tile<W1>(p.w1, s.ring.full[slot.stage], pass, c, 0, sW1(_, _, slot.stage));
      slot.advance();
      if (c == with_w2) {
        s.w2_ring.acquire(w2_slot, W2::kBytes);
        load_tile<W2>(p.w2, s.w2_ring.full[0], 0, pass, 0, sW2(_, _, _0{}));
        w2_slot.advance();
      }
    }
  }

  // The four numbers of the rows that this block finishes, from the sums of all blocks of the cluster.
  static CUTE_DEVICE void finish_rows(Params const& p, Shared& s, Work const& work, int who, int thread) {
    if (thread >= kRows || !work.mine(thread)) return;
    float4 low = make_float4(0.f, 0.f, 0.f, 0.f), high = low;
    for (int r = 0; r < work.splits; ++r) {
      float4 const* from = reinterpret_cast<float4 const*>(&s.own[who].sums[thread]);
      float4 const a = work.splits == 1 ? load_shared(from) : load_shared(peer_shared(from, r));
      float4 const b = work.splits == 1 ? load_shared(from + 1) : load_shared(peer_shared(from + 1, r));
      low = make_float4(low.x + a.x, low.y + a.y, low.z + a.z, low.w + a.w);
      high = make_float4(high.x + b.x, high.y + b.y, b.z, 0.f);  // the shift is the same everywhere
    }
    float const* moments = p.call.folded.moments;
    Row const row = row_of_sums(low, high, load_global(reinterpret_cast<float4 const*>(moments)),
                                load_global(moments + 4), p.call.sizes.channels, p.call.eps);
    store_shared(&s.rows[who][thread],
                 make_float4(row.r1 * row.r2, -row.r1 * row.r2 * row.mu, row.r2, -row.r2 * row.m2));
    int const token = work.token(who, thread);
    if (p.call.rows && token < p.call.sizes.tokens) {
      float4* const to =
          reinterpret_cast<float4*>(p.call.rows + std::int64_t(work.video) * p.call.sizes.tokens + token);
      store_global(to, make_float4(row.mu, row.r1, row.r2, row.m2));
      store_global(to + 1, make_float4(row.gx, row.g2x, row.g2xx, row.gbx));
    }
  }

  // Replaces this block's sums of products, over its channels, by those over all channels, of its rows; other
  // rows become zeros.
  template <class C>
  static CUTE_DEVICE void exchange(Params const& p, Shared& s, Work const& work, int pass, int who,
                                   int thread, C& products) {
    int const row = first_row(thread), column = first_column(thread), rows = work.rows();
    sync_consumers();  // both are through with the ring, whose place the sums take
    CUTE_UNROLL
    for (int i = 0; i < cute::size(products); i += 2) {
      store_shared(
          reinterpret_cast<float2*>(&s.split.partial[who][row + 8 * row_of(i)][column + column_of(i)]),
          float2{products(i), products(i + 1)});
    }
    cute::cluster_sync();  // every block has published
    constexpr int kUnits = kHidden / 4;
    for (int item = thread; item < rows * kUnits; item += 128) {
      int const r = item / kUnits, unit = item % kUnits * 4;
      float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
      for (int peer = 0; peer < work.splits; ++peer) {
        float4 const part = load_shared(peer_shared(
            reinterpret_cast<float4 const*>(&s.split.partial[who][work.rank * rows + r][unit]), peer));
        sum = make_float4(sum.x + part.x, sum.y + part.y, sum.z + part.z, sum.w + part.w);
      }
      store_shared(reinterpret_cast<float4*>(&s.split.sum[who][r][unit]), sum);
    }
    if (pass == 0) finish_rows(p, s, work, who, thread);
    cute::cluster_sync();  // nobody overwrites, or leaves, while others read
    CUTE_UNROLL
    for (int i = 0; i < cute::size(products); i += 2) {
      int const at = row + 8 * row_of(i);
      float2 sum = make_float2(0.f, 0.f);
      if (work.mine(at)) {
        sum = load_shared(
            reinterpret_cast<float2 const*>(&s.split.sum[who][at - work.rank * rows][column + column_of(i)]));
      }
      products(i) = sum.x;
      products(i + 1) = sum.y;
    }
    cutlass::arch::fence_view_async_shared();  // TMA writes here next
    __syncthreads();
  }

  // Products of x and Wf -> gelu(h), rounded.
  template <class C>
  static CUTE_DEVICE void activate(Params const& p, Shared& s, Work const& work, int pass, int who,
                                   int thread, C& products, OperandA<kHidden>& activated) {
    Sizes const& sizes = p.call.sizes;
    float4 rows[2];
    CUTE_UNROLL
    for (int r = 0; r < 2; ++r) {
      int const row = first_row(thread) + 8 * r;
      rows[r] = work.mine(row) ? load_shared(&s.rows[who][row]) : make_float4(0.f, 0.f, 0.f, 0.f);
    }
    CUTE_UNROLL
    for (int i = 0; i < cute::size(products); i += 4) {
      int const j = pass * kHidden + first_column(thread) + column_of(i);
      CUTE_UNROLL
      for (int e = 0; e < 2; ++e) {
        float4 const c = load_global(reinterpret_cast<float4 const*>(p.call.folded.constants) + j + e);
        CUTE_UNROLL
        for (int r = 0; r < 2; ++r) {
          float& h = products(i + 2 * r + e);
          h = rows[r].x * h + rows[r].y * c.x + rows[r].z * c.y + rows[r].w * c.z + c.w;
        }
      }
      CUTE_UNROLL
      for (int r = 0; r < 2; ++r) {
        int const row = first_row(thread) + 8 * r, token = work.token(who, row);
        float const h0 = products(i + 2 * r), h1 = products(i + 2 * r + 1);
        float const a0 = gelu(h0), a1 = gelu(h1);
        activated(i + 2 * r) = bf16(a0);
        activated(i + 2 * r + 1) = bf16(a1);
        if (p.call.hidden && j < sizes.hidden && token < sizes.tokens && work.mine(row)) {
          std::int64_t const at = (std::int64_t(work.video) * sizes.tokens + token) * sizes.hidden + j;
          store_global(reinterpret_cast<float2*>(p.call.hidden + at), float2{h0, h1});
          store_global(reinterpret_cast<std::uint32_t*>(static_cast<bf16*>(p.call.activated) + at),
                       pack(a0, a1));
        }
      }
    }
  }

  // Writes the logits, and maximum and sum of this block's rows of every column.
  template <class C>
  static CUTE_DEVICE void write(Params const& p, Shared& s, Work const& work, int who, int thread,
                                C& logits) {
    Sizes const& sizes = p.call.sizes;
    int const lane = thread % 32, padded = p.tiles * kTokens;
    bool owned[2], shown[2];
    CUTE_UNROLL
    for (int r = 0; r < 2; ++r) {
      int const row = first_row(thread) + 8 * r, token = work.token(who, row);
      bool const mine = work.mine(row);
      bool seen = mine && token < sizes.tokens;
      if (seen && p.call.keep) {
        seen = load_global(p.call.keep + work.video * p.call.keep_stride + token) != 0;
      }
      owned[r] = mine;
      shown[r] = seen;
    }
    // One address that moves on: many at a time would not fit into the registers beside the logits.
    float* to = p.call.logits + (std::int64_t(work.video) * kMade + first_column(thread)) * padded +
                work.token(who, first_row(thread));
    CUTE_UNROLL
    for (int i = 0; i < cute::size(logits); i += 4) {
      CUTE_UNROLL
      for (int e = 0; e < 4; ++e) {
        if (!shown[row_of(e)]) logits(i + e) = -INFINITY;
        if (owned[row_of(e)]) store_global(to + column_of(e) * padded + 8 * row_of(e), logits(i + e));
      }
      to += 8 * std::int64_t(padded);
    }
    CUTE_UNROLL
    for (int i = 0; i < cute::size(logits); i += 4) {
      CUTE_UNROLL
      for (int e = 0; e < 2; ++e) {
        float const a = logits(i + e), b = logits(i + 2 + e);
        float max = fmaxf(a, b);
        CUTE_UNROLL
        for (int by = 4; by < 32; by *= 2) max = fmaxf(max, __shfl_xor_sync(~0u, max, by));
        float const shift = max == -INFINITY ? 0.f : max * kLog2E;
        float sum = exp2f(a * kLog2E - shift) + exp2f(b * kLog2E - shift);
        CUTE_UNROLL
        for (int by = 4; by < 32; by *= 2) sum += __shfl_xor_sync(~0u, sum, by);
        if (lane < 4) {
          store_shared(&s.own[who].columns[thread / 32][first_column(thread) + column_of(i) + e],
                       float2{max, sum});
        }
      }
    }
    sync_consumer(who);
    std::int64_t const part = (std::int64_t(work.video) * p.tiles + work.tile) * kConsumers + who;
    for (int column = thread; column < kMade; column += 128) {
      float2 all = load_shared(&s.own[who].columns[0][column]);
      CUTE_UNROLL
      for (int w = 1; w < 4; ++w) all = join(all, load_shared(&s.own[who].columns[w][column]));
      store_global(p.call.parts + (part * work.splits + work.rank) * kMade + column, all);
    }
  }

  // Maximum and sum of both.
  static CUTE_DEVICE float2 join(float2 a, float2 b) {
    float const max = fmaxf(a.x, b.x), shift = max == -INFINITY ? 0.f : max * kLog2E;
    return {max, a.y * exp2f(a.x * kLog2E - shift) + b.y * exp2f(b.x * kLog2E - shift)};
  }

  static __device__ void consume(Params const& p, Shared& s, Work const& work, int who, int thread) {
    using namespace cute;
    int const lane = thread % 32;
    Tensor sX = make_tensor(make_smem_ptr(s.x), LayoutX{});
    Tensor sW1 = make_tensor(make_smem_ptr(s.w1), LayoutW1{});
    Tensor sW2 = make_tensor(make_smem_ptr(s.w2), LayoutW2{});
    auto hidden_product = HiddenProduct{}.get_thread_slice(thread);
    auto logit_product = LogitProduct{}.get_thread_slice(thread);
    Tensor fX = hidden_product.partition_fragment_A(sX);
    Tensor fW1 = hidden_product.partition_fragment_B(sW1);
    Tensor fW2 = logit_product.partition_fragment_B(sW2);
    Tensor products = partition_fragment_C(HiddenProduct{}, cute::Shape<Int<kRows>, Int<kHidden>>{});
    Tensor logits = partition_fragment_C(LogitProduct{}, cute::Shape<Int<kRows>, Int<kMade>>{});
    OperandA<kHidden> activated;
    ChunkSlot slot, before;
    Slot<1> w2_slot;
    Sizes const& sizes = p.call.sizes;

    // Products over this block's channels; `more` is done with a chunk while they run.
    auto multiply = [&](auto const& more) {
      clear(products);
      CUTE_NO_UNROLL
      for (int c = work.first; c < work.last; ++c) {
        s.ring.wait(slot);
        start_product(HiddenProduct{}, fX(_, _, _, slot.stage * kConsumers + who), fW1(_, _, _, slot.stage),
                      products, true);
        more(c);
        if (c > work.first) {
          warpgroup_wait<1>();  // the chunk before is through
          __syncwarp();         // also for the other lanes' `more`
          s.ring.release(before, lane);
        }
        before = slot;
        slot.advance();
      }
      finish_product<0>(products);
      __syncwarp();
      s.ring.release(before, lane);
    };

    for (int pass = 0; pass < p.passes; ++pass) {
      if (pass == 0) {
        int const token = work.token(who, 0);
        bf16 const* first =
            static_cast<bf16 const*>(p.call.x.data) + work.video * p.call.x.video + token * p.call.x.row;
        RowSums sums(first, p.call.x.row, sizes.tokens - token, thread);
        multiply([&](int c) {
          sums.add(sX(_, _, slot.stage * kConsumers + who), p.call.folded.channels, c, sizes.channels,
                   thread);
        });
        sums.publish(s.own[who].sums, thread);
        clear(logits);
        // Here and not earlier: the front end would clear them ahead of the loop, and the row statistics
        // would have too few registers.
        warpgroup_fence_operand(logits);
        if (work.splits == 1) {
          sync_consumer(who);
          finish_rows(p, s, work, who, thread);
          sync_consumer(who);
        }
      } else {
        multiply([](int) {});
      }
      if (work.splits > 1) exchange(p, s, work, pass, who, thread, products);
      activate(p, s, work, pass, who, thread, products, activated);
      s.w2_ring.wait(w2_slot);
      start_product(LogitProduct{}, activated, fW2(_, _, _, 0), logits, true);
      finish_product<0>(logits);
      s.w2_ring.release(w2_slot, lane);
      w2_slot.advance();
    }
    write(p, s, work, who, thread, logits);
  }

  static __device__ void run(Params const& p) {
    Shared& s = dynamic_shared<Shared>();
    int const warpgroup = threadIdx.x / 128, thread = threadIdx.x % 128;
    Work const work(p);
    if (threadIdx.x == 0) {
      s.ring.init(4 * kConsumers);
      s.w2_ring.init(4 * kConsumers);
      cutlass::arch::fence_barrier_init();
    }
    __syncthreads();
    if (warpgroup == 0) {
      cutlass::arch::warpgroup_reg_dealloc<kProducerRegisters>();
      bool const leader = thread < 32 && cute::elect_one_sync();
      ChunkSlot slot;
      Slot<1> w2_slot;
      for (int pass = 0; pass < p.passes; ++pass) {
        if (leader) produce(p, s, work, pass, slot, w2_slot);
        __syncwarp();
        if (work.splits > 1) {  // the barriers of `exchange`
          cute::cluster_sync();
          cute::cluster_sync();
          __syncthreads();
        }
      }
    } else {
      cutlass::arch::warpgroup_reg_alloc<kConsumerRegisters>();
      consume(p, s, work, warpgroup - 1, thread);
    }
  }
};

template <int kMade>
__global__ void __launch_bounds__(kThreads, 1)
    logits_kernel(__grid_constant__ const typename LogitsKernel<kMade>::Params params) {
  LogitsKernel<kMade>::run(params);
}

template <int kMade>
void logits(const Logits& call, cudaStream_t stream) {
  using Kernel = LogitsKernel<kMade>;
  Sizes const& sizes = call.sizes;
  int const passes = divide_up(sizes.hidden, Kernel::kHidden), padded = passes * Kernel::kHidden;
  typename Kernel::Params const params{
      call,
      make_load<typename Kernel::X>(matrices(call.x, sizes.tokens, sizes)),
      make_load<typename Kernel::W1>(matrix(call.folded.w1, padded, sizes.channels)),
      make_load<typename Kernel::W2>(matrix(call.folded.w2, kMade, padded)),
      divide_up(sizes.tokens, kTokens),
      passes};
  launch("token_learner", logits_kernel<kMade>,
         {dim3(sizes.videos * params.tiles * call.splits), dim3(kThreads), dim3(call.splits),
          sizeof(typename Kernel::Shared)},
         stream, params);
}

}  // namespace blip3v::token_learner

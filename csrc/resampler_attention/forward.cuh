// Cross-attention of the Perceiver-Resampler, forward, for one (frame, head) at a time:
//
//   S = scale * Q [K_media ; K_latents]^T, hidden keys -inf
//   O = softmax(S) [V_media ; V_latents],   LSE = log(sum exp(S))
//
// Keys and values stay where they are: two tensors each, never concatenated. A block holds all queries, so
// keys and values are read once. Warpgroup 0 is the producer, one thread of which issues every TMA load;
// warpgroups 1 and 2 own 64 queries each. A block goes through several (frame, head) while its rings never
// run dry.
//
// A consumer keeps two products in flight: S(j) = Q K(j)^T is started before O += P(j-1) V(j-1), and the
// softmax of S(j) runs while that second one is computed.
//
// With few frames, a cluster of `splits` blocks shares the keys of one (frame, head); the blocks' results are
// brought together through distributed shared memory in the order of their ranks, so every run gives the same
// bits.
//
// Runs in the simulator and compiles for sm_90a; it has not run on a GPU yet.
#pragma once

#include "common/device_scope.h"
#include "common/launch.cuh"
#include "common/memory.cuh"
#include "common/ring.cuh"
#include "common/softmax.cuh"
#include "common/wgmma.cuh"
#include "resampler_attention/layouts.cuh"
#include "resampler_attention/work.cuh"

namespace blip3v::resampler_attention {

template <int kHeadDim>
struct ForwardKernel {
  using T = Tiles<kHeadDim>;
  static constexpr int kDim = T::kDim;
  static constexpr int kStages = kForwardStages;
  using QuerySlot = Slot<kQueryStages>;
  using KeySlot = Slot<kStages>;

  using LayoutQ = typename T::template Stack<kConsumers * kQueryStages>;
  using LayoutKV = typename T::template Stack<kStages>;
  using LayoutVt = typename T::template Transposed<kStages>;
  using LayoutO = typename T::template Stack<kConsumers>;

  using MmaS = decltype(cute::make_tiled_mma(
      cute::SM90_64x64x16_F32BF16BF16_SS<cute::GMMA::Major::K, cute::GMMA::Major::K>{}));
  using MmaO = decltype(cute::make_tiled_mma(
      cute::GMMA::rs_op_selector<bf16, bf16, float,
                                 cute::Shape<cute::Int<kRows>, cute::Int<kDim>, cute::Int<kTile>>,
                                 cute::GMMA::Major::K, cute::GMMA::Major::MN>()));

  struct Params {
    Inputs in;
    View out;
    float* lse;
    Load<kHeadDim> q, k_media, v_media, k_latents, v_latents;
    Store<kHeadDim> o;
    int splits;
  };

  // What a block tells the others of its cluster: sums that are not yet divided.
  struct Partial {
    float o[kQueries][kDim];
    float max[kQueries], total[kQueries];
  };

  struct Shared {
    alignas(1024) bf16 q[kQueryStages * kConsumers * T::kElements];
    union {
      struct {
        alignas(1024) bf16 k[kStages * T::kElements];
        alignas(1024) bf16 v[kStages * T::kElements];
      };
      Partial partial;  // of the only (frame, head) of a split block, once its rings are empty
    };
    alignas(1024) bf16 o[kConsumers * T::kElements];
    Ring<kQueryStages> q_ring;
    Ring<kStages> k_ring, v_ring;
  };
  static_assert(sizeof(Shared) <= 227 * 1024);

  static __device__ void produce(Params const& p, Shared& s, int first, int stride, int rank) {
    using namespace cute;
    Tensor sQ = make_tensor(make_smem_ptr(s.q), LayoutQ{});
    Tensor sK = make_tensor(make_smem_ptr(s.k), LayoutKV{});
    Tensor sV = make_tensor(make_smem_ptr(s.v), LayoutKV{});
    Sizes const& sizes = p.in.sizes;
    QuerySlot q;
    KeySlot k, v;

    for (int number = first; number < sizes.frames * sizes.heads; number += stride) {
      Work const work(p.in, number, rank, p.splits);
      auto load = [&](Load<kHeadDim> const& media, Load<kHeadDim> const& latents, Ring<kStages>& ring,
                      KeySlot& slot, auto const& buffers, int j) {
        bool const in_media = work.keys.in_media(j);
        Load<kHeadDim> const& copy = in_media ? media : latents;
        ring.acquire(slot, T::kBytes);
        load_tile(copy, ring.full[slot.stage],
                  tile_of<kHeadDim>(copy, sizes, work.keys.local(j), work.head, work.frame),
                  buffers(_, _, slot.stage));
        slot.advance();
      };

      s.q_ring.acquire(q, kConsumers * T::kBytes);
      for (int c = 0; c < kConsumers; ++c) {
        load_tile(p.q, s.q_ring.full[q.stage], tile_of<kHeadDim>(p.q, sizes, c, work.head, work.frame),
                  sQ(_, _, q.stage * kConsumers + c));
      }
      q.advance();
      // V of a tile is wanted one tile later than its K.
      for (int j = work.tiles.first; j < work.tiles.last; ++j) {
        load(p.k_media, p.k_latents, s.k_ring, k, sK, j);
        if (j > work.tiles.first) load(p.v_media, p.v_latents, s.v_ring, v, sV, j - 1);
      }
      if (work.tiles.first < work.tiles.last)
        load(p.v_media, p.v_latents, s.v_ring, v, sV, work.tiles.last - 1);
    }
  }

  // Sets the scores of hidden keys to -inf. TMA has filled keys beyond the tensor with zeros, whose score is
  // 0.
  template <class C>
  static __device__ void hide(C& scores, Params const& p, Work const& work, int j, int thread) {
    int const left = work.keys.left(j);
    bool const in_media = work.keys.in_media(j);
    if (left < kTile) {
      CUTE_UNROLL
      for (int i = 0; i < cute::size(scores); ++i) {
        if (first_column(thread) + column_of(i) >= left) scores(i) = -INFINITY;
      }
    }
    if (p.in.keep && in_media) {
      std::uint8_t const* keep = p.in.keep + work.frame * p.in.keep_stride + work.keys.local(j) * kTile;
      CUTE_UNROLL
      for (int i = 0; i < cute::size(scores); ++i) {
        int const column = first_column(thread) + column_of(i);
        if (row_of(i) == 0) {  // both rows of the thread share the key: one load, two scores
          if (column < left && !load_global(keep + column)) scores(i) = scores(i + 2) = -INFINITY;
        }
      }
    }
  }

  static __device__ void consume(Params const& p, Shared& s, int first, int stride, int rank, int who,
                                 int thread) {
    using namespace cute;
    int const lane = thread % 32;
    Tensor sQ = make_tensor(make_smem_ptr(s.q), LayoutQ{});
    Tensor sK = make_tensor(make_smem_ptr(s.k), LayoutKV{});
    Tensor sVt = make_tensor(make_smem_ptr(s.v), LayoutVt{});
    auto mma_s = MmaS{}.get_thread_slice(thread);
    auto mma_o = MmaO{}.get_thread_slice(thread);
    Tensor fK = mma_s.partition_fragment_B(sK);
    Tensor fV = mma_o.partition_fragment_B(sVt);
    Tensor scores = partition_fragment_C(MmaS{}, cute::Shape<Int<kRows>, Int<kTile>>{});
    Tensor o = partition_fragment_C(MmaO{}, cute::Shape<Int<kRows>, Int<kDim>>{});
    OperandA<kTile> probabilities;
    QuerySlot q;
    KeySlot k, v;

    for (int number = first; number < p.in.sizes.frames * p.in.sizes.heads; number += stride) {
      Work const work(p.in, number, rank, p.splits);
      OnlineSoftmax softmax{p.in.scale * kLog2E};
      float factor[2];
      Tensor fQ = mma_s.partition_fragment_A(sQ(_, _, q.stage * kConsumers + who));

      s.q_ring.wait(q);
      if (work.tiles.first < work.tiles.last) {
        s.k_ring.wait(k);
        start_product(MmaS{}, fQ, fK(_, _, _, k.stage), scores, false);
        finish_product<0>(scores);
        s.k_ring.release(k, lane);
        k.advance();
        hide(scores, p, work, work.tiles.first, thread);
        softmax.update(scores, factor);
        round_to_operand<kTile>(scores, probabilities);

        for (int j = work.tiles.first + 1; j < work.tiles.last; ++j) {
          s.k_ring.wait(k);
          start_product(MmaS{}, fQ, fK(_, _, _, k.stage), scores, false);
          s.v_ring.wait(v);
          start_product(MmaO{}, probabilities, fV(_, _, _, v.stage), o, j > work.tiles.first + 1);
          finish_product<1>(scores);  // S(j) is there, O may still be running
          s.k_ring.release(k, lane);
          k.advance();
          hide(scores, p, work, j, thread);
          softmax.update(scores, factor);
          // Over at once: Q is there. But ptxas moves no arithmetic across the branch in it, and without it
          // the softmax would be computed behind the wait below, with idle tensor cores.
          s.q_ring.wait(q);
          finish_product<0>(o);  // O(j-1) is there, P(j-1) may be overwritten
          s.v_ring.release(v, lane);
          v.advance();
          CUTE_UNROLL
          for (int i = 0; i < size(o); ++i) o(i) *= factor[row_of(i)];
          round_to_operand<kTile>(scores, probabilities);
        }
        s.v_ring.wait(v);
        start_product(MmaO{}, probabilities, fV(_, _, _, v.stage), o, work.tiles.last - work.tiles.first > 1);
        finish_product<0>(o);
        s.v_ring.release(v, lane);
        v.advance();
      } else {
        clear(o);  // more blocks in the cluster than tiles, or no key at all
      }
      s.q_ring.release(q, lane);
      q.advance();

      if (p.splits == 1) {
        write(p, s, work, who, thread, softmax, o);
      } else {
        publish(s, who, thread, softmax, o);
      }
    }
    if (thread == 0) cute::tma_store_wait<0>();  // shared memory must outlive the stores that read it
  }

  // Divides, rounds, stages the 64 rows in shared memory and lets TMA write those that exist.
  template <class C>
  static __device__ void write(Params const& p, Shared& s, Work const& work, int who, int thread,
                               OnlineSoftmax const& softmax, C const& o) {
    using namespace cute;
    Tensor tile = make_tensor(make_smem_ptr(s.o), LayoutO{})(_, _, who);
    float inverse[2];
    CUTE_UNROLL
    for (int r = 0; r < 2; ++r) {
      float const total = softmax.total(r);
      inverse[r] = total == 0.f ? 0.f : 1.f / total;
      int const query = who * kRows + first_row(thread) + 8 * r;
      if (thread % 4 == 0 && query < p.in.sizes.queries) {
        store_global(
            p.lse + (std::int64_t(work.frame) * p.in.sizes.heads + work.head) * p.in.sizes.queries + query,
            log_sum_exp(softmax.max[r], total, softmax.scale_log2));
      }
    }
    if (thread == 0) tma_store_wait<0>();  // the previous (frame, head) has left the buffer
    cutlass::arch::NamedBarrier::sync(128, who);
    CUTE_UNROLL
    for (int i = 0; i < size(o); i += 2) {
      float const by = inverse[row_of(i)];
      store_shared(reinterpret_cast<std::uint32_t*>(
                       &tile(first_row(thread) + 8 * row_of(i), first_column(thread) + column_of(i))),
                   pack(o(i) * by, o(i + 1) * by));
    }
    tma_store_fence();
    cutlass::arch::NamedBarrier::sync(128, who);
    if (thread == 0) {
      store_tile(p.o, tile, tile_of<kHeadDim>(p.o, p.in.sizes, who, work.head, work.frame));
      tma_store_arrive();
    }
  }

  // --- a cluster per (frame, head) -------------------------------------------------------------------------

  // Leaves this block's sums where its peers can read them. Both consumers must have emptied the rings.
  template <class C>
  static __device__ void publish(Shared& s, int who, int thread, OnlineSoftmax const& softmax, C const& o) {
    cutlass::arch::NamedBarrier::sync(128 * kConsumers, kConsumers);
    int const row = who * kRows + first_row(thread);
    CUTE_UNROLL
    for (int i = 0; i < cute::size(o); i += 2) {
      store_shared(
          reinterpret_cast<float2*>(&s.partial.o[row + 8 * row_of(i)][first_column(thread) + column_of(i)]),
          float2{o(i), o(i + 1)});
    }
    CUTE_UNROLL
    for (int r = 0; r < 2; ++r) {
      float const total = softmax.total(r);
      if (thread % 4 == 0) {
        store_shared(&s.partial.max[row + 8 * r], softmax.max[r]);
        store_shared(&s.partial.total[row + 8 * r], total);
      }
    }
  }

  // Each block finishes its share of the queries; `thread` counts the consumers' threads.
  static __device__ void combine(Params const& p, Shared& s, int number, int rank, int thread) {
    constexpr int kChunk = 8;  // channels: 16 bytes of output
    constexpr int kChunks = kHeadDim / kChunk;
    int const head = number % p.in.sizes.heads, frame = number / p.in.sizes.heads;
    int const first = p.in.sizes.queries * rank / p.splits, last = p.in.sizes.queries * (rank + 1) / p.splits;
    float const scale_log2 = p.in.scale * kLog2E;

    for (int item = thread; item < (last - first) * kChunks; item += 128 * kConsumers) {
      int const query = first + item / kChunks, channel = item % kChunks * kChunk;
      float max = -INFINITY, total = 0.f, sum[kChunk] = {};
      for (int r = 0; r < p.splits; ++r) max = fmaxf(max, load_shared(peer_shared(&s.partial.max[query], r)));
      float const shift = max == -INFINITY ? 0.f : max * scale_log2;
      for (int r = 0; r < p.splits; ++r) {
        float const weight = exp2f(load_shared(peer_shared(&s.partial.max[query], r)) * scale_log2 - shift);
        total += weight * load_shared(peer_shared(&s.partial.total[query], r));
        float const* from = peer_shared(&s.partial.o[query][channel], r);
        CUTE_UNROLL
        for (int c = 0; c < kChunk; c += 4) {
          float4 const x = load_shared(reinterpret_cast<float4 const*>(from + c));
          sum[c] += weight * x.x;
          sum[c + 1] += weight * x.y;
          sum[c + 2] += weight * x.z;
          sum[c + 3] += weight * x.w;
        }
      }
      float const inverse = total == 0.f ? 0.f : 1.f / total;
      uint4 const rounded{pack(sum[0] * inverse, sum[1] * inverse), pack(sum[2] * inverse, sum[3] * inverse),
                          pack(sum[4] * inverse, sum[5] * inverse), pack(sum[6] * inverse, sum[7] * inverse)};
      bf16* row =
          static_cast<bf16*>(p.out.data) + frame * p.out.frame + head * p.out.head + query * p.out.row;
      store_global(reinterpret_cast<uint4*>(row + channel), rounded);
      if (channel == 0) {
        store_global(p.lse + (std::int64_t(frame) * p.in.sizes.heads + head) * p.in.sizes.queries + query,
                     log_sum_exp(max, total, scale_log2));
      }
    }
  }

  static __device__ void run(Params const& p) {
    Shared& s = dynamic_shared<Shared>();
    int const warpgroup = threadIdx.x / 128, thread = threadIdx.x % 128;
    int const rank = blockIdx.x % p.splits, first = blockIdx.x / p.splits, stride = gridDim.x / p.splits;
    if (threadIdx.x == 0) {
      s.q_ring.init(4 * kConsumers);
      s.k_ring.init(4 * kConsumers);
      s.v_ring.init(4 * kConsumers);
      cutlass::arch::fence_barrier_init();
    }
    __syncthreads();
    // The two roles never meet again: code that both reach would have to do with the registers of the
    // producer.
    if (warpgroup == 0) {
      cutlass::arch::warpgroup_reg_dealloc<kForwardProducerRegisters>();
      if (thread < 32 && cute::elect_one_sync()) produce(p, s, first, stride, rank);
      __syncwarp();
      if (p.splits > 1) {
        cute::cluster_sync();
        cute::cluster_sync();
      }
    } else {
      cutlass::arch::warpgroup_reg_alloc<kForwardConsumerRegisters>();
      consume(p, s, first, stride, rank, warpgroup - 1, thread);
      if (p.splits > 1) {
        cute::cluster_sync();  // every block has published
        combine(p, s, first, rank, threadIdx.x - 128);
        cute::cluster_sync();  // nobody leaves while its shared memory is being read
      }
    }
  }
};

template <int kHeadDim>
__global__ void __launch_bounds__(kThreads, 1)
    forward_kernel(__grid_constant__ const typename ForwardKernel<kHeadDim>::Params params) {
  ForwardKernel<kHeadDim>::run(params);
}

template <int kHeadDim>
std::size_t forward_shared_bytes() {
  return sizeof(typename ForwardKernel<kHeadDim>::Shared);
}

template <int kHeadDim>
void forward(const Forward& call, cudaStream_t stream) {
  using Kernel = ForwardKernel<kHeadDim>;
  Inputs const& in = call.in;
  Sizes const& sizes = in.sizes;
  auto load = [&](View const& view, int rows) {
    return make_copy_or<kHeadDim>(cute::SM90_TMA_LOAD{}, view, rows, sizes, in.q);
  };
  int const blocks = multiprocessors(), splits = choose_splits(in, blocks),
            works = sizes.frames * sizes.heads;
  typename Kernel::Params const params{
      in,
      call.out,
      call.lse,
      load(in.q, sizes.queries),
      load(in.k_media, sizes.media),
      load(in.v_media, sizes.media),
      load(in.k_latents, sizes.latents),
      load(in.v_latents, sizes.latents),
      make_copy<kHeadDim>(cute::SM90_TMA_STORE{}, call.out, sizes.queries, sizes.heads, sizes.frames),
      splits};
  // A split block has one (frame, head) only: its rings become the place where the cluster meets.
  int const clusters = splits > 1 ? works : std::min(works, blocks);
  launch("resampler_attention", forward_kernel<kHeadDim>,
         {dim3(clusters * splits), dim3(kThreads), dim3(splits), forward_shared_bytes<kHeadDim>()}, stream,
         params);
}

}  // namespace blip3v::resampler_attention

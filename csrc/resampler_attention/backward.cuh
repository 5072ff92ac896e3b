// Cross-attention of the Perceiver-Resampler, backward, for one (frame, head) at a time. With P = softmax(S)
// as in forward.cuh, recomputed from the scores and their log-sum-exp, and g the gradient of a tensor:
//
//   P     = exp(scale * Q K^T - LSE), 0 for hidden keys
//   delta = rowsum(gO * O)                          dS = P * (gO V^T - delta)
//   gV    = P^T gO          gK = scale * dS^T Q     gQ = scale * dS K
//
// A block holds all queries, so one tile of keys has its gK and gV finished when the block leaves it, and gQ
// stays in registers until the keys are through: no atomics, one pass, every output written once, always the
// same bits. Warpgroup 0 is the producer, one thread of which issues every TMA load. Warpgroups 1 and 2, the
// consumers, own 64 queries each and compute S, gO V^T and gQ of these; gK and gV sum over all queries, so
// the consumers exchange P and dS through shared memory, and then the first one computes gV, the second one
// gK.
//
// The tensor cores are kept busy across tiles. A consumer starts S(j+1) and gO V(j+1)^T and, while they run,
// sends the finished gradient of tile j-1 on its way; it starts gV(j) or gK(j) and gQ += dS(j) K(j) and,
// while they run, computes P(j+1) and dS(j+1) in registers. Only the exchange of these happens with nothing
// in flight.
//
// Keys that `lengths` cuts off are not read where they fill whole tiles; their gradients are written as
// zeros. With few frames, a cluster of `splits` blocks shares the keys of one (frame, head); the blocks'
// parts of gQ are added through distributed shared memory in the order of their ranks.
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
struct BackwardKernel {
  using T = Tiles<kHeadDim>;
  static constexpr int kDim = T::kDim;

  // --- what fits in 227 KiB, see tiles.h
  // -----------------------------------------------------------------------
  static constexpr int kScoreElements = kRows * kTile;
  static constexpr int kSpare = 227 * 1024 - 1024 /* barriers */ - 2 * kConsumers * kScoreElements * 2;
  // Q and gO of the next (frame, head) are loaded while this one is computed, where the key rings stay deep
  // enough.
  static constexpr int kQueryStages = kDim <= 96 ? 2 : 1;
  static constexpr int kRingTiles = kSpare / int(T::kBytes) - 2 * kConsumers * kQueryStages - kConsumers;
  // K(j) is held from S(j), one tile ahead, to the end of gQ += dS(j) K(j): one stage more than V where
  // possible.
  static constexpr int kValueStages = kRingTiles / 2 < 3 ? kRingTiles / 2 : 3;
  static constexpr int kKeyStages = kRingTiles - kValueStages < 4 ? kRingTiles - kValueStages : 4;
  // P(j+1) and dS(j+1) are computed while the products of tile j run, where the registers suffice for all of
  // it: two accumulators of kDim columns, two of 64.
  static constexpr bool kOverlap = kDim <= 128;
  // A block goes on to further (frame, head) while its rings never run dry; at 144 channels the registers
  // that keep track of it are not there.
  static constexpr bool kPersistent = kDim <= 128;
  static_assert(kValueStages >= 2 && kKeyStages >= 2, "S(j+1) is started while K(j) is in use");

  using QuerySlot = Slot<kQueryStages>;
  using KeySlot = Slot<kKeyStages>;
  using ValueSlot = Slot<kValueStages>;

  // --- shared memory: layouts of the same tiles as different products want them
  // -------------------------------- Q and behind it gO: [64 queries, kDim, half of the queries + 2 * stage +
  // kQueryTiles * (gO ? 1 : 0)].
  static constexpr int kQueryTiles = kQueryStages * kConsumers;
  using LayoutQ = typename T::template Stack<2 * kQueryTiles>;
  using LayoutQt = typename T::template Transposed<2 * kQueryTiles>;
  using LayoutK = typename T::template Stack<kKeyStages>;
  using LayoutKt = typename T::template Transposed<kKeyStages>;
  using LayoutV = typename T::template Stack<kValueStages>;
  using LayoutGradient = typename T::template Stack<kConsumers>;
  // P and behind it dS: [64 queries, 64 keys, half of the queries + kConsumers * (dS ? 1 : 0)].
  using LayoutS = typename Tiles<kTile>::template Stack<2 * kConsumers>;
  using LayoutSt = typename Tiles<kTile>::template Transposed<2 * kConsumers>;

  // --- products
  // ------------------------------------------------------------------------------------------------
  template <cute::GMMA::Major kMajorA, cute::GMMA::Major kMajorB, int kColumns, int kDepth>
  using Product = decltype(cute::make_tiled_mma(
      cute::GMMA::ss_op_selector<bf16, bf16, float,
                                 cute::Shape<cute::_64, cute::Int<kColumns>, cute::Int<kDepth>>, kMajorA,
                                 kMajorB>()));
  using ScoreProduct = Product<cute::GMMA::Major::K, cute::GMMA::Major::K, kTile, kDim>;   // Q K^T, gO V^T
  using KeyProduct = Product<cute::GMMA::Major::MN, cute::GMMA::Major::MN, kDim, kRows>;   // P^T gO, dS^T Q
  using QueryProduct = Product<cute::GMMA::Major::K, cute::GMMA::Major::MN, kDim, kTile>;  // dS K

  struct Params {
    Backward call;
    Load<kHeadDim> q, dout, k_media, v_media, k_latents, v_latents;
    Store<kHeadDim> dq, dk_media, dv_media, dk_latents, dv_latents;
    int splits;    // blocks of a cluster, which share a (frame, head)
    int clusters;  // a block's next (frame, head) is this many further on
  };

  struct Shared {
    alignas(1024) bf16 queries[2 * kQueryTiles * T::kElements];  // Q and gO
    union {
      struct {
        alignas(1024) bf16 k[kKeyStages * T::kElements];
        alignas(1024) bf16 v[kValueStages * T::kElements];
      };
      // What a block tells the others of its cluster once its rings are empty: its part of gQ. Four numbers
      // of one thread side by side, the threads in a row: no bank conflicts, and nobody needs a layout.
      float4 partial[kDim / 8][128 * kConsumers];
    };
    alignas(1024) bf16 scores[2 * kConsumers * kScoreElements];  // P and dS
    alignas(1024) bf16 gradient[kConsumers * T::kElements];      // on their way out
    Ring<kQueryStages> q_ring;
    Ring<kKeyStages> k_ring;
    Ring<kValueStages> v_ring;
  };
  static_assert(sizeof(Shared) <= 227 * 1024);

  // Named barriers: 0 and 1 for one consumer each, 2 for both.
  static CUTE_DEVICE void sync_consumer(int who) { cutlass::arch::NamedBarrier::sync(128, who); }
  static CUTE_DEVICE void sync_consumers() {
    cutlass::arch::NamedBarrier::sync(128 * kConsumers, kConsumers);
  }

  static __device__ void produce(Params const& p, Shared& s, int first, int rank) {
    using namespace cute;
    Tensor sQ = make_tensor(make_smem_ptr(s.queries), LayoutQ{});
    Tensor sK = make_tensor(make_smem_ptr(s.k), LayoutK{});
    Tensor sV = make_tensor(make_smem_ptr(s.v), LayoutV{});
    Sizes const& sizes = p.call.in.sizes;
    QuerySlot q;
    KeySlot k;
    ValueSlot v;

    for (int number = first; number < sizes.frames * sizes.heads; number += p.clusters) {
      Work const work(p.call.in, number, rank, p.splits);
      auto load = [&](Load<kHeadDim> const& media, Load<kHeadDim> const& latents, auto& ring, auto& slot,
                      auto const& buffers, int j) {
        bool const in_media = work.keys.in_media(j);
        Load<kHeadDim> const& copy = in_media ? media : latents;
        ring.acquire(slot, T::kBytes);
        load_tile(copy, ring.full[slot.stage],
                  tile_of<kHeadDim>(copy, sizes, work.keys.local(j), work.head, work.frame),
                  buffers(_, _, slot.stage));
        slot.advance();
      };
      auto load_queries = [&](Load<kHeadDim> const& copy, int to) {
        CUTE_NO_UNROLL
        for (int c = 0; c < kConsumers; ++c) {
          load_tile(copy, s.q_ring.full[q.stage], tile_of<kHeadDim>(copy, sizes, c, work.head, work.frame),
                    sQ(_, _, to + q.stage * kConsumers + c));
        }
      };

      s.q_ring.acquire(q, 2 * kConsumers * T::kBytes);
      load_queries(p.q, 0);
      load_queries(p.dout, kQueryTiles);
      q.advance();
      CUTE_NO_UNROLL  // the producer has few registers
          for (int j = work.tiles.first; j < work.tiles.last; ++j) {
        load(p.k_media, p.k_latents, s.k_ring, k, sK, j);
        load(p.v_media, p.v_latents, s.v_ring, v, sV, j);
      }
      if constexpr (!kPersistent) break;
    }
  }

  // The two rows of one thread: P = exp2(scale_log2 * score - shift), dS = P * (dP - delta).
  struct Rows {
    float shift[2], delta[2];
  };

  // Rows beyond Q and rows that saw no key have P = 0: an infinite shift, and a delta that cannot turn 0 into
  // NaN.
  template <class Gradient>
  static CUTE_DEVICE Rows read_rows(Params const& p, Work const& work, Gradient const& dout, int who,
                                    int thread) {
    int const queries = p.call.in.sizes.queries;
    float const* lse = p.call.lse + (std::int64_t(work.frame) * p.call.in.sizes.heads + work.head) * queries;
    bf16 const* out = static_cast<bf16 const*>(p.call.out.data) + work.frame * p.call.out.frame +
                      work.head * p.call.out.head;
    Rows rows;
    CUTE_UNROLL
    for (int r = 0; r < 2; ++r) {
      int const row = first_row(thread) + 8 * r, query = who * kRows + row;
      float const value = query < queries ? load_global(lse + query) : -INFINITY;
      rows.shift[r] = value == -INFINITY ? INFINITY : value * kLog2E;
      float sum = 0.f;
      if (value != -INFINITY) {
        CUTE_UNROLL
        for (int channel = thread % 4 * 8; channel < kHeadDim;
             channel += 32) {  // 16 bytes per thread of a quad
          uint4 const o = load_global(reinterpret_cast<uint4 const*>(out + query * p.call.out.row + channel));
          uint4 const g = load_shared(reinterpret_cast<uint4 const*>(&dout(row, channel)));
          sum += dot(o.x, g.x) + dot(o.y, g.y) + dot(o.z, g.z) + dot(o.w, g.w);
        }
      }
      rows.delta[r] = quad_sum(sum);
    }
    return rows;
  }

  // Two bf16 times two bf16.
  static CUTE_DEVICE float dot(std::uint32_t a, std::uint32_t b) {
    return float(bf16::bitcast(a & 0xffff)) * float(bf16::bitcast(b & 0xffff)) +
           float(bf16::bitcast(a >> 16)) * float(bf16::bitcast(b >> 16));
  }

  // Bit i: key i of tile j is seen. Each lane looks at two keys and the warp puts the answers together.
  static CUTE_DEVICE std::uint64_t seen_keys(Params const& p, Work const& work, int j, int lane) {
    int const left = work.keys.left(j);
    bool const filtered = p.call.in.keep && work.keys.in_media(j);
    if (left >= kTile && !filtered) return ~std::uint64_t(0);
    auto seen = [&](int key) {
      if (key >= left) return false;
      return !filtered || load_global(p.call.in.keep + work.frame * p.call.in.keep_stride +
                                      work.keys.local(j) * kTile + key) != 0;
    };
    std::uint32_t const low = __ballot_sync(~0u, seen(lane)), high = __ballot_sync(~0u, seen(lane + 32));
    return std::uint64_t(high) << 32 | low;
  }

  // Scores and gO V^T of tile j become P and dS, rounded: the first two are free afterwards.
  template <class C>
  static CUTE_DEVICE void differentiate(Params const& p, Work const& work, int j, int thread,
                                        Rows const& rows, C& scores, C& dp, OperandA<kTile>& probabilities,
                                        OperandA<kTile>& ds) {
    std::uint64_t const seen = seen_keys(p, work, j, thread % 32);
    float const scale_log2 = p.call.in.scale * kLog2E;
    if (seen != ~std::uint64_t(0)) {
      std::uint64_t const mine = seen >> first_column(thread);
      CUTE_UNROLL
      for (int i = 0; i < cute::size(scores); ++i) {
        if (!(mine >> column_of(i) & 1)) scores(i) = -INFINITY;
      }
    }
    CUTE_UNROLL
    for (int i = 0; i < cute::size(scores); ++i) {
      scores(i) = exp2f(scores(i) * scale_log2 - rows.shift[row_of(i)]);
      dp(i) = scores(i) * (dp(i) - rows.delta[row_of(i)]);
    }
    round_to_operand<kTile>(scores, probabilities);
    round_to_operand<kTile>(dp, ds);
  }

  // An accumulator of 64 rows, rounded, into a tile of shared memory: 16 channels of a warp's 16 rows at a
  // time.
  template <class Rounded, class Tile>
  static CUTE_DEVICE void stage(Rounded const& rounded, Tile&& tile, int thread) {
    cute::Tensor words = cute::recast<std::uint32_t const>(rounded);
    cute::Tensor place =
        cute::as_position_independent_swizzle_tensor(tile);  // swizzles offsets, not 64-bit pointers
    int const row = thread / 32 * 16 + thread % 16, column = thread % 32 / 16 * 8;
    CUTE_UNROLL
    for (int i = 0; i < cute::size(words); i += 4) {
      cute::SM90_U32x4_STSM_N::copy(words(i), words(i + 1), words(i + 2), words(i + 3),
                                    reinterpret_cast<cute::uint128_t&>(place(row, column + i * 4)));
    }
  }

  // A tile of a gradient, rounded and ready to leave: half the registers of its accumulator.
  using Rounded = OperandA<kDim>;
  template <class C>
  static CUTE_DEVICE void round(C const& gradient, float factor, Rounded& rounded) {
    CUTE_UNROLL
    for (int i = 0; i < cute::size(gradient); ++i) rounded(i) = bf16(gradient(i) * factor);
  }

  // Lets TMA write those rows and channels of the tile that exist.
  template <class Global>
  static CUTE_DEVICE void write(Shared& s, Rounded const& rounded, Store<kHeadDim> const& copy,
                                Global const& global, int who, int thread) {
    using namespace cute;
    Tensor tile = make_tensor(make_smem_ptr(s.gradient), LayoutGradient{})(_, _, who);
    if (thread == 0) tma_store_wait<0>();  // the tile before has left the buffer
    sync_consumer(who);
    stage(rounded, tile, thread);
    tma_store_fence();
    sync_consumer(who);
    if (thread == 0) {
      store_tile(copy, tile, global);
      tma_store_arrive();
    }
  }

  // Tile t of gK_media, gV_media, gK_latents or gV_latents.
  static CUTE_DEVICE void write_keys(Params const& p, Shared& s, Work const& work, Rounded const& rounded,
                                     bool in_media, int t, int who, int thread) {
    Sizes const& sizes = p.call.in.sizes;
    Store<kHeadDim> const& copy =
        in_media ? (who == 0 ? p.dv_media : p.dk_media) : (who == 0 ? p.dv_latents : p.dk_latents);
    write(s, rounded, copy, tile_of<kHeadDim>(copy, sizes, t, work.head, work.frame), who, thread);
  }

  // A value that is the same in the whole warp, as the compiler sees it new each time: in uniform registers,
  // and not known before the loop. Otherwise the descriptors of all products are computed there and occupy 70
  // registers.
  static CUTE_DEVICE int recomputed(int value) { return __shfl_sync(~0u, value, 0); }

  static __device__ void consume(Params const& p, Shared& s, int first, int rank, int who, int thread) {
    using namespace cute;
    int const lane = thread % 32;
    Tensor sQ = make_tensor(make_smem_ptr(s.queries), LayoutQ{});
    Tensor sK = make_tensor(make_smem_ptr(s.k), LayoutK{});
    Tensor sKt = make_tensor(make_smem_ptr(s.k), LayoutKt{});
    Tensor sV = make_tensor(make_smem_ptr(s.v), LayoutV{});
    Tensor sS = make_tensor(make_smem_ptr(s.scores), LayoutS{});
    Tensor sSt = make_tensor(make_smem_ptr(s.scores), LayoutSt{});
    Tensor sQt = make_tensor(make_smem_ptr(s.queries), LayoutQt{});

    auto score_product = ScoreProduct{}.get_thread_slice(thread);
    auto key_product = KeyProduct{}.get_thread_slice(thread);
    auto query_product = QueryProduct{}.get_thread_slice(thread);
    Tensor fQ = score_product.partition_fragment_A(sQ);
    Tensor fK = score_product.partition_fragment_B(sK);
    Tensor fV = score_product.partition_fragment_B(sV);
    Tensor fSt = key_product.partition_fragment_A(sSt);
    Tensor fQt = key_product.partition_fragment_B(sQt);
    Tensor fS = query_product.partition_fragment_A(sS);
    Tensor fKt = query_product.partition_fragment_B(sKt);
    Tensor scores = partition_fragment_C(ScoreProduct{}, cute::Shape<Int<kRows>, Int<kTile>>{});
    Tensor dp = partition_fragment_C(ScoreProduct{}, cute::Shape<Int<kRows>, Int<kTile>>{});
    Tensor dkv = partition_fragment_C(KeyProduct{}, cute::Shape<Int<kTile>, Int<kDim>>{});
    Tensor dq = partition_fragment_C(QueryProduct{}, cute::Shape<Int<kRows>, Int<kDim>>{});
    OperandA<kTile> probabilities, ds;
    Rounded rounded;
    QuerySlot q;
    KeySlot k;
    ValueSlot v;

    for (int number = first; number < p.call.in.sizes.frames * p.call.in.sizes.heads; number += p.clusters) {
      Work const work(p.call.in, number, rank, p.splits);
      int const half = q.stage * kConsumers;
      s.q_ring.wait(q);
      Rows const rows = read_rows(p, work, sQ(_, _, kQueryTiles + half + who), who, thread);
      clear(dq);

      auto start_scores = [&](KeySlot k) {
        int const mine = half + recomputed(who);
        s.k_ring.wait(k);
        start_product(ScoreProduct{}, fQ(_, _, _, mine), fK(_, _, _, k.stage), scores, false);
        s.v_ring.wait(v);
        start_product(ScoreProduct{}, fQ(_, _, _, kQueryTiles + mine), fV(_, _, _, v.stage), dp, false);
      };
      // kLeft: products started after those of the scores.
      auto finish_scores = [&](auto kLeft, int j) {
        finish_product<decltype(kLeft)::value>(scores);
        warpgroup_fence_operand(dp);
        s.v_ring.release(v, lane);
        v.advance();
        differentiate(p, work, j, thread, rows, scores, dp, probabilities, ds);
        // Not for wgmma: it keeps the front end from moving the arithmetic behind the waits, where nothing
        // hides it.
        warpgroup_fence_operand(probabilities);
        warpgroup_fence_operand(ds);
      };
      auto exchange = [&] {
        sync_consumers();  // the products that read the tile before are done in both
        stage(probabilities, sS(_, _, who), thread);
        stage(ds, sS(_, _, kConsumers + who), thread);
        cutlass::arch::fence_view_async_shared();
        sync_consumers();
      };
      auto write_tile = [&](int j) {
        write_keys(p, s, work, rounded, work.keys.in_media(j), work.keys.local(j), who, thread);
      };

      auto start_gradients = [&] {
        // The first consumer's share of the key gradients is gV = P^T gO, the second one's gK = dS^T Q.
        int const me = recomputed(who), left = kConsumers * me, right = kQueryTiles * (1 - me) + half;
        start_product(KeyProduct{}, fSt(_, _, _, left), fQt(_, _, _, right), dkv, false);
        start_product(KeyProduct{}, fSt(_, _, _, left + 1), fQt(_, _, _, right + 1), dkv, true);
        start_product(QueryProduct{}, fS(_, _, _, kConsumers + me), fKt(_, _, _, k.stage), dq, true);
      };
      auto finish_gradients = [&] {
        finish_product<0>(dkv);
        warpgroup_fence_operand(dq);
        s.k_ring.release(k, lane);
        k.advance();
        round(dkv, who == 0 ? 1.f : p.call.in.scale, rounded);
      };

      // The two orders of the work on tile j and on the scores of tile j + 1, if there are `more`.
      auto overlapped = [&](auto more, int j) {
        KeySlot next = k;
        next.advance();
        if constexpr (more) start_scores(next);
        if (j > work.tiles.first) write_tile(j - 1);
        start_gradients();
        if constexpr (more) {
          finish_scores(Int<3>{}, j + 1);
          // Over at once: Q is there. But ptxas moves no arithmetic across the branch in it, and without it P
          // and dS would be computed behind the wait for the gradients, with idle tensor cores.
          s.q_ring.wait(q);
        }
        finish_gradients();
        if constexpr (more) exchange();
        if constexpr (!more) write_tile(j);
      };
      auto in_turn = [&](auto more, int j) {
        start_gradients();
        finish_gradients();
        if constexpr (more) start_scores(k);
        write_tile(j);
        if constexpr (more) {
          finish_scores(Int<0>{}, j + 1);
          exchange();
        }
      };
      auto step = [&](auto more, int j) {
        if constexpr (kOverlap) overlapped(more, j);
        if constexpr (!kOverlap) in_turn(more, j);
      };

      if (work.tiles.first < work.tiles.last) {
        start_scores(k);
        finish_scores(Int<0>{}, work.tiles.first);
        exchange();
        for (int j = work.tiles.first; j < work.tiles.last - 1; ++j) step(true_type{}, j);
        step(false_type{}, work.tiles.last - 1);
      }
      s.q_ring.release(q, lane);
      q.advance();

      // Whole tiles beyond `lengths`: their gradients are zero and nobody else writes them.
      clear(rounded);
      for (int t = work.keys.media_tiles() + rank; t < tiles_of(p.call.in.sizes.media); t += p.splits) {
        write_keys(p, s, work, rounded, true, t, who, thread);
      }
      if (p.splits == 1) {
        round(dq, p.call.in.scale, rounded);
        write(s, rounded, p.dq, tile_of<kHeadDim>(p.dq, p.call.in.sizes, who, work.head, work.frame), who,
              thread);
      } else {
        sync_consumers();  // both have emptied the rings, whose place the partial sums take
        CUTE_UNROLL
        for (int i = 0; i < kDim / 8; ++i) {
          store_shared(&s.partial[i][who * 128 + thread],
                       make_float4(dq(4 * i), dq(4 * i + 1), dq(4 * i + 2), dq(4 * i + 3)));
        }
      }
      if constexpr (!kPersistent) break;
    }
    if (thread == 0) cute::tma_store_wait<0>();  // shared memory must outlive the stores that read it
  }

  // Each block finishes gQ in its share of the channels; `thread` counts the consumers' threads.
  static __device__ void combine(Params const& p, Shared& s, int number, int rank, int thread) {
    View const& dq = p.call.dq;
    float const scale = p.call.in.scale;
    int const head = number % p.call.in.sizes.heads, frame = number / p.call.in.sizes.heads;
    int const query = thread / 128 * kRows + first_row(thread % 128);
    bf16* const to = static_cast<bf16*>(dq.data) + frame * dq.frame + head * dq.head + query * dq.row;
    for (int i = rank; i < kHeadDim / 8; i += p.splits) {
      float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
      for (int r = 0; r < p.splits; ++r) {
        float4 const part = load_shared(peer_shared(&s.partial[i][thread], r));
        sum = make_float4(sum.x + part.x, sum.y + part.y, sum.z + part.z, sum.w + part.w);
      }
      bf16* const at = to + 8 * i + first_column(thread);
      if (query < p.call.in.sizes.queries) {
        store_global(reinterpret_cast<std::uint32_t*>(at), pack(sum.x * scale, sum.y * scale));
      }
      if (query + 8 < p.call.in.sizes.queries) {
        store_global(reinterpret_cast<std::uint32_t*>(at + 8 * dq.row), pack(sum.z * scale, sum.w * scale));
      }
    }
  }

  static __device__ void run(Params const& p) {
    Shared& s = dynamic_shared<Shared>();
    int const warpgroup = threadIdx.x / 128, thread = threadIdx.x % 128;
    int const rank = blockIdx.y, first = blockIdx.x;
    if (threadIdx.x == 0) {
      s.q_ring.init(4 * kConsumers);
      s.k_ring.init(4 * kConsumers);
      s.v_ring.init(4 * kConsumers);
      cutlass::arch::fence_barrier_init();
    }
    __syncthreads();
    // Two cluster barriers: every block has left its part of gQ; nobody leaves while its shared memory is
    // being read. In both branches, because code behind them would have to make do with the producer's
    // registers.
    if (warpgroup == 0) {
      cutlass::arch::warpgroup_reg_dealloc<kBackwardProducerRegisters>();
      if (thread < 32 && cute::elect_one_sync()) produce(p, s, first, rank);
      if (p.splits > 1) {
        cute::cluster_sync();
        cute::cluster_sync();
      }
    } else {
      cutlass::arch::warpgroup_reg_alloc<kBackwardConsumerRegisters>();
      consume(p, s, first, rank, warpgroup - 1, thread);
      if (p.splits > 1) {
        cute::cluster_sync();
        combine(p, s, first, rank, threadIdx.x - 128);
        cute::cluster_sync();
      }
    }
  }
};

template <int kHeadDim>
__global__ void __launch_bounds__(kThreads, 1)
    backward_kernel(__grid_constant__ const typename BackwardKernel<kHeadDim>::Params params) {
  BackwardKernel<kHeadDim>::run(params);
}

template <int kHeadDim>
std::size_t backward_shared_bytes() {
  return sizeof(typename BackwardKernel<kHeadDim>::Shared);
}

template <int kHeadDim>
void backward(const Backward& call, cudaStream_t stream) {
  using Kernel = BackwardKernel<kHeadDim>;
  Inputs const& in = call.in;
  Sizes const& sizes = in.sizes;
  auto load = [&](View const& view, int rows) {
    return make_copy_or<kHeadDim>(cute::SM90_TMA_LOAD{}, view, rows, sizes, in.q);
  };
  auto store = [&](View const& view, int rows) {
    return make_copy_or<kHeadDim>(cute::SM90_TMA_STORE{}, view, rows, sizes, call.dq);
  };
  int const blocks = multiprocessors(), splits = choose_splits(in, blocks),
            works = sizes.frames * sizes.heads;
  // A split block has one (frame, head) only: its rings become the place where the cluster meets.
  int const clusters = splits > 1 || !Kernel::kPersistent ? works : std::min(works, blocks);
  typename Kernel::Params const params{call,
                                       load(in.q, sizes.queries),
                                       load(call.dout, sizes.queries),
                                       load(in.k_media, sizes.media),
                                       load(in.v_media, sizes.media),
                                       load(in.k_latents, sizes.latents),
                                       load(in.v_latents, sizes.latents),
                                       store(call.dq, sizes.queries),
                                       store(call.dk_media, sizes.media),
                                       store(call.dv_media, sizes.media),
                                       store(call.dk_latents, sizes.latents),
                                       store(call.dv_latents, sizes.latents),
                                       splits,
                                       clusters};
  launch("resampler_attention_backward", backward_kernel<kHeadDim>,
         {dim3(clusters, splits), dim3(kThreads), dim3(1, splits), backward_shared_bytes<kHeadDim>()}, stream,
         params);
}

}  // namespace blip3v::resampler_attention

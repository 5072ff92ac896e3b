// Gradients of the logits and of the hidden layer, for a tile of 128 tokens. With A = softmax(logits) over
// the tokens, everything recomputed from what `logits` left and the logarithms lse:
//
//   A  = exp(logits - lse), 0 for hidden tokens        dA = x dout^T
//   dl = A (dA - delta),  delta = sum_d out dout       dh = (dl w2) gelu'(h)
//
// dA is added up over the chunks of channels like the products of `logits`; dl goes rounded from registers
// into the product with w2. Written are A, dl and dh' = r1 r2 dh, rounded, and per token the coefficients
// with which both norms take the gradient to x (see inputs.cuh). All that these need of the channels follows
// from sums over the hidden columns: with t = (w1 g2)^T dh and q = Wf^T dh,
//
//   sum t = dh.c3    sum t yhat = dh.(h - c4)    sum q = dh.c1    sum q xhat = dh.((h - c4) / r2 - c2 + m2
//   c3)
//
// Runs in the simulator and compiles for sm_90a; it has not run on a GPU yet.
#pragma once

#include "common/device_scope.h"
#include "common/launch.cuh"
#include "common/softmax.cuh"
#include "token_learner/layouts.cuh"

namespace blip3v::token_learner {

CUTE_DEVICE float gelu_slope(float x) {
  constexpr float kRootHalf = 0.70710678118654752f, kDensity = 0.39894228040143268f;
  return 0.5f * (1.f + erff(x * kRootHalf)) + x * kDensity * exp2f(-0.5f * kLog2E * x * x);
}

template <int kMade>
struct SlopesKernel {
  static constexpr int kHidden = hidden_tile(kMade), kStages = slopes_stages(kMade);
  using X = Tile<kRows, kChunk>;
  using Dout = Tile<kMade, kChunk>;
  using W2 = Tile<kMade, kHidden>;
  using LayoutX = typename X::template Stack<kConsumers * kStages>;
  using LayoutDout = typename Dout::template Stack<kStages>;
  using LayoutW2 = typename W2::template Stack<1>;
  using LayoutW2t = typename W2::template Transposed<1>;
  using WeightProduct = SharedProduct<kMade, kChunk, kMajorK>;
  using HiddenProduct = RegisterProduct<kHidden, kMade, kMajorMN>;
  using ChunkSlot = Slot<kStages>;

  struct Params {
    Slopes call;
    Load<X> x;
    Load<Dout> dout;
    Load<W2> w2;
    int tiles, passes, made_out;  // of a video; over the hidden columns; ko
  };
  struct Shared {
    alignas(1024) bf16 x[kConsumers * kStages * X::kElements];
    alignas(1024) bf16 dout[kStages * Dout::kElements];
    alignas(1024) bf16 w2[W2::kElements];
    Ring<kStages> ring;
    Ring<1> w2_ring;
  };
  static_assert(sizeof(Shared) <= 227 * 1024);

  struct Work {
    int video, tile, chunks;
    CUTE_DEVICE explicit Work(Params const& p)
        : video(blockIdx.x / p.tiles),
          tile(blockIdx.x % p.tiles),
          chunks(divide_up(p.call.sizes.channels, kChunk)) {}
    CUTE_DEVICE int token(int who, int row) const { return (tile * kConsumers + who) * kRows + row; }
  };

  static CUTE_DEVICE void produce(Params const& p, Shared& s, Work const& work) {
    using namespace cute;
    Tensor sX = make_tensor(make_smem_ptr(s.x), LayoutX{});
    Tensor sDout = make_tensor(make_smem_ptr(s.dout), LayoutDout{});
    Tensor sW2 = make_tensor(make_smem_ptr(s.w2), LayoutW2{});
    ChunkSlot slot;
    Slot<1> w2_slot;
    CUTE_NO_UNROLL
    for (int c = 0; c < work.chunks; ++c) {
      s.ring.acquire(slot, kConsumers * X::kBytes + Dout::kBytes);
      CUTE_UNROLL
      for (int who = 0; who < kConsumers; ++who) {
        load_tile<X>(p.x, s.ring.full[slot.stage], work.tile * kConsumers + who, c, work.video,
                     sX(_, _, slot.stage * kConsumers + who));
      }
      load_tile<Dout>(p.dout, s.ring.full[slot.stage], 0, c, work.video, sDout(_, _, slot.stage));
      slot.advance();
    }
    CUTE_NO_UNROLL
    for (int pass = 0; pass < p.passes; ++pass) {
      s.w2_ring.acquire(w2_slot, W2::kBytes);
      load_tile<W2>(p.w2, s.w2_ring.full[0], 0, pass, 0, sW2(_, _, _0{}));
      w2_slot.advance();
    }
  }

  // dA -> dl, rounded; writes it and A.
  template <class C>
  static CUTE_DEVICE void differentiate(Params const& p, Work const& work, int who, int thread, C const& da,
                                        OperandA<kMade>& dl) {
    Sizes const& sizes = p.call.sizes;
    int const padded = p.tiles * kTokens;
    float const* logits = p.call.logits + std::int64_t(work.video) * kMade * padded;
    CUTE_UNROLL
    for (int i = 0; i < cute::size(da); i += 4) {
      int const made = first_column(thread) + column_of(i);
      float shift[2], delta[2];
      CUTE_UNROLL
      for (int e = 0; e < 2; ++e) {
        int const at = work.video * sizes.made + made + e;
        bool const real = made + e < sizes.made;
        float const lse = real ? load_global(p.call.lse + at) : -INFINITY;
        // Where no token is seen, and beyond k: an infinite shift makes the weights 0.
        shift[e] = lse == -INFINITY ? INFINITY : lse * kLog2E;
        delta[e] = real ? load_global(p.call.delta + at) : 0.f;
      }
      CUTE_UNROLL
      for (int r = 0; r < 2; ++r) {
        int const token = work.token(who, first_row(thread) + 8 * r);
        float weight[2], slope[2];
        CUTE_UNROLL
        for (int e = 0; e < 2; ++e) {
          float const logit = load_global(logits + std::int64_t(made + e) * padded + token);
          weight[e] = exp2f(logit * kLog2E - shift[e]);
          slope[e] = weight[e] * (da(i + 2 * r + e) - delta[e]);
          dl(i + 2 * r + e) = bf16(slope[e]);
        }
        if (token < sizes.tokens && made < p.made_out) {
          std::int64_t const at = (std::int64_t(work.video) * sizes.tokens + token) * p.made_out + made;
          store_global(reinterpret_cast<std::uint32_t*>(static_cast<bf16*>(p.call.weights) + at),
                       pack(weight[0], weight[1]));
          store_global(reinterpret_cast<std::uint32_t*>(static_cast<bf16*>(p.call.dlogits) + at),
                       pack(slope[0], slope[1]));
        }
      }
    }
  }

  // Sums over the hidden columns of dh' times c1, c2, c3 and h - c4, of the thread's two rows.
  struct HiddenSums {
    float c1[2] = {}, c2[2] = {}, c3[2] = {}, h[2] = {};
  };

  // dl w2 -> dh', which is written and enters the sums.
  template <class C>
  static CUTE_DEVICE void descend(Params const& p, Work const& work, int pass, int who, int thread,
                                  Row const (&rows)[2], C const& da, HiddenSums& sums) {
    Sizes const& sizes = p.call.sizes;
    CUTE_UNROLL
    for (int i = 0; i < cute::size(da); i += 4) {
      int const j = pass * kHidden + first_column(thread) + column_of(i);
      float4 const* constants = reinterpret_cast<float4 const*>(p.call.folded.constants) + j;
      float4 const c[2] = {load_global(constants), load_global(constants + 1)};
      CUTE_UNROLL
      for (int r = 0; r < 2; ++r) {
        int const token = work.token(who, first_row(thread) + 8 * r);
        if (token < sizes.tokens && j < sizes.hidden) {
          std::int64_t const at = (std::int64_t(work.video) * sizes.tokens + token) * sizes.hidden + j;
          float2 const pair = load_global(reinterpret_cast<float2 const*>(p.call.hidden + at));
          float const h[2] = {pair.x, pair.y}, factor = rows[r].r1 * rows[r].r2;
          float dh[2];
          CUTE_UNROLL
          for (int e = 0; e < 2; ++e) {
            dh[e] = float(bf16(factor * da(i + 2 * r + e) * gelu_slope(h[e])));
            sums.c1[r] += dh[e] * c[e].x;
            sums.c2[r] += dh[e] * c[e].y;
            sums.c3[r] += dh[e] * c[e].z;
            sums.h[r] += dh[e] * (h[e] - c[e].w);
          }
          store_global(reinterpret_cast<std::uint32_t*>(static_cast<bf16*>(p.call.dhidden) + at),
                       pack(dh[0], dh[1]));
        }
      }
    }
  }

  // dx = A dout + dh' Wf + e0 + e1 g1 + e2 (g1 b1 + g1^2 xhat) + e3 xhat: the part without products makes the
  // gradient through each norm orthogonal to 1 and to the norm's output.
  static CUTE_DEVICE void write_coefficients(Params const& p, Work const& work, int who, int thread,
                                             Row const (&rows)[2], HiddenSums const& sums) {
    float const* moments = p.call.folded.moments;
    float4 const low = load_global(reinterpret_cast<float4 const*>(moments));
    float const over = 1.f / p.call.sizes.channels;
    float const mean_g = low.z * over, mean_gb = (load_global(moments + 4) + low.x * low.z) * over;
    CUTE_UNROLL
    for (int r = 0; r < 2; ++r) {
      Row const& row = rows[r];
      float const c1 = quad_sum(sums.c1[r]) * over, c2 = quad_sum(sums.c2[r]) * over;
      float const c3 = quad_sum(sums.c3[r]) * over, h = quad_sum(sums.h[r]) * over;
      float const e2 = -row.r2 * h;
      float const e1 = -c3 - row.m2 * e2;
      float const e0 = -c1 - e1 * mean_g - e2 * (row.g2x + mean_gb);
      float const e3 = -(h / row.r2 - c2 + row.m2 * c3) - e1 * row.gx - e2 * (row.g2xx + row.gbx);
      int const token = work.token(who, first_row(thread) + 8 * r);
      if (thread % 4 == 0 && token < p.call.sizes.tokens) {
        float4* const to = reinterpret_cast<float4*>(p.call.coefficients) +
                           2 * (std::int64_t(work.video) * p.call.sizes.tokens + token);
        store_global(to, make_float4(row.mu, row.r1, e1, e2));
        store_global(to + 1, make_float4(e0, e3, row.r2, row.m2));
      }
    }
  }

  static CUTE_DEVICE Row read_row(Params const& p, Work const& work, int token) {
    if (token >= p.call.sizes.tokens) return {0.f, 0.f, 1.f, 0.f, 0.f, 0.f, 0.f, 0.f};
    float4 const* from =
        reinterpret_cast<float4 const*>(p.call.rows + std::int64_t(work.video) * p.call.sizes.tokens + token);
    float4 const a = load_global(from), b = load_global(from + 1);
    return {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
  }

  static __device__ void consume(Params const& p, Shared& s, Work const& work, int who, int thread) {
    using namespace cute;
    int const lane = thread % 32;
    Tensor sX = make_tensor(make_smem_ptr(s.x), LayoutX{});
    Tensor sDout = make_tensor(make_smem_ptr(s.dout), LayoutDout{});
    Tensor sW2t = make_tensor(make_smem_ptr(s.w2), LayoutW2t{});
    auto weight_product = WeightProduct{}.get_thread_slice(thread);
    auto hidden_product = HiddenProduct{}.get_thread_slice(thread);
    Tensor fX = weight_product.partition_fragment_A(sX);
    Tensor fDout = weight_product.partition_fragment_B(sDout);
    Tensor fW2 = hidden_product.partition_fragment_B(sW2t);
    OperandA<kMade> dl;
    {
      Tensor da = partition_fragment_C(WeightProduct{}, cute::Shape<Int<kRows>, Int<kMade>>{});
      ChunkSlot slot, before;
      clear(da);
      CUTE_NO_UNROLL
      for (int c = 0; c < work.chunks; ++c) {
        s.ring.wait(slot);
        start_product(WeightProduct{}, fX(_, _, _, slot.stage * kConsumers + who), fDout(_, _, _, slot.stage),
                      da, true);
        if (c > 0) {
          warpgroup_wait<1>();  // the chunk before is through
          s.ring.release(before, lane);
        }
        before = slot;
        slot.advance();
      }
      finish_product<0>(da);
      differentiate(p, work, who, thread, da, dl);
    }

    Row const rows[2] = {read_row(p, work, work.token(who, first_row(thread))),
                         read_row(p, work, work.token(who, first_row(thread) + 8))};
    Tensor da = partition_fragment_C(HiddenProduct{}, cute::Shape<Int<kRows>, Int<kHidden>>{});
    HiddenSums sums;
    Slot<1> w2_slot;
    CUTE_NO_UNROLL
    for (int pass = 0; pass < p.passes; ++pass) {
      clear(da);
      s.w2_ring.wait(w2_slot);
      start_product(HiddenProduct{}, dl, fW2(_, _, _, 0), da, true);
      finish_product<0>(da);
      s.w2_ring.release(w2_slot, lane);
      w2_slot.advance();
      descend(p, work, pass, who, thread, rows, da, sums);
    }
    write_coefficients(p, work, who, thread, rows, sums);
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
      if (thread < 32 && cute::elect_one_sync()) produce(p, s, work);
    } else {
      cutlass::arch::warpgroup_reg_alloc<kConsumerRegisters>();
      consume(p, s, work, warpgroup - 1, thread);
    }
  }
};

template <int kMade>
__global__ void __launch_bounds__(kThreads, 1)
    slopes_kernel(__grid_constant__ const typename SlopesKernel<kMade>::Params params) {
  SlopesKernel<kMade>::run(params);
}

template <int kMade>
void slopes(const Slopes& call, cudaStream_t stream) {
  using Kernel = SlopesKernel<kMade>;
  Sizes const& sizes = call.sizes;
  int const passes = divide_up(sizes.hidden, Kernel::kHidden);
  typename Kernel::Params const params{
      call,
      make_load<typename Kernel::X>(matrices(call.x, sizes.tokens, sizes)),
      make_load<typename Kernel::Dout>(matrices(call.dout, sizes.made, sizes)),
      make_load<typename Kernel::W2>(matrix(call.folded.w2, kMade, passes * Kernel::kHidden)),
      divide_up(sizes.tokens, kTokens),
      passes,
      divide_up(sizes.made, 8) * 8};
  launch("token_learner_backward", slopes_kernel<kMade>,
         {dim3(sizes.videos * params.tiles), dim3(kThreads), dim3(1), sizeof(typename Kernel::Shared)},
         stream, params);
}

}  // namespace blip3v::token_learner

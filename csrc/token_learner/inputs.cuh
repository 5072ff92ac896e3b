// The gradient of x, for tiles of 128 tokens and a slice of channels:
//
//   dx = A dout + dh' Wf + e0 + e1 g1 + e2 (g1 b1 + g1^2 xhat) + e3 xhat,   xhat = r1 v, v = x - mu
//
// Two products into one accumulator; the rest, the gradient through both norms, takes a few numbers per token
// (from slopes.cuh), the channel's parameters and x itself. Its tile in shared memory becomes that of dx in
// place and leaves by TMA. While the products run, each thread also adds up, down its two columns, what the
// gradients of g1 and b1 need: e2 v, e1 v and e2 r1 v^2. A block goes through the tiles of its group and
// writes these sums once, so every run gives the same bits.
//
// Runs in the simulator and compiles for sm_90a; it has not run on a GPU yet.
#pragma once

#include "common/device_scope.h"
#include "common/launch.cuh"
#include "token_learner/layouts.cuh"

namespace blip3v::token_learner {

template <int kChannels>
struct InputsKernel {
  static constexpr int kStages = kInputStages, kXStages = 2, kDepth = 64;
  using Left = Tile<kRows, kDepth>;       // A or dh'
  using Right = Tile<kDepth, kChannels>;  // dout or Wf
  using X = Tile<kRows, kChannels>;
  using LayoutLeft = typename Left::template Stack<kConsumers * kStages>;
  using LayoutRight = typename Right::template Stack<kStages>;
  using LayoutRightT = typename Right::template Transposed<kStages>;
  using LayoutX = typename X::template Stack<kConsumers * kXStages>;
  using Product = SharedProduct<kChannels, kDepth, kMajorMN>;
  using StepSlot = Slot<kStages>;
  using XSlot = Slot<kXStages>;

  // Down the columns: two per thread, and as many threads side by side as rows can be shared among.
  static constexpr int kPairs = kChannels / 2, kShares = 128 / kPairs;

  struct Params {
    Inputs call;
    Load<Left> weights, dhidden;
    Load<Right> dout, w1;
    Load<X> x;
    Store<X> dx;
    int tiles;  // of a video
    int slices;
    int made_steps, hidden_steps;  // 64 terms of both products each
  };
  struct Shared {
    alignas(1024) bf16 left[kConsumers * kStages * Left::kElements];
    alignas(1024) bf16 right[kStages * Right::kElements];
    alignas(1024) bf16 x[kConsumers * kXStages * X::kElements];
    float4 coefficients[kConsumers][kRows][2];  // mu, r1, e1, e2; e0, e3
    Ring<kStages> ring;
    Ring<kXStages> x_ring;
  };
  static_assert(sizeof(Shared) <= 227 * 1024);

  static CUTE_DEVICE void produce(Params const& p, Shared& s, int slice, int group) {
    using namespace cute;
    Tensor sLeft = make_tensor(make_smem_ptr(s.left), LayoutLeft{});
    Tensor sRight = make_tensor(make_smem_ptr(s.right), LayoutRight{});
    Tensor sX = make_tensor(make_smem_ptr(s.x), LayoutX{});
    StepSlot slot;
    XSlot x_slot;
    CUTE_NO_UNROLL
    for (int number = group; number < p.call.sizes.videos * p.tiles; number += p.call.groups) {
      int const video = number / p.tiles, tile = number % p.tiles * kConsumers;
      s.x_ring.acquire(x_slot, kConsumers * X::kBytes);
      CUTE_UNROLL
      for (int who = 0; who < kConsumers; ++who) {
        load_tile<X>(p.x, s.x_ring.full[x_slot.stage], tile + who, slice, video,
                     sX(_, _, x_slot.stage * kConsumers + who));
      }
      x_slot.advance();
      CUTE_NO_UNROLL
      for (int step = 0; step < p.made_steps + p.hidden_steps; ++step) {
        bool const made = step < p.made_steps;
        int const at = made ? step : step - p.made_steps;
        s.ring.acquire(slot, kConsumers * Left::kBytes + Right::kBytes);
        CUTE_UNROLL
        for (int who = 0; who < kConsumers; ++who) {
          load_tile<Left>(made ? p.weights : p.dhidden, s.ring.full[slot.stage], tile + who, at, video,
                          sLeft(_, _, slot.stage * kConsumers + who));
        }
        load_tile<Right>(made ? p.dout : p.w1, s.ring.full[slot.stage], at, slice, made ? video : 0,
                         sRight(_, _, slot.stage));
        slot.advance();
      }
    }
  }

  // Per channel, over the tokens that this thread sees: e2 v, e1 v, e2 r1 v^2.
  struct ColumnSums {
    float2 e2v{}, e1v{}, e2v2{};

    CUTE_DEVICE void add(float2 x, float4 c) {
      float const v[2] = {x.x - c.x, x.y - c.x};
      float const a[2] = {c.w * v[0], c.w * v[1]};
      e2v.x += a[0];
      e2v.y += a[1];
      e1v.x += c.z * v[0];
      e1v.y += c.z * v[1];
      e2v2.x += a[0] * (c.y * v[0]);
      e2v2.y += a[1] * (c.y * v[1]);
    }
  };

  static CUTE_DEVICE float2 unpack(std::uint32_t pair) {
    return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)};
  }

  template <class T>
  static CUTE_DEVICE void add_columns(Shared& s, T const& x, int who, int thread, ColumnSums& sums) {
    int const pair = thread % kPairs, share = thread / kPairs;
    if (share >= kShares) return;
    CUTE_NO_UNROLL
    for (int row = share; row < kRows; row += kShares) {
      float4 const c = load_shared(&s.coefficients[who][row][0]);
      sums.add(unpack(load_shared(reinterpret_cast<std::uint32_t const*>(&x(row, 2 * pair)))), c);
    }
  }

  // The accumulator and x -> dx, where x was.
  template <class C, class T>
  static CUTE_DEVICE void finish(Params const& p, Shared& s, C const& products, T&& x, int slice, int who,
                                 int thread) {
    int const channels = p.call.sizes.channels;
    float const* table = p.call.folded.channels;
    float4 low[2], high[2];
    CUTE_UNROLL
    for (int r = 0; r < 2; ++r) {
      int const row = first_row(thread) + 8 * r;
      low[r] = load_shared(&s.coefficients[who][row][0]);
      high[r] = load_shared(&s.coefficients[who][row][1]);
    }
    CUTE_UNROLL
    for (int i = 0; i < cute::size(products); i += 4) {
      int const column = first_column(thread) + column_of(i), channel = slice * kChannels + column;
      float2 g = make_float2(0.f, 0.f), gb = g;
      if (channel < channels) {
        g = load_global(reinterpret_cast<float2 const*>(table + channel));
        gb = load_global(reinterpret_cast<float2 const*>(table + 2 * channels + channel));
      }
      CUTE_UNROLL
      for (int r = 0; r < 2; ++r) {
        std::uint32_t* const place = reinterpret_cast<std::uint32_t*>(&x(first_row(thread) + 8 * r, column));
        float2 const pair = unpack(load_shared(place));
        auto gradient = [&](float product, float value, float g, float gb) {
          float const xhat = low[r].y * (value - low[r].x);
          return product + high[r].x + low[r].z * g + low[r].w * (gb + g * g * xhat) + high[r].y * xhat;
        };
        store_shared(place, pack(gradient(products(i + 2 * r), pair.x, g.x, gb.x),
                                 gradient(products(i + 2 * r + 1), pair.y, g.y, gb.y)));
      }
    }
  }

  static __device__ void consume(Params const& p, Shared& s, int slice, int group, int who, int thread) {
    using namespace cute;
    Sizes const& sizes = p.call.sizes;
    int const lane = thread % 32, steps = p.made_steps + p.hidden_steps;
    Tensor sLeft = make_tensor(make_smem_ptr(s.left), LayoutLeft{});
    Tensor sRightT = make_tensor(make_smem_ptr(s.right), LayoutRightT{});
    Tensor sX = make_tensor(make_smem_ptr(s.x), LayoutX{});
    auto product = Product{}.get_thread_slice(thread);
    Tensor fLeft = product.partition_fragment_A(sLeft);
    Tensor fRight = product.partition_fragment_B(sRightT);
    Tensor products = partition_fragment_C(Product{}, cute::Shape<Int<kRows>, Int<kChannels>>{});
    StepSlot slot, before;
    XSlot x_slot;
    ColumnSums sums;

    CUTE_NO_UNROLL
    for (int number = group; number < sizes.videos * p.tiles; number += p.call.groups) {
      int const video = number / p.tiles, tile = number % p.tiles * kConsumers + who;
      Tensor x = sX(_, _, x_slot.stage * kConsumers + who);
      int const token = tile * kRows + thread / 2;
      float4 coefficients = make_float4(0.f, 0.f, 0.f, 0.f);
      if (token < sizes.tokens) {
        coefficients = load_global(reinterpret_cast<float4 const*>(p.call.coefficients) +
                                   2 * (std::int64_t(video) * sizes.tokens + token) + thread % 2);
      }
      store_shared(&s.coefficients[who][thread / 2][thread % 2], coefficients);
      sync_consumer(who);
      s.x_ring.wait(x_slot);

      clear(products);
      CUTE_NO_UNROLL
      for (int step = 0; step < steps; ++step) {
        s.ring.wait(slot);
        start_product(Product{}, fLeft(_, _, _, slot.stage * kConsumers + who), fRight(_, _, _, slot.stage),
                      products, true);
        if (step == 0) {
          add_columns(s, x, who, thread, sums);
        } else {
          warpgroup_wait<1>();  // the step before is through
          s.ring.release(before, lane);
        }
        before = slot;
        slot.advance();
      }
      finish_product<0>(products);
      s.ring.release(before, lane);

      sync_consumer(who);  // nobody needs x any more but each thread its own pairs
      finish(p, s, products, x, slice, who, thread);
      tma_store_fence();
      sync_consumer(who);
      if (thread == 0) {
        store_tile<X>(p.dx, x, tile, slice, video);
        tma_store_arrive();
        tma_store_wait<0>();
      }
      s.x_ring.release(x_slot, thread);
      x_slot.advance();
    }
    write_columns(p, slice, group, who, thread, sums);
  }

  static CUTE_DEVICE void write_columns(Params const& p, int slice, int group, int who, int thread,
                                        ColumnSums const& sums) {
    int const pair = thread % kPairs, share = thread / kPairs, channels = p.call.sizes.channels;
    int const channel = slice * kChannels + 2 * pair;
    if (share >= kShares || channel >= channels) return;
    std::int64_t const partial = (std::int64_t(group) * kConsumers + who) * kShares + share;
    float* const to = p.call.partials + partial * 3 * channels + channel;
    store_global(reinterpret_cast<float2*>(to), sums.e2v);
    store_global(reinterpret_cast<float2*>(to + channels), sums.e1v);
    store_global(reinterpret_cast<float2*>(to + 2 * channels), sums.e2v2);
  }

  static __device__ void run(Params const& p) {
    Shared& s = dynamic_shared<Shared>();
    int const warpgroup = threadIdx.x / 128, thread = threadIdx.x % 128;
    int const slice = blockIdx.x % p.slices, group = blockIdx.x / p.slices;
    if (threadIdx.x == 0) {
      s.ring.init(4 * kConsumers);
      s.x_ring.init(kConsumers);
      cutlass::arch::fence_barrier_init();
    }
    __syncthreads();
    if (warpgroup == 0) {
      cutlass::arch::warpgroup_reg_dealloc<kProducerRegisters>();
      if (thread < 32 && cute::elect_one_sync()) produce(p, s, slice, group);
    } else {
      cutlass::arch::warpgroup_reg_alloc<kConsumerRegisters>();
      consume(p, s, slice, group, warpgroup - 1, thread);
    }
  }
};

template <int kChannels>
__global__ void __launch_bounds__(kThreads, 1)
    inputs_kernel(__grid_constant__ const typename InputsKernel<kChannels>::Params params) {
  InputsKernel<kChannels>::run(params);
}

template <int kChannels>
void inputs(const Inputs& call, cudaStream_t stream) {
  using Kernel = InputsKernel<kChannels>;
  Sizes const& sizes = call.sizes;
  auto of_tokens = [&](void const* data, int columns) {
    return make_load<typename Kernel::Left>(
        matrices(const_cast<void*>(data), sizes.tokens, columns, sizes.videos));
  };
  typename Kernel::Params const params{
      call,
      of_tokens(call.weights, divide_up(sizes.made, 8) * 8),
      of_tokens(call.dhidden, sizes.hidden),
      make_load<typename Kernel::Right>(matrices(call.dout, sizes.made, sizes)),
      make_load<typename Kernel::Right>(matrix(call.folded.w1, sizes.hidden, sizes.channels)),
      make_load<typename Kernel::X>(matrices(call.x, sizes.tokens, sizes)),
      make_store<typename Kernel::X>(matrices(call.dx, sizes.tokens, sizes)),
      divide_up(sizes.tokens, kTokens),
      divide_up(sizes.channels, kChannels),
      divide_up(sizes.made, Kernel::kDepth),
      divide_up(sizes.hidden, Kernel::kDepth)};
  launch("token_learner_backward", inputs_kernel<kChannels>,
         {dim3(params.slices * call.groups), dim3(kThreads), dim3(1), sizeof(typename Kernel::Shared)},
         stream, params);
}

}  // namespace blip3v::token_learner

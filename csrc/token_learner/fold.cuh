// The parameters of both norms folded into the first matrix. With LN1(x) = r1 (x - mu) g1 + b1 = y and m2, r2
// the mean and 1 / standard deviation of y, the hidden layer is
//
//   h = r1 r2 (x Wf^T - mu c1) + r2 (c2 - m2 c3) + c4,   Wf = w1 g1 g2
//   c1 = rowsum(Wf), c2 = (w1 g2) b1, c3 = rowsum(w1 g2), c4 = w1 b2
//
// so the product takes x as it is and the norms are four numbers per row. c1 sums Wf as it was rounded: the
// mean of a row then cancels exactly.
//
// Runs in the simulator and compiles for sm_90a; it has not run on a GPU yet.
#pragma once

#include <algorithm>

#include "common/launch.cuh"
#include "token_learner/layouts.cuh"

namespace blip3v::token_learner {

struct FoldKernel {
  static constexpr int kWarps = 4;

  struct Params {
    Fold call;
    int hidden_rows, made_rows;  // Jp, kp
  };
  struct Shared {
    float4 warps[kWarps];
  };

  static CUTE_DEVICE float value(Parameter const& p, std::int64_t i) {
    return p.narrow ? float(load_global(static_cast<bf16 const*>(p.data) + i))
                    : load_global(static_cast<float const*>(p.data) + i);
  }

  static CUTE_DEVICE float4 add(float4 a, float4 b) {
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
  }

  // Sums over the block; every thread gets them.
  static CUTE_DEVICE float4 block_sum(Shared& s, float4 v, int thread) {
    CUTE_UNROLL
    for (int by = 16; by > 0; by /= 2) {
      v = add(v, make_float4(__shfl_xor_sync(~0u, v.x, by), __shfl_xor_sync(~0u, v.y, by),
                             __shfl_xor_sync(~0u, v.z, by), __shfl_xor_sync(~0u, v.w, by)));
    }
    __syncthreads();  // the sums before have been read
    if (thread % 32 == 0) store_shared(&s.warps[thread / 32], v);
    __syncthreads();
    float4 sum = load_shared(&s.warps[0]);
    for (int w = 1; w < kWarps; ++w) sum = add(sum, load_shared(&s.warps[w]));
    return sum;
  }

  // Row j of Wf and its constants; rows beyond J are zeros.
  static CUTE_DEVICE void fold_hidden(Params const& p, Shared& s, int j, int thread) {
    Sizes const& sizes = p.call.sizes;
    Parameters const& w = p.call.parameters;
    bf16* const to = static_cast<bf16*>(p.call.folded.w1) + std::int64_t(j) * sizes.channels;
    float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
    for (int d = thread; d < sizes.channels; d += 32 * kWarps) {
      float const w1 = j < sizes.hidden ? value(w.w1, std::int64_t(j) * sizes.channels + d) : 0.f;
      float const scaled = w1 * value(w.norm2_weight, d);
      bf16 const rounded(scaled * value(w.norm1_weight, d));
      store_global(to + d, rounded);
      sum = add(sum, make_float4(float(rounded), scaled * value(w.norm1_bias, d), scaled,
                                 w1 * value(w.norm2_bias, d)));
    }
    sum = block_sum(s, sum, thread);
    if (thread == 0) store_global(reinterpret_cast<float4*>(p.call.folded.constants) + j, sum);
  }

  // Row i of w2, zeros beyond [k,J].
  static CUTE_DEVICE void round_made(Params const& p, int i, int thread) {
    Sizes const& sizes = p.call.sizes;
    bf16* const to = static_cast<bf16*>(p.call.folded.w2) + std::int64_t(i) * p.hidden_rows;
    for (int j = thread; j < p.hidden_rows; j += 32 * kWarps) {
      bool const real = i < sizes.made && j < sizes.hidden;
      store_global(to + j,
                   bf16(real ? value(p.call.parameters.w2, std::int64_t(i) * sizes.hidden + j) : 0.f));
    }
  }

  static CUTE_DEVICE void tabulate(Params const& p, Shared& s, int thread) {
    int const channels = p.call.sizes.channels;
    Parameters const& w = p.call.parameters;
    float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
    for (int d = thread; d < channels; d += 32 * kWarps) {
      float const g = value(w.norm1_weight, d);
      sum = add(sum, make_float4(value(w.norm1_bias, d), g, g * g, 0.f));
    }
    sum = block_sum(s, sum, thread);
    float const mean = sum.x / channels;
    float4 centred = make_float4(0.f, 0.f, 0.f, 0.f);
    float* const table = p.call.folded.channels;
    for (int d = thread; d < channels; d += 32 * kWarps) {
      float const g = value(w.norm1_weight, d), b = value(w.norm1_bias, d), c = b - mean;
      store_global(table + d, g);
      store_global(table + channels + d, g * c);
      store_global(table + 2 * channels + d, g * b);
      centred = add(centred, make_float4(c * c, g * c, 0.f, 0.f));
    }
    centred = block_sum(s, centred, thread);
    if (thread == 0) {
      float4* const to = reinterpret_cast<float4*>(p.call.folded.moments);
      store_global(to, make_float4(mean, centred.x / channels, sum.y, sum.z));
      store_global(to + 1, make_float4(centred.y, 0.f, 0.f, 0.f));
    }
  }

  static __device__ void run(Params const& p) {
    Shared& s = dynamic_shared<Shared>();
    int const block = blockIdx.x, thread = threadIdx.x;
    if (block == 0) return tabulate(p, s, thread);
    if (block <= p.hidden_rows) fold_hidden(p, s, block - 1, thread);
    if (block <= p.made_rows) round_made(p, block - 1, thread);
  }
};

__global__ void __launch_bounds__(32 * FoldKernel::kWarps)
    fold_kernel(__grid_constant__ const FoldKernel::Params params) {
  FoldKernel::run(params);
}

inline void launch_fold(const Fold& call, cudaStream_t stream) {
  int const made = made_tile(call.sizes.made), tile = hidden_tile(made);
  FoldKernel::Params const params{call, divide_up(call.sizes.hidden, tile) * tile, made};
  launch("token_learner", fold_kernel,
         {dim3(1 + std::max(params.hidden_rows, made)), dim3(32 * FoldKernel::kWarps), dim3(1),
          sizeof(FoldKernel::Shared)},
         stream, params);
}

}  // namespace blip3v::token_learner

// TL(G) of one position, a block for it: every thread owns four channels of all rows, which lie in shared
// memory as they came; only sums over the channels go through the block. Forward and backward share this.
//
// The two LayerNorms in series need sums over a row only. With xc = x - mean(x), y = xc r1 gamma1 + beta1:
//   mean(y) = r1 mean(xc gamma1) + mean(beta1),  yc = y - mean(y),
//   h[j] = r2 sum(yc gamma2 w1[j]) + sum(beta2 w1[j]),
// so three rounds of sums lead from x to h: of x; of xc^2 and xc gamma1; of yc^2 and yc gamma2 w1[j].
#pragma once

#include "common/launch.cuh"
#include "ttm_read/group.cuh"
#include "ttm_write/params.h"
#include "ttm_write/tiles.h"

namespace blip3v::ttm_write {

using ttm_read::Columns;
using ttm_read::dot;
using ttm_read::Own;
using ttm_read::Pack;
using ttm_read::row_of;
using ttm_read::RowSums;
using ttm_read::sum;
using ttm_read::width_for;

// Where a block's shared memory starts.
struct alignas(16) SharedBase {
  unsigned char bytes[16];
};

// Hands out shared memory piece by piece; without a base, it only counts. Pointers come from the base by
// addition, so that the compiler sees that they are shared memory.
struct Arena {
  unsigned char* base;
  unsigned used = 0;  // bytes

  template <class U>
  CUTE_HOST_DEVICE U* take(int count) {
    constexpr unsigned kAlign = 16;
    U* const piece = reinterpret_cast<U*>(base + used);
    used += (count * unsigned(sizeof(U)) + kAlign - 1) / kAlign * kAlign;
    return piece;
  }
  CUTE_HOST_DEVICE RowSums sums(int warps, int count) { return {take<float>(warps * count), count}; }
};

// The shared memory of a TL over `rows` rows. kExtra: sums of a row beside those of the hidden channels.
template <class T, int kSlots, int kExtra>
struct LearnerMemory {
  static constexpr int kHidden = 2 * kSlots;
  static constexpr int kPerRow = 1 + kHidden + kExtra;  // sums of the third round

  RowSums first, second, third, once;
  float* constants;      // mean(beta1), sum(beta2 w1[j]), sum(gamma2 w1[j])
  float* w2;             // [G,J]
  float* hidden;         // [rows,J]: h
  float* gelu;           // [rows,J]
  float* attention;      // [rows,G]: the softmax over rows
  Pack<T>* rows;         // [rows,threads]
  Pack<float>* weights;  // [J,threads]: gamma2 w1[j], each thread's own
  Pack<float>* affine;   // [2,threads]: gamma1 and beta1

  CUTE_HOST_DEVICE LearnerMemory(Arena& arena, int row_count, int threads) {
    int const warps = threads / 32;
    first = arena.sums(warps, row_count);
    second = arena.sums(warps, 2 * row_count);
    third = arena.sums(warps, kPerRow * row_count);
    once = arena.sums(warps, 1 + 2 * kHidden);
    constants = arena.take<float>(1 + 2 * kHidden);
    w2 = arena.take<float>(kSlots * kHidden);
    hidden = arena.take<float>(row_count * kHidden);
    gelu = arena.take<float>(row_count * kHidden);
    attention = arena.take<float>(row_count * kSlots);
    rows = arena.take<Pack<T>>(row_count * threads);
    weights = arena.take<Pack<float>>(kHidden * threads);
    affine = arena.take<Pack<float>>(2 * threads);
  }
};

// kCount numbers side by side in shared memory, the same for all threads.
template <int kCount>
CUTE_DEVICE void load_shared_row(const float* row, float (&x)[kCount]) {
  constexpr int kPack = kCount < kOwn ? kCount : kOwn;
  struct alignas(kPack * sizeof(float)) Numbers {
    float of[kPack];
  };
  CUTE_UNROLL
  for (int i = 0; i < kCount; i += kPack) {
    Numbers const numbers = load_shared(reinterpret_cast<const Numbers*>(row + i));
    CUTE_UNROLL
    for (int k = 0; k < kPack; ++k) x[i + k] = numbers.of[k];
  }
}

CUTE_DEVICE float warp_max(float value) {
  CUTE_UNROLL
  for (int bit = kLanes / 2; bit > 0; bit /= 2) value = fmaxf(value, __shfl_xor_sync(kWholeWarp, value, bit));
  return value;
}

// Number n, which lane n holds.
CUTE_DEVICE float from_lane(float value, int n) {
  return __shfl_sync(kWholeWarp, value, n);
}

// Phi, the distribution function of the normal distribution: gelu(h) = h Phi(h).
CUTE_DEVICE float normal_cdf(float h) {
  return 0.5f * (1.f + erff(h * 0.70710678f));
}
// gelu'(h) = Phi(h) + h phi(h).
CUTE_DEVICE float gelu_slope(float h) {
  return normal_cdf(h) + h * 0.39894228f * expf(-0.5f * h * h);
}

template <class T, int kSlots, int kExtra>
struct Learner {
  using Memory = LearnerMemory<T, kSlots, kExtra>;
  static constexpr int kHidden = Memory::kHidden;
  static constexpr int kThirdRows = third_rows(kExtra > 0, Memory::kPerRow);

  Inputs const& in;
  Memory const& memory;
  Columns columns;
  int row_count;
  // Lane n holds those of row n.
  float mean1, rstd1, mean2, rstd2;

  // Once for a block: weights and what does not depend on x. `hidden` has a barrier before it reads that.
  CUTE_DEVICE Learner(Inputs const& inputs, Memory const& shared)
      : in(inputs), memory(shared), columns(in.sizes.width), row_count(kSlots + in.sizes.processed) {
    Own gamma1, beta1, gamma2, beta2;
    columns.load(in.gamma1, gamma1);
    columns.load(in.beta1, beta1);
    store_shared(memory.affine + threadIdx.x, ttm_read::pack<float>(gamma1));
    store_shared(memory.affine + blockDim.x + threadIdx.x, ttm_read::pack<float>(beta1));
    columns.load(in.gamma2, gamma2);
    columns.load(in.beta2, beta2);
    float beta_sum[1] = {sum(beta1)}, with_beta[kHidden], with_gamma[kHidden];
    CUTE_UNROLL
    for (int j = 0; j < kHidden; ++j) {
      Own w;
      columns.load(in.w1 + std::int64_t(j) * columns.width, w);
      with_beta[j] = dot(w, beta2);
      CUTE_UNROLL
      for (int i = 0; i < kOwn; ++i) w[i] *= gamma2[i];
      with_gamma[j] = sum(w);
      store_shared(memory.weights + j * blockDim.x + threadIdx.x, ttm_read::pack<float>(w));
    }
    memory.once.put(beta_sum, 0, 1);
    memory.once.put(with_beta, 1, kHidden);
    memory.once.put(with_gamma, 1 + kHidden, kHidden);
    for (int i = threadIdx.x; i < kSlots * kHidden; i += blockDim.x) {
      store_shared(memory.w2 + i, load_global(in.w2 + i));
    }
    __syncthreads();
    for (int i = threadIdx.x; i < memory.once.count; i += blockDim.x) {
      store_shared(memory.constants + i, memory.once.total(i) / (i == 0 ? float(columns.width) : 1.f));
    }
  }

  // Reads the rows, several at a time, and starts the first round of sums.
  CUTE_DEVICE void read(int item) {
    constexpr int kAtOnce = rows_at_once(kSlots, sizeof(T));
    const T* const slots = row_of<T>(in.memory, in.sizes.positions, item, 0);
    const T* const others = row_of<T>(in.processed, in.sizes.positions, item, 0);
    CUTE_NO_UNROLL
    for (int start = 0; start < row_count; start += kAtOnce) {
      Pack<T> raw[kAtOnce];
      float values[width_for(kAtOnce)] = {};
      CUTE_UNROLL
      for (int r = 0; r < kAtOnce; ++r) {
        int const n = start + r;
        if (n >= row_count) continue;
        raw[r] =
            columns.load(n < kSlots ? slots + n * in.memory.row : others + (n - kSlots) * in.processed.row);
      }
      CUTE_UNROLL
      for (int r = 0; r < kAtOnce; ++r) {
        if (start + r >= row_count) continue;
        Own x;
        store_shared(memory.rows + (start + r) * blockDim.x + threadIdx.x, raw[r]);
        unpack(raw[r], x);
        values[r] = sum(x);
      }
      memory.first.put(values, start, cute::min(kAtOnce, row_count - start));
    }
  }

  CUTE_DEVICE void row(int n, Own& x) const {
    unpack(load_shared(memory.rows + n * blockDim.x + threadIdx.x), x);
  }

  // x - mean(x) of row n, and x itself.
  CUTE_DEVICE void centred(int n, Own& x, Own& xc) const {
    row(n, x);
    float const mean = from_lane(mean1, n);
    CUTE_UNROLL
    for (int i = 0; i < kOwn; ++i) xc[i] = columns.own ? x[i] - mean : 0.f;
  }

  // The output of the first LayerNorm less its own mean.
  CUTE_DEVICE void between(int n, Own const& xc, Own& yc) const {
    float const scale = from_lane(rstd1, n), mean = from_lane(mean2, n);
    Own gamma, beta;
    gamma1(gamma);
    unpack(load_shared(memory.affine + blockDim.x + threadIdx.x), beta);
    CUTE_UNROLL
    for (int i = 0; i < kOwn; ++i) {
      yc[i] = columns.own ? xc[i] * scale * gamma[i] + (beta[i] - mean) : 0.f;
    }
  }

  // Three rounds of sums, then h and gelu(h) of all rows, for all threads to see. extra(n, x, values) sets
  // the kExtra further sums of row n.
  template <class Extra>
  CUTE_DEVICE void hidden(Extra const& extra) {
    int const lane = threadIdx.x % kLanes;
    float const width = columns.width;
    bool const live = lane < row_count;
    __syncthreads();
    mean1 = live ? memory.first.total(lane) / width : 0.f;
    memory.second.template add<2, kSecondRows>(row_count, [&](int n, float (&values)[2]) {
      Own x, xc, gamma;
      centred(n, x, xc);
      gamma1(gamma);
      values[0] = dot(xc, xc);
      values[1] = dot(xc, gamma);
    });
    __syncthreads();
    rstd1 = live ? rsqrtf(memory.second.total(2 * lane) / width + in.eps) : 0.f;
    mean2 = live ? rstd1 * memory.second.total(2 * lane + 1) / width + load_shared(memory.constants) : 0.f;
    memory.third.template add<Memory::kPerRow, kThirdRows>(row_count,
                                                           [&](int n, float (&values)[Memory::kPerRow]) {
                                                             Own x, xc, yc;
                                                             centred(n, x, xc);
                                                             between(n, xc, yc);
                                                             values[0] = dot(yc, yc);
                                                             CUTE_UNROLL
                                                             for (int j = 0; j < kHidden; ++j) {
                                                               Own w;
                                                               weight(j, w);
                                                               values[1 + j] = dot(yc, w);
                                                             }
                                                             extra(n, x, values);
                                                           });
    __syncthreads();
    rstd2 = live ? rsqrtf(memory.third.total(Memory::kPerRow * lane) / width + in.eps) : 0.f;
    for (int i = threadIdx.x; i < row_count * kHidden; i += blockDim.x) {
      int const n = i / kHidden, j = i % kHidden;
      float const spread = rsqrtf(memory.third.total(Memory::kPerRow * n) / width + in.eps);
      float const h =
          spread * memory.third.total(Memory::kPerRow * n + 1 + j) + load_shared(memory.constants + 1 + j);
      store_shared(memory.hidden + i, h);
      store_shared(memory.gelu + i, h * normal_cdf(h));
    }
    __syncthreads();
  }

  // The softmax over rows of slot g: the attention to row n in lane n, zero beyond the rows. Whole warps call
  // it.
  CUTE_DEVICE float attend(int g) const {
    int const lane = threadIdx.x % kLanes;
    bool const live = lane < row_count;
    float logit = live ? 0.f : -INFINITY;
    if (live) {
      CUTE_UNROLL
      for (int j = 0; j < kHidden; ++j) {
        logit += load_shared(memory.gelu + lane * kHidden + j) * load_shared(memory.w2 + g * kHidden + j);
      }
    }
    float const largest = warp_max(logit);
    float const weight = expf(logit - largest);  // exp(-inf) = 0 beyond the rows
    float const attention = weight / warp_sum(weight);
    if (live) store_shared(memory.attention + lane * kSlots + g, attention);
    return attention;
  }

  // Weights are in shared memory, for registers are what limits the blocks of a multiprocessor.
  CUTE_DEVICE void gamma1(Own& gamma) const { unpack(load_shared(memory.affine + threadIdx.x), gamma); }
  // gamma2 w1[j].
  CUTE_DEVICE void weight(int j, Own& w) const {
    unpack(load_shared(memory.weights + j * blockDim.x + threadIdx.x), w);
  }
};

}  // namespace blip3v::ttm_write

// Statistics of the rows of x that both norms need, from the chunks of x that pass through shared memory.
#pragma once

#include "token_learner/layouts.cuh"

namespace blip3v::token_learner {

// Sums over the channels with u = x - shift, where shift is the row's first channel: one pass, and no
// difference of large squares unless a single channel makes up the row.
struct alignas(16) Sums {
  float u, uu, gu, g2u;
  float g2uu, gbu, shift, unused;
};

// The part of them that one thread sees. A warp works on its 16 rows: 8 lanes share a row's 64 channels, 16
// bytes each, and every lane has 4 rows.
struct RowSums {
  static constexpr int kPerLane = 4;
  float shift[kPerLane], u[kPerLane], uu[kPerLane], gu[kPerLane], g2u[kPerLane], g2uu[kPerLane],
      gbu[kPerLane];

  static CUTE_DEVICE int row(int thread, int i) { return thread / 32 * 16 + thread % 32 / 8 + 4 * i; }

  // x: the first channel of the first of 64 rows, of which `rows` exist. Rows beyond are zeros, as TMA makes
  // them.
  CUTE_DEVICE RowSums(bf16 const* x, std::int64_t stride, int rows, int thread) {
    CUTE_UNROLL
    for (int i = 0; i < kPerLane; ++i) {
      shift[i] = row(thread, i) < rows ? float(load_global(x + row(thread, i) * stride)) : 0.f;
      u[i] = uu[i] = gu[i] = g2u[i] = g2uu[i] = gbu[i] = 0.f;
    }
  }

  static CUTE_DEVICE float4 read(float const* p) { return load_global(reinterpret_cast<float4 const*>(p)); }

  // tile: 64 rows, channels [64 * chunk, 64 * chunk + 64) of `channels`. table: [2,channels]: g1,
  // g1 (b1 - mean b1).
  template <class T>
  CUTE_DEVICE void add(T const& tile, float const* table, int chunk, int channels, int thread) {
    int const unit = thread % 8 * 8, channel = chunk * kChunk + unit;
    if (channel >= channels) return;  // the number of channels is a multiple of 8
    float4 const g0 = read(table + channel), g1 = read(table + channel + 4);
    float4 const b0 = read(table + channels + channel), b1 = read(table + channels + channel + 4);
    float const g[8] = {g0.x, g0.y, g0.z, g0.w, g1.x, g1.y, g1.z, g1.w};
    float const b[8] = {b0.x, b0.y, b0.z, b0.w, b1.x, b1.y, b1.z, b1.w};
    CUTE_UNROLL
    for (int i = 0; i < kPerLane; ++i) {
      uint4 const words = load_shared(reinterpret_cast<uint4 const*>(&tile(row(thread, i), unit)));
      std::uint32_t const pairs[4] = {words.x, words.y, words.z, words.w};
      CUTE_UNROLL
      for (int e = 0; e < 8; ++e) {
        float const value =
            __uint_as_float(e % 2 ? pairs[e / 2] & 0xffff0000u : pairs[e / 2] << 16) - shift[i];
        float const gv = g[e] * value, g2v = g[e] * gv;
        u[i] += value;
        uu[i] += value * value;
        gu[i] += gv;
        g2u[i] += g2v;
        g2uu[i] += gv * gv;
        gbu[i] += b[e] * value;
      }
    }
  }

  static CUTE_DEVICE float total(float x) {
    x += __shfl_xor_sync(~0u, x, 1);
    x += __shfl_xor_sync(~0u, x, 2);
    return x + __shfl_xor_sync(~0u, x, 4);
  }

  // to: [64] of the warpgroup.
  CUTE_DEVICE void publish(Sums* to, int thread) const {
    CUTE_UNROLL
    for (int i = 0; i < kPerLane; ++i) {
      float4 const low{total(u[i]), total(uu[i]), total(gu[i]), total(g2u[i])};
      float4 const high{total(g2uu[i]), total(gbu[i]), shift[i], 0.f};
      if (thread % 8 == 0) {
        float4* const place = reinterpret_cast<float4*>(to + row(thread, i));
        store_shared(place, low);
        store_shared(place + 1, high);
      }
    }
  }
};

// low, high: the two halves of a row's Sums over all channels.
CUTE_DEVICE Row row_of_sums(float4 low, float4 high, float4 moments, float gamma_bias, int channels,
                            float eps) {
  float const over = 1.f / channels, mean_bias = moments.x, variance_bias = moments.y;
  float const gamma = moments.z, gamma2 = moments.w;
  float const d = low.x * over;  // mean - shift
  float const gx = low.z - d * gamma, g2x = low.w - d * gamma2, gbx = high.y - d * gamma_bias;
  float const g2xx = high.x + d * (d * gamma2 - 2.f * low.w);
  float const r1 = rsqrtf(fmaxf((low.y - d * low.x) * over, 0.f) + eps);
  float const mean = gx * over;  // of g1 (x - mu)
  float const variance = r1 * (r1 * (g2xx * over - mean * mean) + 2.f * gbx * over) + variance_bias;
  float const by = r1 * over;
  return {high.z + d,
          r1,
          rsqrtf(fmaxf(variance, 0.f) + eps),
          r1 * mean + mean_bias,
          by * gx,
          by * g2x,
          by * r1 * g2xx,
          by * (gbx + mean_bias * gx)};
}

}  // namespace blip3v::token_learner

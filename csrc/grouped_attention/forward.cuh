// The forward kernels of grouped_attention: y = x + softmax(q k^T / sqrt(d)) v within each group, z = LN(y).
//
// Small groups (group_forward): a block holds a group, a warp a head of it, all in registers; every tensor is
// read and written once. Other groups (tile_forward, row_forward): a warp takes 8 queries of a head, and the
// LayerNorm is a launch of its own.
#pragma once

#include "common/launch.cuh"
#include "grouped_attention/products.cuh"

namespace blip3v::grouped_attention {

template <class Element, int kTokens, int kPairs>
__global__ void __launch_bounds__(kThreads, forward_blocks(sizeof(Element), kTokens))
    group_forward(Forward const call) {
  auto& shared = dynamic_shared<BlockSums<kTokens, kWarps>>();
  Sizes const& sizes = call.sizes;
  int const lane = threadIdx.x % kLanes, head = threadIdx.x / kLanes, group = blockIdx.x;
  int const width = sizes.heads * sizes.head_dim;
  // A warp without a head has no channels; it takes part in the barriers.
  Channels const channels(sizes, head, lane);

  Operand<Element, kTokens, kPairs> q, k, v, x;
  CUTE_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    Element const* qkv = token_of<Element>(call.qkv, group, t) + channels.first;
    read_head(q[t], qkv, channels);
    read_head(k[t], qkv + width, channels);
  }
  auto p = products<Element, kTokens, kTokens, kPairs>(q, k, lane);
  // Only now: their registers are those of q and k, and three blocks fit.
  CUTE_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    read_head(v[t], token_of<Element>(call.qkv, group, t) + 2 * width + channels.first, channels);
    read_head(x[t], token_of<Element>(call.x, group, t) + channels.first, channels);
  }
  exponentiate<kTokens>(p, lane, kLog2E * rsqrtf(float(sizes.head_dim)));

  std::int64_t const row = std::int64_t(group) * kTokens;
  float2 y[kTokens][kPairs];
  CUTE_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    float2 sum[kPairs];
    CUTE_UNROLL
    for (int c = 0; c < kPairs; ++c) sum[c] = {0.f, 0.f};
    float total = 0.f;
    CUTE_UNROLL
    for (int j = 0; j < kTokens; ++j) {
      float const weight = p.at(t, j);
      total += weight;
      CUTE_UNROLL
      for (int c = 0; c < kPairs; ++c) add_scaled(sum[c], weight, v[j][c].wide());
    }
    CUTE_UNROLL
    for (int c = 0; c < kPairs; ++c) {
      y[t][c] = x[t][c].wide();
      add_scaled(y[t][c], reciprocal(total), sum[c]);
      Pair<Element> const written(y[t][c]);
      write_pair(row_at<Element>(call.y, row + t, width) + channels.first, channels, c, written);
      y[t][c] = written.wide();  // the LayerNorm is of what the backward will read
    }
  }

  Operand<float, 2, kPairs> norm;
  read_head(norm[0], call.norm_weight + channels.first, channels);
  read_head(norm[1], call.norm_bias + channels.first, channels);
  Moments moments[kTokens];
  auto const value = [&](int t, int c) { return c % 2 ? y[t][c / 2].y : y[t][c / 2].x; };
  auto const live = [&](int c) { return channels.has(c / 2); };
  block_moments<2 * kPairs>(shared, 0, value, live, width, call.eps, moments);

  CUTE_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    auto const [mean, rstd] = moments[t];
    CUTE_UNROLL
    for (int c = 0; c < kPairs; ++c) {
      float2 const weight = norm[0][c].wide(), bias = norm[1][c].wide();
      Pair<Element> const z(
          {(y[t][c].x - mean) * rstd * weight.x + bias.x, (y[t][c].y - mean) * rstd * weight.y + bias.y});
      write_pair(row_at<Element>(call.z, row + t, width) + channels.first, channels, c, z);
    }
    if (threadIdx.x == t) {
      store_global(call.mean + row + t, mean);
      store_global(call.rstd + row + t, rstd);
    }
  }
}

// One warp: y of a tile of tokens of one head, with an online softmax over tiles of keys.
template <class Element, int kPairs>
__global__ void __launch_bounds__(kThreads, 1) tile_forward(Forward const call) {
  constexpr int kQueries = queries(kPairs);
  Sizes const& sizes = call.sizes;
  int const lane = threadIdx.x % kLanes;
  Item const item(sizes, kQueries);
  if (item.group >= sizes.groups) return;
  int const width = sizes.heads * sizes.head_dim;
  Channels const channels(sizes, item.head, lane);
  float const scale_log2 = kLog2E * rsqrtf(float(sizes.head_dim));

  Operand<Element, kQueries, kPairs> q;
  CUTE_UNROLL
  for (int t = 0; t < kQueries; ++t) {
    int const token = item.first + t;
    read_head(q[t], token_of<Element>(call.qkv, item.group, token) + channels.first, channels,
              token < sizes.tokens);
  }
  float2 sum[kQueries][kPairs];
  CUTE_UNROLL
  for (int t = 0; t < kQueries; ++t) {
    CUTE_UNROLL
    for (int c = 0; c < kPairs; ++c) sum[t][c] = {0.f, 0.f};
  }
  float largest = -INFINITY, mass = 0.f;  // of this lane's row

  for (int key = 0; key < sizes.tokens; key += kKeys) {
    Operand<Element, kKeys, kPairs> k, v;
    CUTE_UNROLL
    for (int t = 0; t < kKeys; ++t) {
      Element const* qkv = token_of<Element>(call.qkv, item.group, key + t) + channels.first;
      read_head(k[t], qkv + width, channels, key + t < sizes.tokens);
      read_head(v[t], qkv + 2 * width, channels, key + t < sizes.tokens);
    }
    auto p = products<Element, kQueries, kKeys, kPairs>(q, k, lane);
    if (key + p.column(lane, 0) >= sizes.tokens) p.held[0] = -INFINITY;
    float const next = fmaxf(largest, p.row_max(lane));  // finite: the first key of a tile exists
    Scores<kQueries, kKeys> const shrink(exp2f((largest - next) * scale_log2));
    p.held[0] = exp2f((p.held[0] - next) * scale_log2);
    mass = mass * shrink.held[0] + p.row_sum(lane);
    largest = next;
    CUTE_UNROLL
    for (int t = 0; t < kQueries; ++t) {
      float const factor = shrink.at(t, 0);
      float weight[kKeys];
      CUTE_UNROLL
      for (int j = 0; j < kKeys; ++j) weight[j] = p.at(t, j);
      CUTE_UNROLL
      for (int c = 0; c < kPairs; ++c) {
        sum[t][c] = {sum[t][c].x * factor, sum[t][c].y * factor};
        CUTE_UNROLL
        for (int j = 0; j < kKeys; ++j) add_scaled(sum[t][c], weight[j], v[j][c].wide());
      }
    }
  }

  Scores<kQueries, kKeys> const masses(mass);
  CUTE_UNROLL
  for (int t = 0; t < kQueries; ++t) {
    int const token = item.first + t;
    float const total = masses.at(t, 0);
    Pair<Element> x[kPairs];
    read_head(x, token_of<Element>(call.x, item.group, token) + channels.first, channels,
              token < sizes.tokens);
    if (token >= sizes.tokens) continue;
    std::int64_t const row = std::int64_t(item.group) * sizes.tokens + token;
    CUTE_UNROLL
    for (int c = 0; c < kPairs; ++c) {
      float2 y = x[c].wide();
      add_scaled(y, reciprocal(total), sum[t][c]);
      write_pair(row_at<Element>(call.y, row, width) + channels.first, channels, c, Pair<Element>(y));
    }
  }
}

// One warp: the LayerNorm of one row of y.
template <class Element>
__global__ void __launch_bounds__(kThreads, 1) row_forward(Forward const call) {
  Sizes const& sizes = call.sizes;
  int const lane = threadIdx.x % kLanes, width = sizes.heads * sizes.head_dim;
  std::int64_t const row = std::int64_t(blockIdx.x) * kWarps + threadIdx.x / kLanes;
  if (row >= std::int64_t(sizes.groups) * sizes.tokens) return;
  auto const* y = reinterpret_cast<Pair<Element> const*>(row_at<Element>(call.y, row, width));
  auto* z = reinterpret_cast<Pair<Element>*>(row_at<Element>(call.z, row, width));

  float const share = reciprocal(float(width));
  float sum = 0.f, squares = 0.f;
  for (int c = lane; c < width / 2; c += kLanes) {
    float2 const v = load_global(y + c).wide();
    sum += v.x + v.y;
  }
  float const mean = warp_sum(sum) * share;
  for (int c = lane; c < width / 2; c += kLanes) {
    float2 const v = load_global(y + c).wide();
    squares += (v.x - mean) * (v.x - mean) + (v.y - mean) * (v.y - mean);
  }
  float const rstd = rsqrtf(warp_sum(squares) * share + call.eps);
  for (int c = lane; c < width / 2; c += kLanes) {
    float2 const v = load_global(y + c).wide();
    float2 const weight = load_global(reinterpret_cast<float2 const*>(call.norm_weight) + c);
    float2 const bias = load_global(reinterpret_cast<float2 const*>(call.norm_bias) + c);
    store_global(z + c, Pair<Element>({(v.x - mean) * rstd * weight.x + bias.x,
                                       (v.y - mean) * rstd * weight.y + bias.y}));
  }
  if (lane == 0) {
    store_global(call.mean + row, mean);
    store_global(call.rstd + row, rstd);
  }
}

template <class Element>
void launch_forward(Forward const& call, cudaStream_t stream) {
  constexpr char const* kName = "grouped_attention_forward";
  Sizes const& sizes = call.sizes;
  bool const held = with_held_group(sizes, [&](auto tokens, auto pairs) {
    LaunchShape const shape{dim3(sizes.groups), dim3(kThreads), {1, 1, 1}, sizeof(BlockSums<tokens, kWarps>)};
    launch(kName, &group_forward<Element, tokens, pairs>, shape, stream, call);
  });
  if (held) return;
  with_pairs(sizes, [&](auto pairs) {
    launch(kName, &tile_forward<Element, pairs>, warps(items(sizes, queries(pairs))), stream, call);
  });
  launch(kName, &row_forward<Element>, warps(std::int64_t(sizes.groups) * sizes.tokens), stream, call);
}

}  // namespace blip3v::grouped_attention

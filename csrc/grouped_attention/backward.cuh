// The backward kernels of grouped_attention.
//
//   g = dz norm_weight;  dx = dy + rstd (g - mean(g) - h mean(g h)), h the normalized row of y
//   p = softmax(q k^T / sqrt(d)), again;  dp = dx v^T;  ds = p (dp - rowsum(p dp)) / sqrt(d)
//   dq = ds k;  dk = ds^T q;  dv = p^T dx;  dnorm_weight = sum of dz h;  dnorm_bias = sum of dz
//
// Small groups (group_backward): a block holds a group, a warp a head of it, and goes on to further groups;
// each block leaves one row of partial sums. Larger groups: row_backward makes dx and the partial sums, then
// query_gradients dq and what the rows of scores sum up to, and key_gradients dk and dv. No atomics anywhere.
#pragma once

#include "common/launch.cuh"
#include "grouped_attention/products.cuh"

namespace blip3v::grouped_attention {

// The softmax of the rows of scores in place, and dp -> ds. A lane's scores all belong to one row.
template <int kTokens>
CUTE_DEVICE void differentiate(Scores<kTokens, kTokens>& p, Scores<kTokens, kTokens>& dp, int lane,
                               float scale) {
  exponentiate<kTokens>(p, lane, kLog2E * scale);
  float const norm = reciprocal(p.row_sum(lane));
  auto weighted = p;
  CUTE_UNROLL
  for (int i = 0; i < p.kPerLane; ++i) {
    p.held[i] *= norm;
    weighted.held[i] = p.held[i] * dp.held[i];
  }
  float const delta = weighted.row_sum(lane);
  CUTE_UNROLL
  for (int i = 0; i < p.kPerLane; ++i) dp.held[i] = p.held[i] * (dp.held[i] - delta) * scale;
}

// What each thread of group_backward keeps for itself outside of its registers, for its own channels.
template <int kTokens, int kPairs>
struct GroupShared {
  BlockSums<2 * kTokens, kWarps> sums;
  float2 weight[kPairs][kThreads];
  float2 weight_sum[kPairs][kThreads], bias_sum[kPairs][kThreads];  // over all groups of the block
};

template <class Element, int kTokens, int kPairs>
__global__ void __launch_bounds__(kThreads, backward_blocks(kTokens, kPairs))
    group_backward(Backward const call) {
  auto& shared = dynamic_shared<GroupShared<kTokens, kPairs>>();
  Sizes const& sizes = call.sizes;
  int const thread = threadIdx.x, lane = thread % kLanes, head = thread / kLanes;
  int const width = sizes.heads * sizes.head_dim;
  // A warp without a head has no channels; it takes part in the barriers.
  Channels const channels(sizes, head, lane);
  float const share = reciprocal(float(width)), scale = rsqrtf(float(sizes.head_dim));

  Pair<float> weight[kPairs];
  read_head(weight, call.norm_weight + channels.first, channels);
  CUTE_UNROLL
  for (int c = 0; c < kPairs; ++c) {
    store_shared(&shared.weight[c][thread], weight[c].wide());
    store_shared(&shared.weight_sum[c][thread], float2{0.f, 0.f});
    store_shared(&shared.bias_sum[c][thread], float2{0.f, 0.f});
  }

  int round = 0;
  for (int group = blockIdx.x; group < sizes.groups; group += gridDim.x, ++round) {
    std::int64_t const row = std::int64_t(group) * kTokens;
    Operand<Element, kTokens, kPairs> y, dz, dx;
    float rstd[kTokens], shift[kTokens];  // h = y rstd + shift
    float sums[2 * kTokens];              // of g and of g h
    CUTE_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      read_head(y[t], row_at<Element const>(call.y, row + t, width) + channels.first, channels);
      read_head(dz[t], token_of<Element>(call.dz, group, t) + channels.first, channels);
      read_head(dx[t], token_of<Element>(call.dy, group, t) + channels.first, channels);
      rstd[t] = load_global(call.rstd + row + t);
      shift[t] = -load_global(call.mean + row + t) * rstd[t];
      sums[2 * t] = sums[2 * t + 1] = 0.f;
    }
    CUTE_UNROLL
    for (int c = 0; c < kPairs; ++c) {
      float2 const w = load_shared(&shared.weight[c][thread]);
      float2 weight_sum = load_shared(&shared.weight_sum[c][thread]);
      float2 bias_sum = load_shared(&shared.bias_sum[c][thread]);
      CUTE_UNROLL
      for (int t = 0; t < kTokens; ++t) {
        float2 const slope = dz[t][c].wide(), wide = y[t][c].wide();
        float2 const h = {wide.x * rstd[t] + shift[t], wide.y * rstd[t] + shift[t]};
        sums[2 * t] += slope.x * w.x + slope.y * w.y;
        sums[2 * t + 1] += slope.x * w.x * h.x + slope.y * w.y * h.y;
        weight_sum = {weight_sum.x + slope.x * h.x, weight_sum.y + slope.y * h.y};
        bias_sum = {bias_sum.x + slope.x, bias_sum.y + slope.y};
      }
      store_shared(&shared.weight_sum[c][thread], weight_sum);
      store_shared(&shared.bias_sum[c][thread], bias_sum);
    }
    block_sums(shared.sums, round, sums);
    int const same_group = not_before(group);
    Element* const dx_rows =
        row_at<Element>(call.dx, std::int64_t(same_group) * kTokens, width) + channels.first;
    CUTE_UNROLL
    for (int c = 0; c < kPairs; ++c) {
      float2 const w = load_shared(&shared.weight[c][thread]);
      CUTE_UNROLL
      for (int t = 0; t < kTokens; ++t) {
        float const mean_g = sums[2 * t] * share, mean_gh = sums[2 * t + 1] * share;
        float2 const slope = dz[t][c].wide(), wide = y[t][c].wide();
        float2 const h = {wide.x * rstd[t] + shift[t], wide.y * rstd[t] + shift[t]};
        float2 sum = dx[t][c].wide();
        sum.x += rstd[t] * (slope.x * w.x - mean_g - h.x * mean_gh);
        sum.y += rstd[t] * (slope.y * w.y - mean_g - h.y * mean_gh);
        // Where there is no channel, a mean times nothing must not enter dp.
        dx[t][c] = Pair<Element>(channels.has(c) ? sum : float2{0.f, 0.f});
        write_pair(dx_rows + t * width, channels, c, dx[t][c]);
      }
    }

    Operand<Element, kTokens, kPairs> q, k, v;
    CUTE_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      Element const* qkv = token_of<Element>(call.qkv, same_group, t) + channels.first;
      read_head(q[t], qkv, channels);
      read_head(k[t], qkv + width, channels);
    }
    auto p = products<Element, kTokens, kTokens, kPairs>(q, k, lane);
    int const still_same_group = not_before(group);
    CUTE_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      read_head(v[t], token_of<Element>(call.qkv, still_same_group, t) + 2 * width + channels.first,
                channels);
    }
    auto ds = products<Element, kTokens, kTokens, kPairs>(dx, v, lane);
    differentiate<kTokens>(p, ds, lane, scale);

    // Row t of a part of dqkv: the sum over j of factor(t, j) times row j.
    Element* const dqkv =
        row_at<Element>(call.dqkv, std::int64_t(not_before(group)) * kTokens, 3 * width) + channels.first;
    auto const write_sums = [&](int part, auto const& rows, auto const& factor) {
      CUTE_UNROLL
      for (int c = 0; c < kPairs; ++c) {
        CUTE_UNROLL
        for (int t = 0; t < kTokens; ++t) {
          float2 sum = {0.f, 0.f};
          CUTE_UNROLL
          for (int j = 0; j < kTokens; ++j) add_scaled(sum, factor(t, j), rows[j][c].wide());
          Element* to = dqkv + (3 * t + part) * width;
          write_pair(to, channels, c, Pair<Element>(sum));
        }
      }
    };
    float factors[kTokens][kTokens];
    ds.gather(factors);
    write_sums(0, k, [&](int t, int j) { return factors[t][j]; });
    write_sums(1, q, [&](int t, int j) { return factors[j][t]; });
    p.gather(factors);
    write_sums(2, dx, [&](int t, int j) { return factors[j][t]; });
  }

  float* partials = row_at<float>(call.partials, blockIdx.x, 2 * width) + channels.first;
  CUTE_UNROLL
  for (int c = 0; c < kPairs; ++c) {
    write_pair(partials, channels, c, Pair<float>(load_shared(&shared.weight_sum[c][thread])));
    write_pair(partials + width, channels, c, Pair<float>(load_shared(&shared.bias_sum[c][thread])));
  }
}

// One block: dx of every so many-th row, and the partial sums of these rows. The thread that owns a pair of
// channels keeps its sums in shared memory behind the block's own.
template <class Element>
__global__ void __launch_bounds__(kThreads, 1) row_backward(Backward const call) {
  auto& shared = dynamic_shared<BlockSums<2, kWarps>>();
  auto* const weight_sum = reinterpret_cast<float2*>(&shared + 1);
  Sizes const& sizes = call.sizes;
  int const width = sizes.heads * sizes.head_dim, pairs = width / 2;
  auto* const bias_sum = weight_sum + pairs;
  float const share = reciprocal(float(width));
  auto const weight = [&](int c) {
    return load_global(reinterpret_cast<float2 const*>(call.norm_weight) + c);
  };

  for (int c = threadIdx.x; c < 2 * pairs; c += kThreads) store_shared(weight_sum + c, float2{0.f, 0.f});
  __syncthreads();
  int round = 0;
  for (int row = blockIdx.x; row < sizes.groups * sizes.tokens; row += gridDim.x, ++round) {
    int const group = row / sizes.tokens, token = row % sizes.tokens;
    auto const* y = reinterpret_cast<Pair<Element> const*>(row_at<Element const>(call.y, row, width));
    auto const* dy = reinterpret_cast<Pair<Element> const*>(token_of<Element>(call.dy, group, token));
    auto const* dz = reinterpret_cast<Pair<Element> const*>(token_of<Element>(call.dz, group, token));
    auto* dx = reinterpret_cast<Pair<Element>*>(row_at<Element>(call.dx, row, width));
    float const rstd = load_global(call.rstd + row), shift = -load_global(call.mean + row) * rstd;

    float sums[2] = {0.f, 0.f};  // of g and of g h
    for (int c = threadIdx.x; c < pairs; c += kThreads) {
      float2 const slope = load_global(dz + c).wide(), wide = load_global(y + c).wide(), w = weight(c);
      float2 const h = {wide.x * rstd + shift, wide.y * rstd + shift};
      sums[0] += slope.x * w.x + slope.y * w.y;
      sums[1] += slope.x * w.x * h.x + slope.y * w.y * h.y;
      float2 const of_weight = load_shared(weight_sum + c), of_bias = load_shared(bias_sum + c);
      store_shared(weight_sum + c, float2{of_weight.x + slope.x * h.x, of_weight.y + slope.y * h.y});
      store_shared(bias_sum + c, float2{of_bias.x + slope.x, of_bias.y + slope.y});
    }
    block_sums(shared, round, sums);
    float const mean_g = sums[0] * share, mean_gh = sums[1] * share;
    for (int c = threadIdx.x; c < pairs; c += kThreads) {
      float2 const slope = load_global(dz + c).wide(), wide = load_global(y + c).wide(), w = weight(c);
      float2 sum = load_global(dy + c).wide();
      float2 const h = {wide.x * rstd + shift, wide.y * rstd + shift};
      sum.x += rstd * (slope.x * w.x - mean_g - h.x * mean_gh);
      sum.y += rstd * (slope.y * w.y - mean_g - h.y * mean_gh);
      store_global(dx + c, Pair<Element>(sum));
    }
  }

  auto* partials = reinterpret_cast<float2*>(row_at<float>(call.partials, blockIdx.x, 2 * width));
  for (int c = threadIdx.x; c < pairs; c += kThreads) {
    store_global(partials + c, load_shared(weight_sum + c));
    store_global(partials + pairs + c, load_shared(bias_sum + c));
  }
}

// A head of kTokens tokens of a group, of q, k or v (part 0, 1 or 2) or of dx.
template <class Element, int kTokens, int kPairs>
CUTE_DEVICE void read_part(Operand<Element, kTokens, kPairs>& to, Backward const& call, Item const& item,
                           int token, int part, Channels const& channels) {
  int const width = call.sizes.heads * call.sizes.head_dim;
  CUTE_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    Element const* from = token_of<Element>(call.qkv, item.group, token + t) + part * width;
    read_head(to[t], from + channels.first, channels, token + t < call.sizes.tokens);
  }
}
template <class Element, int kTokens, int kPairs>
CUTE_DEVICE void read_dx(Operand<Element, kTokens, kPairs>& to, Backward const& call, Item const& item,
                         int token, Channels const& channels) {
  int const width = call.sizes.heads * call.sizes.head_dim;
  std::int64_t const row = std::int64_t(item.group) * call.sizes.tokens + token;
  CUTE_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    read_head(to[t], row_at<Element const>(call.dx, row + t, width) + channels.first, channels,
              token + t < call.sizes.tokens);
  }
}

// Where row_sums keeps what a row of scores sums up to: [2,R,H,n], the base-2 logarithm of the sum of
// exponentials and the sum of p dp.
CUTE_DEVICE float* row_sum_of(Backward const& call, Item const& item, int which, int token) {
  Sizes const& sizes = call.sizes;
  std::int64_t const head = (std::int64_t(which) * sizes.groups + item.group) * sizes.heads + item.head;
  return call.row_sums + head * sizes.tokens + token;
}

// One warp: dq of a tile of tokens of one head. Twice over the keys: once for what the rows sum up to, once
// for dq.
template <class Element, int kPairs>
__global__ void __launch_bounds__(kThreads, 1) query_gradients(Backward const call) {
  constexpr int kQueries = queries(kPairs);
  Sizes const& sizes = call.sizes;
  int const lane = threadIdx.x % kLanes;
  Item const item(sizes, kQueries);
  if (item.group >= sizes.groups) return;
  Channels const channels(sizes, item.head, lane);
  float const scale = rsqrtf(float(sizes.head_dim)), scale_log2 = kLog2E * scale;
  Operand<Element, kQueries, kPairs> q, dx;
  read_part<Element, kQueries, kPairs>(q, call, item, item.first, 0, channels);
  read_dx<Element, kQueries, kPairs>(dx, call, item, item.first, channels);

  float largest = -INFINITY, mass = 0.f, weighted = 0.f;  // of this lane's row
  for (int key = 0; key < sizes.tokens; key += kKeys) {
    Operand<Element, kKeys, kPairs> tile;
    read_part<Element, kKeys, kPairs>(tile, call, item, key, 1, channels);
    auto p = products<Element, kQueries, kKeys, kPairs>(q, tile, lane);
    read_part<Element, kKeys, kPairs>(tile, call, item, key, 2, channels);
    auto dp = products<Element, kQueries, kKeys, kPairs>(dx, tile, lane);
    if (key + p.column(lane, 0) >= sizes.tokens) p.held[0] = -INFINITY;
    float const next = fmaxf(largest, p.row_max(lane));  // finite: the first key of a tile exists
    float const shrink = exp2f((largest - next) * scale_log2);
    p.held[0] = exp2f((p.held[0] - next) * scale_log2);
    dp.held[0] *= p.held[0];
    mass = mass * shrink + p.row_sum(lane);
    weighted = weighted * shrink + dp.row_sum(lane);
    largest = next;
  }
  float const logarithm = largest * scale_log2 + log2f(mass), delta = weighted * reciprocal(mass);
  using Tile = Scores<kQueries, kKeys>;
  int const own = item.first + Tile::row(lane);
  bool const first_copy = lane % Tile::kCopies == 0;
  if (first_copy && Tile::column(lane, 0) == 0 && own < sizes.tokens) {
    store_global(row_sum_of(call, item, 0, own), logarithm);
    store_global(row_sum_of(call, item, 1, own), delta);
  }

  float2 dq[kQueries][kPairs];
  CUTE_UNROLL
  for (int t = 0; t < kQueries; ++t) {
    CUTE_UNROLL
    for (int c = 0; c < kPairs; ++c) dq[t][c] = {0.f, 0.f};
  }
  for (int key = 0; key < sizes.tokens; key += kKeys) {
    Operand<Element, kKeys, kPairs> v, k;
    read_part<Element, kKeys, kPairs>(v, call, item, key, 2, channels);
    auto ds = products<Element, kQueries, kKeys, kPairs>(dx, v, lane);
    read_part<Element, kKeys, kPairs>(k, call, item, key, 1, channels);
    auto const s = products<Element, kQueries, kKeys, kPairs>(q, k, lane);
    // Without a key the score means nothing, and its power may be huge.
    bool const exists = key + s.column(lane, 0) < sizes.tokens;
    float const p = exists ? exp2f(s.held[0] * scale_log2 - logarithm) : 0.f;
    ds.held[0] = p * (ds.held[0] - delta) * scale;
    CUTE_UNROLL
    for (int t = 0; t < kQueries; ++t) {
      CUTE_UNROLL
      for (int j = 0; j < kKeys; ++j) {
        float const factor = ds.at(t, j);
        CUTE_UNROLL
        for (int c = 0; c < kPairs; ++c) add_scaled(dq[t][c], factor, k[j][c].wide());
      }
    }
  }
  int const width = sizes.heads * sizes.head_dim;
  CUTE_UNROLL
  for (int t = 0; t < kQueries; ++t) {
    int const token = item.first + t;
    if (token >= sizes.tokens) break;
    std::int64_t const row = std::int64_t(item.group) * sizes.tokens + token;
    Element* to = row_at<Element>(call.dqkv, row, 3 * width) + channels.first;
    CUTE_UNROLL
    for (int c = 0; c < kPairs; ++c) write_pair(to, channels, c, Pair<Element>(dq[t][c]));
  }
}

// One warp: dk and dv of a tile of tokens of one head.
template <class Element, int kPairs>
__global__ void __launch_bounds__(kThreads, 1) key_gradients(Backward const call) {
  constexpr int kQueries = queries(kPairs);
  Sizes const& sizes = call.sizes;
  int const lane = threadIdx.x % kLanes;
  Item const item(sizes, kKeys);
  if (item.group >= sizes.groups) return;
  Channels const channels(sizes, item.head, lane);
  float const scale = rsqrtf(float(sizes.head_dim)), scale_log2 = kLog2E * scale;
  Operand<Element, kKeys, kPairs> k, v;
  read_part<Element, kKeys, kPairs>(k, call, item, item.first, 1, channels);
  read_part<Element, kKeys, kPairs>(v, call, item, item.first, 2, channels);
  float2 dk[kKeys][kPairs], dv[kKeys][kPairs];
  CUTE_UNROLL
  for (int t = 0; t < kKeys; ++t) {
    CUTE_UNROLL
    for (int c = 0; c < kPairs; ++c) dk[t][c] = dv[t][c] = {0.f, 0.f};
  }

  for (int query = 0; query < sizes.tokens; query += kQueries) {
    Operand<Element, kQueries, kPairs> q, dx;
    read_part<Element, kQueries, kPairs>(q, call, item, query, 0, channels);
    read_dx<Element, kQueries, kPairs>(dx, call, item, query, channels);
    auto p = products<Element, kQueries, kKeys, kPairs>(q, k, lane);
    auto ds = products<Element, kQueries, kKeys, kPairs>(dx, v, lane);
    int const own = query + p.row(lane);
    bool const live = own < sizes.tokens;
    float const logarithm = live ? load_global(row_sum_of(call, item, 0, own)) : INFINITY;
    float const delta = live ? load_global(row_sum_of(call, item, 1, own)) : 0.f;
    p.held[0] = exp2f(p.held[0] * scale_log2 - logarithm);  // zero in a row that is not there
    ds.held[0] = p.held[0] * (ds.held[0] - delta) * scale;
    CUTE_UNROLL
    for (int i = 0; i < kQueries; ++i) {
      CUTE_UNROLL
      for (int t = 0; t < kKeys; ++t) {
        float const of_key = ds.at(i, t), of_value = p.at(i, t);
        CUTE_UNROLL
        for (int c = 0; c < kPairs; ++c) {
          add_scaled(dk[t][c], of_key, q[i][c].wide());
          add_scaled(dv[t][c], of_value, dx[i][c].wide());
        }
      }
    }
  }
  int const width = sizes.heads * sizes.head_dim;
  CUTE_UNROLL
  for (int t = 0; t < kKeys; ++t) {
    int const token = item.first + t;
    if (token >= sizes.tokens) break;
    std::int64_t const row = std::int64_t(item.group) * sizes.tokens + token;
    Element* to = row_at<Element>(call.dqkv, row, 3 * width) + channels.first;
    CUTE_UNROLL
    for (int c = 0; c < kPairs; ++c) {
      write_pair(to + width, channels, c, Pair<Element>(dk[t][c]));
      write_pair(to + 2 * width, channels, c, Pair<Element>(dv[t][c]));
    }
  }
}

template <class Element>
void launch_backward(Backward const& call, cudaStream_t stream) {
  constexpr char const* kName = "grouped_attention_backward";
  Sizes const& sizes = call.sizes;
  bool const held = with_held_group(sizes, [&](auto tokens, auto pairs) {
    LaunchShape const shape{dim3(call.blocks), dim3(kThreads), {1, 1, 1}, sizeof(GroupShared<tokens, pairs>)};
    launch(kName, &group_backward<Element, tokens, pairs>, shape, stream, call);
  });
  if (held) return;
  std::size_t const shared_bytes = sizeof(BlockSums<2, kWarps>) + row_backward_bytes(sizes);
  LaunchShape const rows{dim3(call.blocks), dim3(kThreads), {1, 1, 1}, shared_bytes};
  launch(kName, &row_backward<Element>, rows, stream, call);
  with_pairs(sizes, [&](auto pairs) {
    launch(kName, &query_gradients<Element, pairs>, warps(items(sizes, queries(pairs))), stream, call);
    launch(kName, &key_gradients<Element, pairs>, warps(items(sizes, kKeys)), stream, call);
  });
}

}  // namespace blip3v::grouped_attention

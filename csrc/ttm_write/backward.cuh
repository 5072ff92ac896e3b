// Back through the read of the next step and the write: one position at a time in persistent blocks, logits
// recomputed. Gradients of weights are summed over a block's positions in registers and written once.
//
// With u = yhat gamma2 + beta2 the output of the second LayerNorm, dh [rows,J] gives all of its gradients
// through Y[j] = sum over rows of dh[j] yhat and C[j] = sum over rows of dh[j]:
//   dw1[j] = gamma2 Y[j] + beta2 C[j],
//   dgamma2 = sum over j of w1[j] Y[j],  dbeta2 = sum over j of w1[j] C[j],
// and the two sums over channels that its input's gradient needs follow from h, with c[j] = sum(beta2 w1[j]):
//   sum(du gamma2) = sum over j of dh[j] sum(gamma2 w1[j]),
//   sum(du gamma2 yhat) = sum over j of dh[j] (h[j] - c[j]).
#pragma once

#include "common/device_scope.h"
#include "ttm_write/learner.cuh"

namespace blip3v::ttm_write {

template <class T, int kSlots>
struct BackwardMemory {
  static constexpr int kHidden = 2 * kSlots;

  Arena arena;
  LearnerMemory<T, kSlots, kSlots> learner;
  RowSums group, fourth;
  float* dlogits;         // [rows,G]
  float* dhidden;         // [rows,J]
  float* hidden_sums;     // [J]: C
  float* dw2;             // [G,J]
  Pack<float>* scaled;    // [rows,threads]: the gradient behind the first LayerNorm's affine, times gamma1
  Pack<float>* affine;    // [4,threads]: gradients of gamma1, beta1, gamma, beta
  Pack<float>* products;  // [J,threads]: Y between positions, if it is not always in registers
  Pack<float>* dnew;      // [G,threads]: the gradient of the new memory meanwhile

  CUTE_HOST_DEVICE BackwardMemory(unsigned char* base, int processed, int threads)
      : arena{base}, learner(arena, kSlots + processed, threads) {
    int const rows = kSlots + processed, warps = threads / 32;
    group = arena.sums(warps, 2 * (kSlots + 1));
    fourth = arena.sums(warps, 2 * rows);
    dlogits = arena.take<float>(rows * kSlots);
    dhidden = arena.take<float>(rows * kHidden);
    hidden_sums = arena.take<float>(kHidden);
    dw2 = arena.take<float>(kSlots * kHidden);
    scaled = arena.take<Pack<float>>(rows * threads);
    affine = arena.take<Pack<float>>(4 * threads);
    products = arena.take<Pack<float>>(takes_turns(kSlots) ? kHidden * threads : 0);
    dnew = arena.take<Pack<float>>(takes_turns(kSlots) ? kSlots * threads : 0);
  }
};

// Adds a position's part to a sum that only this thread uses: in registers it would be in the way all the
// time.
CUTE_DEVICE void add_own(Pack<float>* sums, Own const& part) {
  Own total;
  unpack(load_shared(sums + threadIdx.x), total);
  CUTE_UNROLL
  for (int i = 0; i < kOwn; ++i) total[i] += part[i];
  store_shared(sums + threadIdx.x, ttm_read::pack<float>(total));
}

// Rows that only this thread uses: from registers to shared memory and back, where kMove.
template <bool kMove, int kRows>
CUTE_DEVICE void put_away(Pack<float>* rows, Own const (&x)[kRows]) {
  if constexpr (kMove) {
    CUTE_UNROLL
    for (int r = 0; r < kRows; ++r) {
      store_shared(rows + r * blockDim.x + threadIdx.x, ttm_read::pack<float>(x[r]));
    }
  }
}
template <bool kMove, int kRows>
CUTE_DEVICE void take_back(const Pack<float>* rows, Own (&x)[kRows]) {
  if constexpr (kMove) {
    CUTE_UNROLL
    for (int r = 0; r < kRows; ++r) unpack(load_shared(rows + r * blockDim.x + threadIdx.x), x[r]);
  }
}

// From attention to the hidden channels: dlogits, dhidden, and what is summed over positions. The
// gradients of the attention are the last sums of the third round.
template <class T, int kSlots>
CUTE_DEVICE void hidden_gradients(Learner<T, kSlots, kSlots> const& learner,
                                  BackwardMemory<T, kSlots> const& memory) {
  constexpr int kHidden = 2 * kSlots, kPerRow = LearnerMemory<T, kSlots, kSlots>::kPerRow;
  int const lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  for (int g = warp; g < kSlots; g += blockDim.x / kLanes) {
    float const attention = learner.attend(g);
    bool const live = lane < learner.row_count;
    float const slope = live ? memory.learner.third.total(kPerRow * lane + 1 + kHidden + g) : 0.f;
    float const mean = warp_sum(attention * slope);
    if (live) store_shared(memory.dlogits + lane * kSlots + g, attention * (slope - mean));
  }
  __syncthreads();
  for (int i = threadIdx.x; i < learner.row_count * kHidden; i += blockDim.x) {
    int const n = i / kHidden, j = i % kHidden;
    float da = 0.f;
    CUTE_UNROLL
    for (int g = 0; g < kSlots; ++g) {
      da += load_shared(memory.dlogits + n * kSlots + g) * load_shared(memory.learner.w2 + g * kHidden + j);
    }
    store_shared(memory.dhidden + i, da * gelu_slope(load_shared(memory.learner.hidden + i)));
  }
  for (int i = threadIdx.x; i < kSlots * kHidden; i += blockDim.x) {
    float total = load_shared(memory.dw2 + i);
    for (int n = 0; n < learner.row_count; ++n) {
      total += load_shared(memory.dlogits + n * kSlots + i / kHidden) *
               load_shared(memory.learner.gelu + n * kHidden + i % kHidden);
    }
    store_shared(memory.dw2 + i, total);
  }
  __syncthreads();
  for (int j = threadIdx.x; j < kHidden; j += blockDim.x) {
    float total = load_shared(memory.hidden_sums + j);
    for (int n = 0; n < learner.row_count; ++n) total += load_shared(memory.dhidden + n * kHidden + j);
    store_shared(memory.hidden_sums + j, total);
  }
}

template <class T, int kSlots>
__global__ void __launch_bounds__(most_threads(kSlots)) backward_kernel(Backward const call) {
  constexpr int kHidden = 2 * kSlots, kRows = kSlots + 1;
  constexpr bool kTurns = takes_turns(kSlots);
  Sizes const& sizes = call.in.sizes;
  BackwardMemory<T, kSlots> const memory(dynamic_shared<SharedBase>().bytes, sizes.processed, blockDim.x);
  for (int i = threadIdx.x; i < kHidden; i += blockDim.x) store_shared(memory.hidden_sums + i, 0.f);
  for (int i = threadIdx.x; i < kSlots * kHidden; i += blockDim.x) store_shared(memory.dw2 + i, 0.f);
  Learner<T, kSlots, kSlots> learner(call.in, memory.learner);
  Columns const& columns = learner.columns;
  bool const reads = call.dnormed;
  int const lane = threadIdx.x % kLanes, width = sizes.width;
  Pack<float>* const affine = memory.affine;
  int const threads = blockDim.x;
  for (int i = 0; i < 4; ++i) store_shared(affine + i * threads + threadIdx.x, Pack<float>{});
  Own products[kHidden] = {};  // Y
  put_away<kTurns>(memory.products, products);

  int const items = sizes.videos * sizes.positions;
  for (int item = blockIdx.x; item < items; item += gridDim.x) {
    learner.read(item);
    // The gradient of the new memory.
    Own dnew[kSlots];
    if (reads) {
      ttm_read::GroupGradient<T, kRows> const gradient(columns, call.dgroup, call.dnormed, call.group,
                                                       call.mean, call.rstd, item);
      float values[width_for(2 * kRows)] = {}, totals[2 * kRows];
      Own gamma, dgamma = {}, dbeta = {};
      columns.load(call.gamma, gamma);
      gradient.start(gamma, dgamma, dbeta, values);
      add_own(affine + 2 * threads, dgamma);
      add_own(affine + 3 * threads, dbeta);
      memory.group.put(values, 0, 2 * kRows);
      __syncthreads();
      memory.group.totals(totals);
      CUTE_UNROLL
      for (int g = 0; g < kSlots; ++g) {
        gradient.finish(g, gamma, totals[2 * g] / width, totals[2 * g + 1] / width, dnew[g]);
      }
      Own dframe;
      gradient.finish(kSlots, gamma, totals[2 * kSlots] / width, totals[2 * kSlots + 1] / width, dframe);
      columns.store(static_cast<T*>(call.dframe) + std::int64_t(item) * width, dframe);
    } else {
      CUTE_UNROLL
      for (int g = 0; g < kSlots; ++g) {
        columns.load(static_cast<const T*>(call.dgroup) + (std::int64_t(item) * kSlots + g) * width, dnew[g]);
      }
    }

    learner.hidden([&](int, Own const& x, auto& values) {
      CUTE_UNROLL
      for (int g = 0; g < kSlots; ++g) values[1 + kHidden + g] = dot(x, dnew[g]);
    });
    hidden_gradients(learner, memory);

    // Back through the second LayerNorm. Lane n holds the two means of row n that it needs.
    float average2 = 0.f, slope2 = 0.f;
    if (lane < learner.row_count) {
      CUTE_UNROLL
      for (int j = 0; j < kHidden; ++j) {
        float const dh = load_shared(memory.dhidden + lane * kHidden + j);
        average2 += dh * load_shared(memory.learner.constants + 1 + kHidden + j);
        slope2 += dh * (load_shared(memory.learner.hidden + lane * kHidden + j) -
                        load_shared(memory.learner.constants + 1 + j));
      }
    }
    average2 /= width;
    slope2 /= width;
    put_away<kTurns>(memory.dnew, dnew);
    take_back<kTurns>(memory.products, products);
    Own dgamma1 = {}, dbeta1 = {};
    memory.fourth.template add<2, kFourthRows>(learner.row_count, [&](int n, float (&values)[2]) {
      Own x, xhat, yhat, gamma, dy = {};
      float dh[kHidden];
      learner.centred(n, x, xhat);
      learner.between(n, xhat, yhat);
      learner.gamma1(gamma);
      load_shared_row(memory.dhidden + n * kHidden, dh);
      float const scale1 = from_lane(learner.rstd1, n), scale2 = from_lane(learner.rstd2, n);
      float const average = from_lane(average2, n), slope = from_lane(slope2, n);
      CUTE_UNROLL
      for (int i = 0; i < kOwn; ++i) {
        xhat[i] *= scale1;
        yhat[i] *= scale2;
      }
      CUTE_UNROLL
      for (int j = 0; j < kHidden; ++j) {
        Own w;
        learner.weight(j, w);
        CUTE_UNROLL
        for (int i = 0; i < kOwn; ++i) {
          dy[i] += dh[j] * w[i];
          products[j][i] += dh[j] * yhat[i];
        }
      }
      CUTE_UNROLL
      for (int i = 0; i < kOwn; ++i) {
        dy[i] = scale2 * (dy[i] - average - yhat[i] * slope);
        dgamma1[i] += dy[i] * xhat[i];
        dbeta1[i] += dy[i];
        dy[i] *= gamma[i];
      }
      values[0] = sum(dy);
      values[1] = dot(dy, xhat);
      store_shared(memory.scaled + n * blockDim.x + threadIdx.x, ttm_read::pack<float>(dy));
    });
    __syncthreads();

    put_away<kTurns>(memory.products, products);
    take_back<kTurns>(memory.dnew, dnew);
    add_own(affine, dgamma1);
    add_own(affine + threads, dbeta1);

    // Back through the first, and the rows that the attention averaged.
    float average1 = 0.f, slope1 = 0.f;
    if (lane < learner.row_count) {
      average1 = memory.fourth.total(2 * lane) / width;
      slope1 = memory.fourth.total(2 * lane + 1) / width;
    }
    CUTE_NO_UNROLL
    for (int n = 0; n < learner.row_count; ++n) {
      Own x, xhat, dx;
      float attention[kSlots];
      learner.centred(n, x, xhat);
      unpack(load_shared(memory.scaled + n * blockDim.x + threadIdx.x), dx);
      load_shared_row(memory.learner.attention + n * kSlots, attention);
      float const scale = from_lane(learner.rstd1, n);
      float const average = from_lane(average1, n), slope = from_lane(slope1, n);
      CUTE_UNROLL
      for (int i = 0; i < kOwn; ++i) {
        dx[i] = scale * (dx[i] - average - xhat[i] * scale * slope);
        CUTE_UNROLL
        for (int g = 0; g < kSlots; ++g) dx[i] += attention[g] * dnew[g][i];
      }
      T* const to = n < kSlots ? static_cast<T*>(call.dmemory) + (std::int64_t(item) * kSlots + n) * width
                               : static_cast<T*>(call.dprocessed) +
                                     (std::int64_t(item) * sizes.processed + n - kSlots) * width;
      columns.store(to, dx);
    }
  }

  // The sums that single threads kept lie behind the last position's barriers.
  take_back<kTurns>(memory.products, products);
  float* row = call.partial + std::int64_t(blockIdx.x) * sums(kSlots, width);
  Own gamma2, beta2, dgamma2 = {}, dbeta2 = {};
  columns.load(call.in.gamma2, gamma2);
  columns.load(call.in.beta2, beta2);
  CUTE_UNROLL
  for (int j = 0; j < kHidden; ++j) {
    Own w, dw;
    columns.load(call.in.w1 + std::int64_t(j) * width, w);
    float const hidden_sum = load_shared(memory.hidden_sums + j);
    CUTE_UNROLL
    for (int i = 0; i < kOwn; ++i) {
      dgamma2[i] += w[i] * products[j][i];
      dbeta2[i] += w[i] * hidden_sum;
      dw[i] = gamma2[i] * products[j][i] + beta2[i] * hidden_sum;
    }
    columns.store(row + (4 + j) * width, dw);
  }
  columns.store(row + 2 * width, dgamma2);
  columns.store(row + 3 * width, dbeta2);
  CUTE_UNROLL
  for (int i = 0; i < 4; ++i) {
    Own total;
    unpack(load_shared(affine + i * threads + threadIdx.x), total);
    columns.store(row + (i < 2 ? i : 2 + kHidden + i) * width, total);
  }
  for (int i = threadIdx.x; i < kSlots * kHidden; i += blockDim.x) {
    store_global(row + (6 + kHidden) * width + i, load_shared(memory.dw2 + i));
  }
}

template <class T, int kSlots>
std::size_t backward_shared_bytes(int processed, int width) {
  return BackwardMemory<T, kSlots>(nullptr, processed, threads_of(width)).arena.used;
}

template <class T, int kSlots>
void backward(const Backward& call, cudaStream_t stream) {
  Sizes const& sizes = call.in.sizes;
  int const items = sizes.videos * sizes.positions;
  if (items == 0) return;
  LaunchShape const shape{{unsigned(blocks(items, kBackwardBlocks, multiprocessors()))},
                          {unsigned(threads_of(sizes.width))},
                          {1, 1, 1},
                          backward_shared_bytes<T, kSlots>(sizes.processed, sizes.width)};
  launch("ttm_write", backward_kernel<T, kSlots>, shape, stream, call);
}

}  // namespace blip3v::ttm_write

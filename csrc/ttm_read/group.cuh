// The group of a position, kSlots memory rows and the frame's row: how a block holds it, its LayerNorm and
// the gradient of that. ttm_write, which makes the memory rows of the next step, ends with the same.
#pragma once

#include "ttm_read/params.h"
#include "ttm_read/row_sums.cuh"
#include "ttm_read/tiles.h"

namespace blip3v::ttm_read {

// The channels of a thread in one row.
using Own = float[kOwn];

// They as they lie in memory.
template <class T>
struct alignas(kOwn * sizeof(T)) Pack {
  Pair<T> pairs[kOwn / 2];
};

template <class T>
CUTE_DEVICE void unpack(Pack<T> const& pack, Own& x) {
  CUTE_UNROLL
  for (int i = 0; i < kOwn; i += 2) {
    float2 const two = pack.pairs[i / 2].wide();
    x[i] = two.x;
    x[i + 1] = two.y;
  }
}

template <class T>
CUTE_DEVICE Pack<T> pack(Own const& x) {
  Pack<T> result;
  CUTE_UNROLL
  for (int i = 0; i < kOwn; i += 2) result.pairs[i / 2] = Pair<T>(float2{x[i], x[i + 1]});
  return result;
}

// Rows of D elements and the channels that this thread owns in each.
struct Columns {
  int width, first;
  bool own;  // threads beyond the width own nothing: they read zeros and write nothing

  CUTE_DEVICE explicit Columns(int d) : width(d), first(kOwn * threadIdx.x), own(first < d) {}

  template <class T>
  CUTE_DEVICE Pack<T> load(const T* row) const {
    return own ? load_global(reinterpret_cast<const Pack<T>*>(row + first)) : Pack<T>{};
  }
  template <class T>
  CUTE_DEVICE void load(const T* row, Own& x) const {
    unpack(load(row), x);
  }
  template <class T>
  CUTE_DEVICE void store(T* row, Own const& x) const {
    if (own) store_global(reinterpret_cast<Pack<T>*>(row + first), pack<T>(x));
  }
};

template <class T>
CUTE_DEVICE T* row_of(View const& view, int positions, int item, int row) {
  int const video = item / positions, position = item % positions;
  return static_cast<T*>(view.data) + video * view.video + position * view.position + row * view.row;
}

CUTE_DEVICE float sum(Own const& x) {
  return (x[0] + x[1]) + (x[2] + x[3]);
}
CUTE_DEVICE float dot(Own const& x, Own const& y) {
  return (x[0] * y[0] + x[1] * y[1]) + (x[2] * y[2] + x[3] * y[3]);
}

// row = frame + stamp, rounded as the addition in T would round it.
template <class T>
CUTE_DEVICE void add_stamp(Columns const& columns, const void* stamp, Own& row) {
  if (stamp) {
    Own s;
    columns.load(static_cast<const T*>(stamp), s);
    CUTE_UNROLL
    for (int i = 0; i < kOwn; ++i) row[i] += s[i];
  }
  unpack(pack<T>(row), row);
}

// Where the rows of a group go: [items, kRows, D], and its statistics [items, kRows].
template <class T>
struct GroupOut {
  T *group, *normed;
  float *mean, *rstd;
};

// Writes the rows, which are numbers of T already, and their LayerNorm, in two passes over the registers.
// for_mean, for_square: kRows sums each. Both barriers stand after uses of the one and before those of the
// other, so that calls may follow each other.
template <class T, int kRows>
CUTE_DEVICE void write_group(Columns const& columns, Own (&rows)[kRows], Own const& gamma, Own const& beta,
                             float eps, RowSums const& for_mean, RowSums const& for_square, int item,
                             GroupOut<T> const& out) {
  std::int64_t const first = std::int64_t(item) * kRows;
  float values[width_for(kRows)] = {}, mean[kRows], square[kRows];
  CUTE_UNROLL
  for (int r = 0; r < kRows; ++r) {
    columns.store(out.group + (first + r) * columns.width, rows[r]);
    values[r] = sum(rows[r]);
  }
  for_mean.put(values, 0, kRows);
  __syncthreads();
  for_mean.totals(mean);
  CUTE_UNROLL
  for (float& value : values) value = 0.f;
  CUTE_UNROLL
  for (int r = 0; r < kRows; ++r) {
    mean[r] /= columns.width;
    CUTE_UNROLL
    for (int i = 0; i < kOwn; ++i) rows[r][i] = columns.own ? rows[r][i] - mean[r] : 0.f;
    values[r] = dot(rows[r], rows[r]);
  }
  for_square.put(values, 0, kRows);
  __syncthreads();
  for_square.totals(square);
  CUTE_UNROLL
  for (int r = 0; r < kRows; ++r) {
    float const rstd = rsqrtf(square[r] / columns.width + eps);
    CUTE_UNROLL
    for (int i = 0; i < kOwn; ++i) rows[r][i] = rows[r][i] * rstd * gamma[i] + beta[i];
    columns.store(out.normed + (first + r) * columns.width, rows[r]);
    if (threadIdx.x == r) {
      store_global(out.mean + first + r, mean[r]);
      store_global(out.rstd + first + r, rstd);
    }
  }
}

// The gradient of the group's rows: that which reached them directly and that through their LayerNorm.
template <class T, int kRows>
struct GroupGradient {
  Pack<T> dgroup[kRows], dnormed[kRows], group[kRows];  // as they lie in memory
  float mean[kRows], rstd[kRows];

  CUTE_DEVICE GroupGradient(Columns const& columns, const void* dgroups, const void* dnormeds,
                            const void* groups, const float* means, const float* rstds, int item) {
    std::int64_t const first = std::int64_t(item) * kRows;
    CUTE_UNROLL
    for (int r = 0; r < kRows; ++r) {
      std::int64_t const at = (first + r) * columns.width;
      dgroup[r] = columns.load(static_cast<const T*>(dgroups) + at);
      dnormed[r] = columns.load(static_cast<const T*>(dnormeds) + at);
      group[r] = columns.load(static_cast<const T*>(groups) + at);
      mean[r] = load_global(means + first + r);
      rstd[r] = load_global(rstds + first + r);
    }
  }

  // Adds to the sums over positions, and sets two values for each row whose sums over the channels `finish`
  // needs: dnormed gamma, and that times the normal row.
  template <int kCount>
  CUTE_DEVICE void start(Own const& gamma, Own& dgamma, Own& dbeta, float (&values)[kCount]) const {
    static_assert(kCount >= 2 * kRows, "two sums for each row");
    CUTE_UNROLL
    for (int r = 0; r < kRows; ++r) {
      Own normal, given;
      unpack(dnormed[r], given);
      normalise(r, normal);
      CUTE_UNROLL
      for (int i = 0; i < kOwn; ++i) {
        dgamma[i] += given[i] * normal[i];
        dbeta[i] += given[i];
        given[i] *= gamma[i];
      }
      values[2 * r] = sum(given);
      values[2 * r + 1] = dot(given, normal);
    }
  }

  // The gradient of row r, from the sums of its two values divided by the width.
  CUTE_DEVICE void finish(int r, Own const& gamma, float average, float slope, Own& gradient) const {
    Own normal, given;
    unpack(dgroup[r], gradient);
    unpack(dnormed[r], given);
    normalise(r, normal);
    CUTE_UNROLL
    for (int i = 0; i < kOwn; ++i) {
      gradient[i] += rstd[r] * (given[i] * gamma[i] - average - normal[i] * slope);
    }
  }

 private:
  CUTE_DEVICE void normalise(int r, Own& normal) const {
    unpack(group[r], normal);
    CUTE_UNROLL
    for (int i = 0; i < kOwn; ++i) normal[i] = (normal[i] - mean[r]) * rstd[r];
  }
};

}  // namespace blip3v::ttm_read

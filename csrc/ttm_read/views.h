// Rows for the kernels of ttm_read and ttm_write, out of tensors that Python describes.
#pragma once

#include <limits>

#include "common/tensor.h"
#include "ttm_read/params.h"

namespace blip3v::ttm_read {

#ifdef BLIP3V_SIM
constexpr const char* kDevice = "cpu";
#else
constexpr const char* kDevice = "cuda";
#endif
constexpr std::int64_t kMost = std::numeric_limits<int>::max();
constexpr int kAlignment = 8;  // channels: 16 bytes of bf16

inline int element_bytes(const Tensor& t) {
  return t.dtype == "bfloat16" ? 2 : 4;
}

// Checks a view [B,S,rows,D] or [B,S,D] of any strides that 16-byte steps allow, or of one video for all.
inline View view(TensorCheck& check, const char* name, const Tensor& t, const std::string& dtype,
                 const std::vector<std::int64_t>& sizes) {
  check.tensor(name, t, dtype, sizes);
  Tensor one = t;
  if (t.strides[0] == 0) one.sizes[0] = 1;
  check.aligned_rows(name, one, element_bytes(t));
  // Dimensions of one keep no meaningful stride.
  auto const stride = [&](std::size_t i) { return t.sizes[i] == 1 ? 0 : t.strides[i]; };
  return {reinterpret_cast<void*>(t.data), stride(0), stride(1), t.sizes.size() == 4 ? stride(2) : 0};
}

// Checks elements side by side.
template <class T = void>
T* dense(TensorCheck& check, const char* name, const Tensor& t, const std::string& dtype,
         const std::vector<std::int64_t>& sizes) {
  check.tensor(name, t, dtype, sizes);
  check.contiguous(name, t);
  return reinterpret_cast<T*>(t.data);
}

// Starts the checks of a call: B, S and D of memory or of a group, and the type of the elements.
inline Sizes sizes_of(TensorCheck& check, const char* name, const Tensor& t, int most_width) {
  if (t.sizes.size() != 4) {
    check.refuse(std::string(name) + " has the wrong number of dimensions", std::to_string(t.sizes.size()),
                 "4: videos, positions, rows, channels");
  }
  if (t.dtype != "bfloat16" && t.dtype != "float32") {
    check.refuse(std::string(name) + " has the wrong dtype", t.dtype, "bfloat16 or float32");
  }
  check.range("videos", t.sizes[0], 1, kMost);
  check.range("positions", t.sizes[1], 1, kMost);
  check.range("videos x positions", t.sizes[0] * t.sizes[1], 1, kMost);
  check.range("channels", t.sizes[3], kAlignment, most_width);
  if (t.sizes[3] % kAlignment) {
    check.refuse("channels", std::to_string(t.sizes[3]), "a multiple of " + std::to_string(kAlignment));
  }
  return {int(t.sizes[0]), int(t.sizes[1]), int(t.sizes[3])};
}

}  // namespace blip3v::ttm_read

// What the kernels of feed_forward are given. No torch, no Python: pointers, strides and sizes.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace blip3v::feed_forward {

// A matrix of bf16 in row-major order; the stride of its rows in elements, a multiple of 8.
struct Matrix {
  void* data;
  std::int64_t row;
};

struct Sizes {
  int rows;    // R: tokens of all videos of the batch
  int width;   // D, a multiple of 8
  int hidden;  // J, a multiple of 8
};

// h = z w1^T, a = gelu(h)
struct LinearGelu {
  Sizes sizes;
  Matrix z;   // [R,D]
  Matrix w1;  // [J,D]
  Matrix h;   // [R,J]
  Matrix a;   // [R,J]
};

// out = residual + a w2^T
struct LinearResidual {
  Sizes sizes;
  Matrix a;         // [R,J]
  Matrix w2;        // [D,J]
  Matrix residual;  // [R,D]
  Matrix out;       // [R,D]
};

// dh = (dout w2) * gelu'(h), a = gelu(h)
struct LinearDgelu {
  Sizes sizes;
  Matrix dout;  // [R,D]
  Matrix w2;    // [D,J]
  Matrix h;     // [R,J]
  Matrix dh;    // [R,J]
  Matrix a;     // [R,J]
};

// Each launches one kernel; tiles.h says when which tile is taken.
enum class Rows { kFew, kMany };

template <Rows>
void linear_gelu(const LinearGelu& call, cudaStream_t stream);
template <Rows>
void linear_residual(const LinearResidual& call, cudaStream_t stream);
template <Rows>
void linear_dgelu(const LinearDgelu& call, cudaStream_t stream);

}  // namespace blip3v::feed_forward

// What the kernels of grouped_attention are given. No torch, no Python: pointers, strides and sizes.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace blip3v::grouped_attention {

// Tokens of contiguous channels; strides in elements, even.
struct View {
  void* data;
  int token;
  std::int64_t group;
};

struct Sizes {
  int groups;    // R
  int tokens;    // n: 1 to 64, of a group
  int heads;     // H
  int head_dim;  // d: even, at most 256

  int width() const { return heads * head_dim; }  // D
};

struct Forward {
  Sizes sizes;
  View x;                    // [R,n,D]
  View qkv;                  // [R,n,3,H,d]
  const float* norm_weight;  // [D]
  const float* norm_bias;    // [D]
  float eps;                 // > 0
  void* y;                   // [R,n,D]: x + attention
  void* z;                   // [R,n,D]: its LayerNorm
  float* mean;               // [R,n], of y
  float* rstd;               // [R,n]
};

struct Backward {
  Sizes sizes;
  View dy, dz;  // [R,n,D]
  View qkv;     // [R,n,3,H,d]
  const float* norm_weight;
  const void* y;  // [R,n,D]
  const float* mean;
  const float* rstd;
  void* dx;         // [R,n,D]
  void* dqkv;       // [R,n,3,H,d]
  float* partials;  // [blocks,2,D]: sums over the groups of a block for norm_weight and norm_bias
  int blocks;       // 1 to R
  float* row_sums;  // [2,R,H,n], where the group is not held in registers: see holds_group
};

// Of everything that is not said to be float.
enum class Dtype { kBfloat16, kFloat32 };

void forward(const Forward& call, Dtype dtype, cudaStream_t stream);
void backward(const Backward& call, Dtype dtype, cudaStream_t stream);

}  // namespace blip3v::grouped_attention

// What the kernels of token_learner are given. No torch, no Python: pointers, strides and sizes.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace blip3v::token_learner {

struct Sizes {
  int videos;    // B
  int tokens;    // N of a video
  int channels;  // D, a multiple of 8
  int hidden;    // J, a multiple of 8
  int made;      // k: tokens made of a video
};

// bf16 [B, rows, D]: rows of contiguous channels, strides in elements, multiples of 8.
struct View {
  void* data;
  std::int64_t row, video;
};

// A parameter as the model holds it.
struct Parameter {
  const void* data;
  bool narrow;  // bf16, or else fp32
};
struct Parameters {
  Parameter norm1_weight, norm1_bias, norm2_weight, norm2_bias;  // [D]: g1, b1, g2, b2
  Parameter w1;                                                  // [J,D]
  Parameter w2;                                                  // [k,J]
};

// The parameters as the products want them; written by `fold`. Jp and kp: J and k rounded up to whole tiles.
struct Folded {
  void* w1;          // bf16 [Jp,D]: Wf = w1 * g1 * g2
  void* w2;          // bf16 [kp,Jp]
  float* constants;  // [Jp,4]: sums over the channels of Wf as rounded, w1 g2 b1, w1 g2, w1 b2
  float* channels;   // [3,D]: g1, g1 (b1 - mean b1), g1 b1
  float* moments;    // [8], see Moments
};
struct Moments {
  float mean_bias, variance_bias;   // of b1
  float gamma, gamma2, gamma_bias;  // sums of g1, g1^2, g1 (b1 - mean b1)
  float unused[3];
};

// What is known of a row x: its mean mu, the mean m2 of the first norm's output, 1 / standard deviation of
// both; and means over the channels with xhat = r1 (x - mu).
struct Row {
  float mu, r1, r2, m2;
  float gx, g2x, g2xx, gbx;  // of g1 xhat, g1^2 xhat, g1^2 xhat^2, g1 b1 xhat
};

struct Fold {
  Sizes sizes;
  Parameters parameters;
  Folded folded;
};

// logits = gelu(LN2(LN1(x)) w1^T) w2^T, and what their softmax over the tokens needs.
struct Logits {
  Sizes sizes;
  View x;
  Folded folded;
  const std::uint8_t* keep;  // [B,N] or null: 0 hides a token
  std::int64_t keep_stride;  // of a video
  float eps;
  int splits;       // blocks of a cluster, which share the channels of a tile: 1, 2, 4 or 8
  float* logits;    // [B,kp,Np]; Np: N rounded up to whole tiles. -inf where a token is hidden
  float2* parts;    // [B,P,kp]: maximum of a column, sum of exp(logit - maximum)
  float* hidden;    // [B,N,J] or null: what gelu is taken of. The next two are written with it.
  void* activated;  // bf16 [B,N,J]: gelu of it
  Row* rows;        // [B,N]
};

// out = softmax(logits)^T x.
struct Pool {
  Sizes sizes;
  View x;
  const float* logits;  // as above
  const float2* parts;
  int part_count;  // P
  int splits;      // blocks of a cluster, which share the tokens of a video: 1 to 8
  View out;        // [B,k,D]
  float* lse;      // [B,k]
};

// Gradients of the logits and of the hidden layer. With A = softmax(logits):
struct Slopes {
  Sizes sizes;
  View x;
  View dout;  // [B,k,D]
  Folded folded;
  const float* logits;
  const float* lse;
  const float* delta;   // [B,k]: sum over the channels of out * dout
  const float* hidden;  // as above
  const Row* rows;
  void* weights;        // bf16 [B,N,ko]: A; ko: k rounded up to a multiple of 8
  void* dlogits;        // bf16 [B,N,ko]: A * (x dout^T - delta)
  void* dhidden;        // bf16 [B,N,J]: r1 r2 * gradient of the hidden layer
  float* coefficients;  // [B,N,8]: mu, r1, e0, e1, e2, e3, r2, m2; see inputs.cuh
};

// dx = A dout + the gradient through both norms.
struct Inputs {
  Sizes sizes;
  View x, dout;
  Folded folded;
  const void* weights;  // as above
  const void* dhidden;
  const float* coefficients;
  View dx;          // [B,N,D]
  float* partials;  // [Q,3,D]: sums over tokens of e2 v, e1 v, e2 r1 v^2 with v = x - mu
  int groups;       // blocks that share a slice of channels; Q is groups * input_partials(D)
};

void fold(const Fold& call, cudaStream_t stream);
template <int kMade>
void logits(const Logits& call, cudaStream_t stream);
template <int kChannels, int kBlocks>
void pool(const Pool& call, cudaStream_t stream);
template <int kMade>
void slopes(const Slopes& call, cudaStream_t stream);
template <int kChannels>
void inputs(const Inputs& call, cudaStream_t stream);

}  // namespace blip3v::token_learner

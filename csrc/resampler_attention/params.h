// What the kernels of resampler_attention are given. No torch, no Python: pointers, strides and sizes.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace blip3v::resampler_attention {

// bf16 rows of `head_dim` contiguous elements; strides in elements, multiples of 8.
struct View {
  void* data;
  std::int64_t row, head, frame;
};

struct Sizes {
  int frames;   // F: frames of all videos of the batch
  int heads;    // H
  int queries;  // Q: 1 to 128 latents that ask
  int media;    // S: patch tokens of a frame
  int latents;  // L: latents that are also seen
};

// One softmax over the media keys and the latent keys of a frame.
struct Inputs {
  Sizes sizes;
  View q;                     // [F,Q,H,d]
  View k_media, v_media;      // [F,S,H,d]
  View k_latents, v_latents;  // [F,L,H,d]
  const int* lengths;         // [F] or null: media keys that count, from the front
  const std::uint8_t* keep;   // [F,S] or null: 0 hides a media key
  std::int64_t keep_stride;   // of a frame
  float scale;                // > 0
  int splits;                 // blocks that share the keys of one (frame, head); 0: the launcher chooses
};

struct Forward {
  Inputs in;
  View out;    // [F,Q,H,d]
  float* lse;  // [F,H,Q]: log(sum exp(scale * q k)), -inf where nothing is seen
};

struct Backward {
  Inputs in;
  View out, dout;               // [F,Q,H,d]
  const float* lse;             // [F,H,Q]
  View dq;                      // [F,Q,H,d]
  View dk_media, dv_media;      // [F,S,H,d]
  View dk_latents, dv_latents;  // [F,L,H,d]
};

// Head dimensions that are compiled: the resampler's own 96; 72 of the vision encoder; 144 of the temporal
// encoder's 8 heads; 64 and 128 of small and other models.
#define BLIP3V_RESAMPLER_ATTENTION_HEAD_DIMS(F) F(64) F(72) F(96) F(128) F(144)

template <int kHeadDim>
void forward(const Forward& call, cudaStream_t stream);
template <int kHeadDim>
void backward(const Backward& call, cudaStream_t stream);

// Dynamic shared memory of a block.
template <int kHeadDim>
std::size_t forward_shared_bytes();
template <int kHeadDim>
std::size_t backward_shared_bytes();

}  // namespace blip3v::resampler_attention

// What the kernels of ttm_read are given. No torch, no Python: pointers, strides and sizes.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace blip3v::ttm_read {

// Rows of D contiguous elements, one or more for each (video, position). Strides in elements, multiples of 8;
// that of the videos may be 0.
struct View {
  void* data;
  std::int64_t video, position, row;
};

struct Sizes {
  int videos;     // B
  int positions;  // S
  int width;      // D: a multiple of 8
};

// The group of a position is its G memory rows and the frame's row with its stamp; normed is its LayerNorm.
struct Forward {
  Sizes sizes;
  View memory;         // [B,S,G,D]
  View frame;          // [B,S,1,D]
  const void* stamp;   // [D] or null
  const float* gamma;  // [D]
  const float* beta;   // [D]
  void* group;         // [B,S,G+1,D], contiguous as all that follows
  void* normed;        // [B,S,G+1,D]
  float* mean;         // [B,S,G+1]
  float* rstd;         // [B,S,G+1]
  float eps;
};

struct Backward {
  Sizes sizes;
  const void* dgroup;   // [B,S,G+1,D], contiguous as all that follows
  const void* dnormed;  // [B,S,G+1,D]
  const void* group;    // [B,S,G+1,D]
  const float* gamma;   // [D]
  const float* mean;    // [B,S,G+1]
  const float* rstd;    // [B,S,G+1]
  void* dmemory;        // [B,S,G,D]
  void* dframe;         // [B,S,D]
  float* partial;       // [blocks,2,D]: dgamma and dbeta of each block's positions; blocks as in tiles.h
};

// Memory slots that are compiled.
#define BLIP3V_TTM_SLOTS(F) F(1) F(2) F(4) F(8)

template <class T, int kSlots>
void forward(const Forward& call, cudaStream_t stream);
template <class T, int kSlots>
void backward(const Backward& call, cudaStream_t stream);

}  // namespace blip3v::ttm_read

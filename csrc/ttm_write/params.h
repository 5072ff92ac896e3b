// What the kernels of ttm_write are given. No torch, no Python: pointers, strides and sizes.
#pragma once

#include "ttm_read/params.h"

namespace blip3v::ttm_write {

using ttm_read::View;

struct Sizes {
  int videos;     // B
  int positions;  // S
  int width;      // D: a multiple of 8
  int processed;  // n
};

// TL(G) over the G memory rows and the n processed ones of a position; J = 2 G hidden channels.
struct Inputs {
  Sizes sizes;
  View memory;          // [B,S,G,D]
  View processed;       // [B,S,n,D]
  const float* gamma1;  // [D], contiguous as all that follows
  const float* beta1;   // [D]
  const float* gamma2;  // [D]
  const float* beta2;   // [D]
  const float* w1;      // [J,D]
  const float* w2;      // [G,J]
  float eps;
};

// The read of the next step: a LayerNorm over the new memory and the next frame.
struct Forward {
  Inputs in;
  View frame;          // [B,S,1,D]; data is null without a next step
  const void* stamp;   // [D] or null
  const float* gamma;  // [D] or null, as all that follows but group, without a next step
  const float* beta;   // [D]
  void* group;         // [B,S,G+1,D], or [B,S,G,D] without a next step; contiguous
  void* normed;        // [B,S,G+1,D]
  float* mean;         // [B,S,G+1]
  float* rstd;         // [B,S,G+1]
};

struct Backward {
  Inputs in;
  const void* dgroup;   // of Forward's group
  const void* dnormed;  // [B,S,G+1,D]; null, as the four that follow and dframe, without a next step
  const void* group;    // [B,S,G+1,D]
  const float* gamma;   // [D]
  const float* mean;    // [B,S,G+1]
  const float* rstd;    // [B,S,G+1]
  void* dmemory;        // [B,S,G,D]
  void* dprocessed;     // [B,S,n,D]
  void* dframe;         // [B,S,D]
  float* partial;       // [blocks,sums]: one row for each block, blocks and sums as in tiles.h
};

template <class T, int kSlots>
void forward(const Forward& call, cudaStream_t stream);
template <class T, int kSlots>
void backward(const Backward& call, cudaStream_t stream);

// Dynamic shared memory of a block.
template <class T, int kSlots>
std::size_t forward_shared_bytes(int processed, int width);
template <class T, int kSlots>
std::size_t backward_shared_bytes(int processed, int width);

}  // namespace blip3v::ttm_write

#include "feed_forward/gelu.cuh"

template void blip3v::feed_forward::linear_gelu<blip3v::feed_forward::Rows::kMany>(
    const blip3v::feed_forward::LinearGelu&, cudaStream_t);

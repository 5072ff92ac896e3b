#include "feed_forward/residual.cuh"

template void blip3v::feed_forward::linear_residual<blip3v::feed_forward::Rows::kFew>(
    const blip3v::feed_forward::LinearResidual&, cudaStream_t);

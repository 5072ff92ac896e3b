#include "feed_forward/dgelu.cuh"

template void blip3v::feed_forward::linear_dgelu<blip3v::feed_forward::Rows::kFew>(
    const blip3v::feed_forward::LinearDgelu&, cudaStream_t);

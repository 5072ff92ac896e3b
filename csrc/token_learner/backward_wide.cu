// What more than 64 tokens made, or more than 64 channels, take.
#include "token_learner/inputs.cuh"
#include "token_learner/slopes.cuh"

namespace blip3v::token_learner {

template void slopes<128>(const Slopes&, cudaStream_t);
template void slopes<256>(const Slopes&, cudaStream_t);
template void inputs<kWideInputs>(const Inputs&, cudaStream_t);

}  // namespace blip3v::token_learner

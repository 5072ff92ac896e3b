#include "token_learner/backward.cuh"

namespace blip3v::token_learner {

template void slopes<64>(const Slopes&, cudaStream_t);
template void inputs<kNarrowInputs>(const Inputs&, cudaStream_t);

}  // namespace blip3v::token_learner

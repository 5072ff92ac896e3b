// What more than 64 tokens made take.
#include "token_learner/logits.cuh"

namespace blip3v::token_learner {

template void logits<128>(const Logits&, cudaStream_t);
template void logits<256>(const Logits&, cudaStream_t);

}  // namespace blip3v::token_learner

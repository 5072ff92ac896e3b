#include "token_learner/forward.cuh"

namespace blip3v::token_learner {

void fold(const Fold& call, cudaStream_t stream) {
  launch_fold(call, stream);
}

template void logits<64>(const Logits&, cudaStream_t);
template void pool<kNarrowPool, 1>(const Pool&, cudaStream_t);

}  // namespace blip3v::token_learner

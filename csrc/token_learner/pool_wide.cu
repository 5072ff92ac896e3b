// What many videos take.
#include "token_learner/pool.cuh"

namespace blip3v::token_learner {

template void pool<kWidePool, 1>(const Pool&, cudaStream_t);
template void pool<kWidePool, 2>(const Pool&, cudaStream_t);

}  // namespace blip3v::token_learner

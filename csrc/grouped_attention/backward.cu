#include "grouped_attention/backward.cuh"

namespace blip3v::grouped_attention {

void backward(Backward const& call, Dtype dtype, cudaStream_t stream) {
  if (dtype == Dtype::kBfloat16) return launch_backward<cute::bfloat16_t>(call, stream);
  launch_backward<float>(call, stream);
}

}  // namespace blip3v::grouped_attention

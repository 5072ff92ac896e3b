#include "grouped_attention/forward.cuh"

namespace blip3v::grouped_attention {

void forward(Forward const& call, Dtype dtype, cudaStream_t stream) {
  if (dtype == Dtype::kBfloat16) return launch_forward<cute::bfloat16_t>(call, stream);
  launch_forward<float>(call, stream);
}

}  // namespace blip3v::grouped_attention

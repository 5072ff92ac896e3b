// The kernels of this direction, for every element type and number of slots.
#include "ttm_read/backward.cuh"

namespace blip3v::ttm_read {

#define BLIP3V_INSTANTIATE(slots)                                                    \
  template void backward<cutlass::bfloat16_t, slots>(const Backward&, cudaStream_t); \
  template void backward<float, slots>(const Backward&, cudaStream_t);
BLIP3V_TTM_SLOTS(BLIP3V_INSTANTIATE)

}  // namespace blip3v::ttm_read

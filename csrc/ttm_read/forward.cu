// The kernels of this direction, for every element type and number of slots.
#include "ttm_read/forward.cuh"

namespace blip3v::ttm_read {

#define BLIP3V_INSTANTIATE(slots)                                                  \
  template void forward<cutlass::bfloat16_t, slots>(const Forward&, cudaStream_t); \
  template void forward<float, slots>(const Forward&, cudaStream_t);
BLIP3V_TTM_SLOTS(BLIP3V_INSTANTIATE)

}  // namespace blip3v::ttm_read

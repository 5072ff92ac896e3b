// The kernels of this direction for the model's four slots and for two, each for every element type.
#include "ttm_write/backward.cuh"

namespace blip3v::ttm_write {

#define BLIP3V_INSTANTIATE(slots)                                                    \
  template void backward<cutlass::bfloat16_t, slots>(const Backward&, cudaStream_t); \
  template void backward<float, slots>(const Backward&, cudaStream_t);               \
  template std::size_t backward_shared_bytes<cutlass::bfloat16_t, slots>(int, int);  \
  template std::size_t backward_shared_bytes<float, slots>(int, int);
BLIP3V_INSTANTIATE(2)
BLIP3V_INSTANTIATE(4)

}  // namespace blip3v::ttm_write

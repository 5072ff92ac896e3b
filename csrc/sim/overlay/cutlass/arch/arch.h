// Overlay: two functions that CUTLASS declares for nvcc only.
#pragma once
#include_next <cutlass/arch/arch.h>

namespace cutlass::arch {

inline int LaneId() {
  return int(blip3v_sim::me().lane);
}
inline int SmId() {
  return 0;
}

}  // namespace cutlass::arch

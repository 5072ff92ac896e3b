// Overlay: setmaxnreg. The counts are checked against the block's registers; nothing here has registers to
// move.
#pragma once
#define warpgroup_reg_alloc warpgroup_reg_alloc_device_only
#define warpgroup_reg_dealloc warpgroup_reg_dealloc_device_only
#include_next <cutlass/arch/reg_reconfig.h>
#undef warpgroup_reg_alloc
#undef warpgroup_reg_dealloc

namespace cutlass::arch {

template <uint32_t kRegisters>
inline void warpgroup_reg_alloc() {
  static_assert(kRegisters >= 24 && kRegisters <= 256 && kRegisters % 8 == 0,
                "setmaxnreg: 24 to 256, in steps of 8");
  blip3v_sim::set_registers(kRegisters);
}
template <uint32_t kRegisters>
inline void warpgroup_reg_dealloc() {
  warpgroup_reg_alloc<kRegisters>();
}

}  // namespace cutlass::arch

// Overlay: fence, commit and wait of wgmma. The instructions themselves: cute/atom/mma_traits_sm90_gmma.hpp.
#pragma once
#define warpgroup_arrive warpgroup_arrive_device_only
#define warpgroup_wait warpgroup_wait_device_only
#define warpgroup_commit_batch warpgroup_commit_batch_device_only
#include_next <cute/arch/mma_sm90_gmma.hpp>
#undef warpgroup_arrive
#undef warpgroup_wait
#undef warpgroup_commit_batch

namespace cute {

inline void warpgroup_arrive() {
  blip3v_sim::wgmma_fence();
}
template <int kLeft>
inline void warpgroup_wait() {
  blip3v_sim::wgmma_wait(kLeft);
}
inline void warpgroup_commit_batch() {
  blip3v_sim::wgmma_commit();
}

}  // namespace cute

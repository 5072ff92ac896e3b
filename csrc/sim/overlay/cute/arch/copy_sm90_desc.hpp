// Overlay: CuTe's own barrier functions and the prefetch of a descriptor, which means nothing here.
#pragma once
#define initialize_barrier initialize_barrier_device_only
#define set_barrier_transaction_bytes set_barrier_transaction_bytes_device_only
#define wait_barrier wait_barrier_device_only
#define arrive_barrier arrive_barrier_device_only
#define prefetch_tma_descriptor prefetch_tma_descriptor_device_only
#include_next <cute/arch/copy_sm90_desc.hpp>
#undef initialize_barrier
#undef set_barrier_transaction_bytes
#undef wait_barrier
#undef arrive_barrier
#undef prefetch_tma_descriptor

namespace cute {

inline void initialize_barrier(uint64_t& b, int count = 1) {
  blip3v_sim::mbarrier_init(&b, uint32_t(count));
}
inline void set_barrier_transaction_bytes(uint64_t& b, uint32_t bytes) {
  blip3v_sim::mbarrier_expect_bytes(&b, bytes);
  blip3v_sim::mbarrier_arrive(&b);
}
inline void wait_barrier(uint64_t& b, int phase) {
  blip3v_sim::mbarrier_wait(&b, uint32_t(phase));
}
inline void arrive_barrier(uint64_t& b) {
  blip3v_sim::mbarrier_arrive(&b);
}
inline void prefetch_tma_descriptor(TmaDescriptor const*) {}

}  // namespace cute

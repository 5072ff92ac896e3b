// Ordinary loads and stores of kernels. On the GPU each is one plain instruction; in the build for csrc/sim
// each is checked (alignment, bounds) and counted (bytes, shared-memory bank conflicts), so kernels use these
// for every access that TMA does not make.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#ifdef BLIP3V_SIM
#include "sim/sim.h"
#define BLIP3V_ONE_ACCESS \
  inline __attribute__((always_inline))  // the simulator tells accesses apart by call site
#else
#define BLIP3V_ONE_ACCESS __device__ __forceinline__
#endif

namespace blip3v {

// One instruction moves a T: 1, 2, 4, 8 or 16 bytes, aligned to its size (uint4, float2, bfloat16_t, ...).
template <typename T>
struct OneAccess {
  static constexpr bool value = std::is_trivially_copyable<T>::value && alignof(T) == sizeof(T) &&
                                (sizeof(T) & (sizeof(T) - 1)) == 0 && sizeof(T) <= 16;
};

template <typename T>
BLIP3V_ONE_ACCESS T load_global(const T* p) {
  static_assert(OneAccess<T>::value, "T must have 1, 2, 4, 8 or 16 bytes and be aligned to its size");
#ifdef BLIP3V_SIM
  sim::global_access(p, sizeof(T), sim::Access::kLoad);
#endif
  return *p;
}

template <typename T>
BLIP3V_ONE_ACCESS void store_global(T* p, T value) {
  static_assert(OneAccess<T>::value, "T must have 1, 2, 4, 8 or 16 bytes and be aligned to its size");
#ifdef BLIP3V_SIM
  sim::global_access(p, sizeof(T), sim::Access::kStore);
#endif
  *p = value;
}

// p may also point into another block of the cluster, see peer_shared.
template <typename T>
BLIP3V_ONE_ACCESS T load_shared(const T* p) {
  static_assert(OneAccess<T>::value, "T must have 1, 2, 4, 8 or 16 bytes and be aligned to its size");
#ifdef BLIP3V_SIM
  sim::shared_access(p, sizeof(T), sim::Access::kLoad);
#endif
  return *p;
}

template <typename T>
BLIP3V_ONE_ACCESS void store_shared(T* p, T value) {
  static_assert(OneAccess<T>::value, "T must have 1, 2, 4, 8 or 16 bytes and be aligned to its size");
#ifdef BLIP3V_SIM
  sim::shared_access(p, sizeof(T), sim::Access::kStore);
#endif
  *p = value;
}

// The same place in the shared memory of the cluster's block number `rank` (distributed shared memory). A
// block must not end while others still reach into it: end with a cluster barrier.
template <typename T>
BLIP3V_ONE_ACCESS T* peer_shared(T* p, std::uint32_t rank) {
#ifdef BLIP3V_SIM
  return static_cast<T*>(sim::map_to_rank(p, rank));
#else
  return static_cast<T*>(__cluster_map_shared_rank(p, rank));
#endif
}

}  // namespace blip3v

#undef BLIP3V_ONE_ACCESS

// Overlay: tiled TMA loads (multicast too), stores and reduce-add stores. Cache hints and prefetches mean
// nothing here.
#pragma once
#define SM90_TMA_LOAD SM90_TMA_LOAD_device_only
#define SM90_TMA_LOAD_MULTICAST SM90_TMA_LOAD_MULTICAST_device_only
#define SM90_TMA_STORE SM90_TMA_STORE_device_only
#define SM90_TMA_REDUCE_ADD SM90_TMA_REDUCE_ADD_device_only
#define tma_store_fence tma_store_fence_device_only
#define tma_store_arrive tma_store_arrive_device_only
#define tma_store_wait tma_store_wait_device_only
#include_next <cute/arch/copy_sm90_tma.hpp>
#undef SM90_TMA_LOAD
#undef SM90_TMA_LOAD_MULTICAST
#undef SM90_TMA_STORE
#undef SM90_TMA_REDUCE_ADD
#undef tma_store_fence
#undef tma_store_arrive
#undef tma_store_wait

namespace cute {

struct SM90_TMA_LOAD {
  template <class... Coordinates>
  static void copy(void const* map, uint64_t* mbarrier, uint64_t, void* shared, Coordinates const&... at) {
    int const coordinate[] = {int(at)...};
    blip3v_sim::tma_load(map, mbarrier, shared, sizeof...(at), coordinate);
  }
  struct PREFETCH {
    template <class... Coordinates>
    static void copy(void const*, Coordinates const&...) {}
  };
};

struct SM90_TMA_LOAD_MULTICAST {
  template <class... Coordinates>
  static void copy(void const* map, uint64_t* mbarrier, uint16_t ranks, uint64_t, void* shared,
                   Coordinates const&... at) {
    int const coordinate[] = {int(at)...};
    blip3v_sim::tma_load(map, mbarrier, shared, sizeof...(at), coordinate, ranks);
  }
  using PREFETCH = SM90_TMA_LOAD::PREFETCH;
};

struct SM90_TMA_STORE {
  template <class... Coordinates>
  static void copy(void const* map, void const* shared, Coordinates const&... at) {
    int const coordinate[] = {int(at)...};
    blip3v_sim::tma_store(map, shared, sizeof...(at), coordinate, blip3v_sim::Store::kWrite);
  }
  struct PREFETCH {
    template <class... Coordinates>
    static void copy(void const*, Coordinates const&...) {}
  };
};

struct SM90_TMA_REDUCE_ADD {
  template <class... Coordinates>
  static void copy(void const* map, void const* shared, Coordinates const&... at) {
    int const coordinate[] = {int(at)...};
    blip3v_sim::tma_store(map, shared, sizeof...(at), coordinate, blip3v_sim::Store::kReduceAdd);
  }
};

inline void tma_store_fence() {
  blip3v_sim::fence_proxy_async();
}
inline void tma_store_arrive() {
  blip3v_sim::bulk_commit();
}
template <int kLeft>
inline void tma_store_wait() {
  blip3v_sim::bulk_wait(kLeft);
}

}  // namespace cute

// Overlay: named barriers, mbarriers and fences, with the interface of CUTLASS's classes.
#pragma once
#include <cute/arch/cluster_sm90.hpp>
#define NamedBarrier NamedBarrier_device_only
#define ClusterBarrier ClusterBarrier_device_only
#define ClusterTransactionBarrier ClusterTransactionBarrier_device_only
#define fence_barrier_init fence_barrier_init_device_only
#define fence_view_async_shared fence_view_async_shared_device_only
#include_next <cutlass/arch/barrier.h>
#undef NamedBarrier
#undef ClusterBarrier
#undef ClusterTransactionBarrier
#undef fence_barrier_init
#undef fence_view_async_shared

namespace cutlass::arch {

inline void fence_barrier_init() {
  blip3v_sim::fence_mbarrier_init();
}
inline void fence_view_async_shared() {
  blip3v_sim::fence_proxy_async();
}

class NamedBarrier {
 public:
  static const uint32_t ReservedNamedBarrierCount = uint32_t(ReservedNamedBarriers::FirstUserBarrier);
  static const uint32_t HardwareMaxNumNamedBarriers = 16;

  NamedBarrier(uint32_t threads, ReservedNamedBarriers id) : threads_(threads), id_(uint32_t(id)) {}
  NamedBarrier(uint32_t threads, uint32_t id = 0) : threads_(threads), id_(id + ReservedNamedBarrierCount) {}

  void arrive_and_wait() const { blip3v_sim::named_barrier(id_, threads_, true); }
  void arrive_and_wait_unaligned() const { arrive_and_wait(); }
  void arrive() const { blip3v_sim::named_barrier(id_, threads_, false); }
  void arrive_unaligned() const { arrive(); }
  void sync() const { arrive_and_wait(); }

  static void sync(uint32_t threads, uint32_t id) { NamedBarrier(threads, id).sync(); }
  static void sync(uint32_t threads, ReservedNamedBarriers id) { NamedBarrier(threads, id).sync(); }
  static void arrive_and_wait(uint32_t threads, uint32_t id) { sync(threads, id); }
  static void arrive_and_wait(uint32_t threads, ReservedNamedBarriers id) { sync(threads, id); }
  static void arrive(uint32_t threads, uint32_t id) { NamedBarrier(threads, id).arrive(); }
  static void arrive(uint32_t threads, ReservedNamedBarriers id) { NamedBarrier(threads, id).arrive(); }

 private:
  uint32_t const threads_, id_;
};

struct ClusterBarrier {
  using ValueType = uint64_t;
  ClusterBarrier() = delete;

  void init(uint32_t arrivals) const { init(&barrier_, arrivals); }
  bool test_wait(uint32_t phase, uint32_t predicate = true) const {
    return test_wait(&barrier_, phase, predicate);
  }
  bool try_wait(uint32_t phase) const { return try_wait(&barrier_, phase); }
  void wait(uint32_t phase) const { wait(&barrier_, phase); }
  void arrive() const { arrive(&barrier_); }
  void arrive(uint32_t rank, uint32_t predicate = true) const { arrive(&barrier_, rank, predicate); }

  static void init(ValueType const* p, uint32_t arrivals) { blip3v_sim::mbarrier_init(word(p), arrivals); }
  static void invalidate(ValueType const* p) { blip3v_sim::mbarrier_invalidate(word(p)); }
  static void wait(ValueType const* p, uint32_t phase) { blip3v_sim::mbarrier_wait(word(p), phase); }
  static bool try_wait(ValueType const* p, uint32_t phase) {
    return blip3v_sim::mbarrier_test(word(p), phase);
  }
  static bool test_wait(ValueType const* p, uint32_t phase, uint32_t predicate) {
    return predicate && blip3v_sim::mbarrier_test(word(p), phase);
  }
  static void arrive(ValueType const* p) { blip3v_sim::mbarrier_arrive(word(p)); }
  static void arrive(ValueType const* p, uint32_t rank, uint32_t predicate) {
    if (predicate) blip3v_sim::mbarrier_arrive(word(p, rank));
  }

 protected:
  static uint64_t* word(ValueType const* p) { return const_cast<uint64_t*>(p); }
  static uint64_t* word(ValueType const* p, uint32_t rank) {
    return static_cast<uint64_t*>(blip3v_sim::map_to_rank(p, rank));
  }
  ValueType barrier_;
};

struct ClusterTransactionBarrier : ClusterBarrier {
  ClusterTransactionBarrier() = delete;

  void arrive_and_expect_tx(uint32_t bytes) const { arrive_and_expect_tx(&barrier_, bytes); }
  void arrive_and_expect_tx(uint32_t bytes, uint32_t rank, uint32_t predicate = 1) const {
    arrive_and_expect_tx(&barrier_, bytes, rank, predicate);
  }
  void expect_transaction(uint32_t bytes) const { expect_transaction(&barrier_, bytes); }
  void complete_transaction(uint32_t bytes, uint32_t predicate = 1) const {
    if (predicate) blip3v_sim::mbarrier_complete_bytes(word(&barrier_), bytes);
  }
  void complete_transaction(uint32_t rank, uint32_t bytes, uint32_t predicate) const {
    complete_transaction(&barrier_, rank, bytes, predicate);
  }

  static void arrive_and_expect_tx(ValueType const* p, uint32_t bytes) {
    blip3v_sim::mbarrier_expect_bytes(word(p), bytes);
    blip3v_sim::mbarrier_arrive(word(p));
  }
  static void arrive_and_expect_tx(ValueType const* p, uint32_t bytes, uint32_t rank, uint32_t predicate) {
    if (!predicate) return;
    blip3v_sim::mbarrier_expect_bytes(word(p, rank), bytes);
    blip3v_sim::mbarrier_arrive(word(p, rank));
  }
  static void expect_transaction(ValueType const* p, uint32_t bytes) {
    blip3v_sim::mbarrier_expect_bytes(word(p), bytes);
  }
  static void complete_transaction(ValueType const* p, uint32_t rank, uint32_t bytes,
                                   uint32_t predicate = 1) {
    if (predicate) blip3v_sim::mbarrier_complete_bytes(word(p, rank), bytes);
  }
};

}  // namespace cutlass::arch

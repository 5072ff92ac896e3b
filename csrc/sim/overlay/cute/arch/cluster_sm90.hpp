// Overlay: clusters and the election of one lane.
#pragma once
#define cluster_arrive_relaxed cluster_arrive_relaxed_device_only
#define cluster_arrive cluster_arrive_device_only
#define cluster_wait cluster_wait_device_only
#define cluster_sync cluster_sync_device_only
#define cluster_grid_dims cluster_grid_dims_device_only
#define cluster_id_in_grid cluster_id_in_grid_device_only
#define block_id_in_cluster block_id_in_cluster_device_only
#define cluster_shape cluster_shape_device_only
#define block_rank_in_cluster block_rank_in_cluster_device_only
#define set_block_rank set_block_rank_device_only
#define elect_one_sync elect_one_sync_device_only
#include_next <cute/arch/cluster_sm90.hpp>
#undef cluster_arrive_relaxed
#undef cluster_arrive
#undef cluster_wait
#undef cluster_sync
#undef cluster_grid_dims
#undef cluster_id_in_grid
#undef block_id_in_cluster
#undef cluster_shape
#undef block_rank_in_cluster
#undef set_block_rank
#undef elect_one_sync

namespace cute {

inline void cluster_arrive_relaxed() {
  blip3v_sim::cluster_arrive();
}
inline void cluster_arrive() {
  blip3v_sim::cluster_arrive();
}
inline void cluster_wait() {
  blip3v_sim::cluster_wait();
}
inline void cluster_sync() {
  cluster_arrive();
  cluster_wait();
}

inline dim3 cluster_shape() {
  auto const c = blip3v_sim::me().cluster_dim;
  return {c.x, c.y, c.z};
}
inline dim3 block_id_in_cluster() {
  auto const b = blip3v_sim::me().block_in_cluster;
  return {b.x, b.y, b.z};
}
inline dim3 cluster_grid_dims() {
  auto const& i = blip3v_sim::me();
  return {i.grid_dim.x / i.cluster_dim.x, i.grid_dim.y / i.cluster_dim.y, i.grid_dim.z / i.cluster_dim.z};
}
inline dim3 cluster_id_in_grid() {
  auto const& i = blip3v_sim::me();
  return {i.block.x / i.cluster_dim.x, i.block.y / i.cluster_dim.y, i.block.z / i.cluster_dim.z};
}
inline uint32_t block_rank_in_cluster() {
  return blip3v_sim::me().rank;
}
inline uint32_t set_block_rank(uint32_t address, uint32_t rank) {
  return (address & 0xffffffu) | rank << 24;
}

inline uint32_t elect_one_sync() {
  return blip3v_sim::elect_one();
}

}  // namespace cute

// Overlay: stmatrix without transposition. Lane l names row l % 8 of matrix l / 8; of each matrix lane l
// holds the elements (l / 4, 2 * (l % 4)) and the one after.
#pragma once
#define SM90_U32x1_STSM_N SM90_U32x1_STSM_N_device_only
#define SM90_U32x2_STSM_N SM90_U32x2_STSM_N_device_only
#define SM90_U32x4_STSM_N SM90_U32x4_STSM_N_device_only
#include_next <cute/arch/copy_sm90.hpp>
#undef SM90_U32x1_STSM_N
#undef SM90_U32x2_STSM_N
#undef SM90_U32x4_STSM_N

namespace cute {
namespace simulated {

// Each lane asks for the rows that its elements belong to and writes them; nobody goes on before all have.
template <int kMatrices>
inline void stmatrix(const uint32_t (&source)[kMatrices], void* row) {
  unsigned const lane = blip3v_sim::me().lane;
  if (lane / 8 < kMatrices) blip3v_sim::shared_access(row, 16, blip3v_sim::Access::kStore);
  for (unsigned matrix = 0; matrix < kMatrices; ++matrix) {
    uint64_t const to =
        blip3v_sim::warp_exchange(~0u, reinterpret_cast<uint64_t>(row), matrix * 8 + lane / 4);
    std::memcpy(reinterpret_cast<char*>(to) + lane % 4 * 4, &source[matrix], 4);
  }
  blip3v_sim::sync_warp(~0u);
}

}  // namespace simulated

struct SM90_U32x1_STSM_N {
  using SRegisters = uint32_t[1];
  using DRegisters = uint128_t[1];
  static void copy(uint32_t const& a, uint128_t& row) {
    const uint32_t source[] = {a};
    simulated::stmatrix(source, &row);
  }
};

struct SM90_U32x2_STSM_N {
  using SRegisters = uint32_t[2];
  using DRegisters = uint128_t[1];
  static void copy(uint32_t const& a, uint32_t const& b, uint128_t& row) {
    const uint32_t source[] = {a, b};
    simulated::stmatrix(source, &row);
  }
};

struct SM90_U32x4_STSM_N {
  using SRegisters = uint32_t[4];
  using DRegisters = uint128_t[1];
  static void copy(uint32_t const& a, uint32_t const& b, uint32_t const& c, uint32_t const& d,
                   uint128_t& row) {
    const uint32_t source[] = {a, b, c, d};
    simulated::stmatrix(source, &row);
  }
};

}  // namespace cute

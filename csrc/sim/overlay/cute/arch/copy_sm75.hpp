// Overlay: ldmatrix without transposition. Lane l names row l % 8 of matrix l / 8 and is given, of each
// matrix, the elements (l / 4, 2 * (l % 4)) and the one after.
#pragma once
#define SM75_U32x1_LDSM_N SM75_U32x1_LDSM_N_device_only
#define SM75_U32x2_LDSM_N SM75_U32x2_LDSM_N_device_only
#define SM75_U32x4_LDSM_N SM75_U32x4_LDSM_N_device_only
#include_next <cute/arch/copy_sm75.hpp>
#undef SM75_U32x1_LDSM_N
#undef SM75_U32x2_LDSM_N
#undef SM75_U32x4_LDSM_N

namespace cute {
namespace simulated {

// Each lane asks for the rows that hold its elements; nobody goes on, and perhaps overwrites them, before all
// have read.
template <int kMatrices>
inline void ldmatrix(void const* row, uint32_t (&part)[kMatrices]) {
  unsigned const lane = blip3v_sim::me().lane;
  if (lane / 8 < kMatrices) blip3v_sim::shared_access(row, 16, blip3v_sim::Access::kLoad);
  for (unsigned matrix = 0; matrix < kMatrices; ++matrix) {
    uint64_t const from =
        blip3v_sim::warp_exchange(~0u, reinterpret_cast<uint64_t>(row), matrix * 8 + lane / 4);
    std::memcpy(&part[matrix], reinterpret_cast<char const*>(from) + lane % 4 * 4, 4);
  }
  blip3v_sim::sync_warp(~0u);
}

}  // namespace simulated

struct SM75_U32x1_LDSM_N {
  using SRegisters = uint128_t[1];
  using DRegisters = uint32_t[1];
  static void copy(uint128_t const& row, uint32_t& a) {
    uint32_t part[1];
    simulated::ldmatrix(&row, part);
    a = part[0];
  }
};

struct SM75_U32x2_LDSM_N {
  using SRegisters = uint128_t[1];
  using DRegisters = uint32_t[2];
  static void copy(uint128_t const& row, uint32_t& a, uint32_t& b) {
    uint32_t part[2];
    simulated::ldmatrix(&row, part);
    a = part[0], b = part[1];
  }
};

struct SM75_U32x4_LDSM_N {
  using SRegisters = uint128_t[1];
  using DRegisters = uint32_t[4];
  static void copy(uint128_t const& row, uint32_t& a, uint32_t& b, uint32_t& c, uint32_t& d) {
    uint32_t part[4];
    simulated::ldmatrix(&row, part);
    a = part[0], b = part[1], c = part[2], d = part[3];
  }
};

}  // namespace cute

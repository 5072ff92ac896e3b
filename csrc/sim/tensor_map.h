// Our reading of the 128 opaque bytes that cuTensorMapEncodeTiled fills.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>

namespace blip3v::sim {

struct TensorMap {
  static constexpr std::uint32_t kMagic = 0x7a3d90f1;
  std::uint32_t magic;
  std::uint8_t element_bytes, rank, swizzle, type;
  char* base;
  std::uint64_t size[5], stride[4];  // elements; bytes, from the second dimension on
  std::uint32_t box[5];              // elements

  std::size_t box_bytes() const {
    std::size_t bytes = element_bytes;
    for (int i = 0; i < rank; ++i) bytes *= box[i];
    return bytes;
  }
};
static_assert(sizeof(TensorMap) <= sizeof(CUtensorMap), "");

// Bytes of a swizzled row, by CUtensorMapSwizzle: none, 32B, 64B, 128B.
constexpr std::uint32_t kSwizzleSpan[] = {16, 32, 64, 128};

// The number of a 16-byte chunk is exchanged with the bits of the row above it. The pattern sits on the
// address in shared memory, so it repeats every 8 spans whatever the tile.
inline std::uint32_t swizzled(std::uint32_t address, unsigned kind) {
  return kind ? address ^ ((address >> 7 & ((1u << kind) - 1)) << 4) : address;
}

}  // namespace blip3v::sim

// What CuTe and CUTLASS ask of the driver and the runtime on the host side.
#include "sim/tensor_map.h"

#include <cuda_runtime_api.h>

#include <cstring>

using blip3v::sim::kSwizzleSpan;
using blip3v::sim::TensorMap;

// The same limits as the driver's, and two of ours: no interleaving, and a swizzled row is as long as its
// span.
extern "C" CUresult cuTensorMapEncodeTiled(CUtensorMap* out, CUtensorMapDataType type, cuuint32_t rank,
                                           void* base, const cuuint64_t* size, const cuuint64_t* stride,
                                           const cuuint32_t* box, const cuuint32_t* element_stride,
                                           CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                           CUtensorMapL2promotion, CUtensorMapFloatOOBfill fill) {
  static constexpr std::uint8_t kBytes[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4};  // by CUtensorMapDataType
  constexpr cuuint64_t kMostElements = 1ull << 32, kMostStride = 1ull << 40;
  constexpr cuuint32_t kMostBox = 256;
  if (std::size_t(type) >= sizeof kBytes || rank < 1 || rank > 5 ||
      reinterpret_cast<std::uintptr_t>(base) % 16 || interleave != CU_TENSOR_MAP_INTERLEAVE_NONE ||
      fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE ||
      std::size_t(swizzle) >= sizeof kSwizzleSpan / sizeof kSwizzleSpan[0]) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  TensorMap map{};
  map.magic = TensorMap::kMagic;
  map.element_bytes = kBytes[type];
  map.type = std::uint8_t(type);
  map.rank = std::uint8_t(rank);
  map.swizzle = std::uint8_t(swizzle);
  map.base = static_cast<char*>(base);
  for (cuuint32_t i = 0; i < rank; ++i) {
    if (size[i] < 1 || size[i] > kMostElements || box[i] < 1 || box[i] > kMostBox || element_stride[i] != 1) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    map.size[i] = size[i];
    map.box[i] = box[i];
    if (i + 1 == rank) break;
    if (stride[i] % 16 || stride[i] >= kMostStride) return CUDA_ERROR_INVALID_VALUE;
    map.stride[i] = stride[i];
  }
  const std::uint32_t row = map.box[0] * map.element_bytes;
  if (row % 16 || (swizzle != CU_TENSOR_MAP_SWIZZLE_NONE && row != kSwizzleSpan[swizzle])) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  std::memset(out, 0, sizeof *out);
  std::memcpy(out, &map, sizeof map);
  return CUDA_SUCCESS;
}

extern "C" cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

extern "C" cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = 0;  // CUTLASS asks for sizes it then takes from its arguments
  return cudaSuccess;
}

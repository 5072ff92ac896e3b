#include "sim/selftest/gemm_tile.cuh"

namespace blip3v::selftest {

void gemm_fp16(const GemmTile& tile, const void* a, const void* b, float* d, int m, int n, int k) {
  if (tile.swizzle != 128) fail("gemm_tile: fp16 has a swizzle of 128 only");
  run_gemm<cutlass::half_t, 128>(tile, a, b, d, m, n, k);
}

}  // namespace blip3v::selftest

#include "sim/selftest/gemm_tile.cuh"

namespace blip3v::selftest {

void gemm_fp16(const GemmTile& tile, const void* a, const void* b, float* d, int m, int n, int k);

void gemm(const GemmTile& tile, const void* a, const void* b, float* d, int m, int n, int k) {
  if (tile.fp16) return gemm_fp16(tile, a, b, d, m, n, k);
  switch (tile.swizzle) {
    case 0:
      return run_gemm<cutlass::bfloat16_t, 0>(tile, a, b, d, m, n, k);
    case 32:
      return run_gemm<cutlass::bfloat16_t, 32>(tile, a, b, d, m, n, k);
    case 64:
      return run_gemm<cutlass::bfloat16_t, 64>(tile, a, b, d, m, n, k);
    case 128:
      return run_gemm<cutlass::bfloat16_t, 128>(tile, a, b, d, m, n, k);
  }
  fail("gemm_tile: the swizzle is 0, 32, 64 or 128");
}

}  // namespace blip3v::selftest

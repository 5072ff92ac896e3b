// The simulator's own test kernels: ordinary CUDA C++, small, one idea each. tests/sim runs them; no product
// code does.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace blip3v::selftest {

struct GemmTile {
  bool fp16;    // otherwise bf16
  int swizzle;  // bytes: 0, 32, 64 or 128
  bool a_mn_major, b_mn_major;
  bool a_in_registers;
};
// d[m][n] = a b^T in fp32 by TMA and wgmma. a is [m][k], or [k][m] when mn-major; b likewise.
void gemm(const GemmTile& tile, const void* a, const void* b, float* d, int m, int n, int k);

// d[m][n] = a[m][k] b[n][k]^T in bf16 by a CUTLASS collective: clusters of two, multicast, persistent.
void collective_gemm(const void* a, const void* b, void* d, int m, int n, int k, int multiprocessors);

// out[2][32]: both blocks' column sums of x[64 * rounds][32], which they load by multicast and each reads
// whole.
void multicast_sum(const float* x, float* out, int rounds);
// out[blocks][32] = x[blocks][32] moved round by one block, through distributed shared memory.
void rotate_blocks(const float* x, float* out, int blocks);

// out[rounds] = x[rounds] + 1, handed from one warp to another and back through named barriers.
void ping_pong(const float* x, float* out, int rounds);
// out[9][32]: what each kind of shuffle and vote gives for x[32].
void shuffles(const std::uint32_t* x, std::uint32_t* out);
// out[32][8] bf16 = x[32][8] by one stmatrix of four matrices.
void stmatrix(const std::uint16_t* x, std::uint16_t* out);
// The same by one ldmatrix.
void ldmatrix(const std::uint16_t* x, std::uint16_t* out);

enum class Fence { kEveryThread, kFirstThread, kNone };
// out[64][32] = x by store_shared and a TMA store, with proxy fences as told.
void staged_store(const float* x, float* out, Fence fence);
// One warp stores `bytes` per lane at lane * stride, so often.
void strided_stores(int bytes, int stride, int repeats);

// Kernels that break one rule each.
std::vector<std::string> faults();
void run_fault(const std::string& name, void* memory);  // memory: 4 KiB that they may use

}  // namespace blip3v::selftest

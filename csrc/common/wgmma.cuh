// Matrix products of one warpgroup (128 threads) on the tensor cores, and where a thread's numbers lie.
#pragma once

#include <cstdint>
#include <cute/tensor.hpp>

namespace blip3v {

// Starts acc = A B or acc += A B over all k-blocks of the fragments and closes the group. The product runs on
// while the warpgroup goes on: until cute::warpgroup_wait, neither acc nor a register operand may be touched.
template <class Mma, class A, class B, class C>
CUTE_DEVICE void start_product(Mma mma, A const& a, B const& b, C& acc, bool accumulate) {
  cute::warpgroup_fence_operand(acc);
  cute::warpgroup_arrive();
  mma.accumulate_ = accumulate ? cute::GMMA::ScaleOut::One : cute::GMMA::ScaleOut::Zero;
  CUTE_UNROLL
  for (int k = 0; k < cute::size<2>(a); ++k) {
    cute::gemm(mma, a(cute::_, cute::_, k), b(cute::_, cute::_, k), acc);
    mma.accumulate_ = cute::GMMA::ScaleOut::One;
  }
  cute::warpgroup_commit_batch();
}

// Waits until at most kLeft of the groups started are still running, after which acc may be read.
template <int kLeft, class C>
CUTE_DEVICE void finish_product(C& acc) {
  cute::warpgroup_wait<kLeft>();
  cute::warpgroup_fence_operand(acc);
}

// Element i of the accumulator of an m64nN product belongs to row first_row(thread) + 8 * row_of(i) and
// column first_column(thread) + column_of(i); the four threads of a quad share two rows.
CUTE_HOST_DEVICE constexpr int first_row(int thread) {
  return thread / 32 * 16 + thread % 32 / 4;
}
CUTE_HOST_DEVICE constexpr int first_column(int thread) {
  return thread % 4 * 2;
}
CUTE_HOST_DEVICE constexpr int row_of(int i) {
  return i >> 1 & 1;
}
CUTE_HOST_DEVICE constexpr int column_of(int i) {
  return (i >> 2) * 8 + (i & 1);
}

// Maximum and sum over the four threads of a quad, which hold one row between them.
CUTE_DEVICE float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
CUTE_DEVICE float quad_sum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

// An accumulator fragment of N columns, rounded to bf16, is element for element the A operand (in registers)
// of a product over N: [16 columns per k-block].
template <int kColumns>
using OperandA = decltype(cute::make_tensor<cute::bfloat16_t>(
    cute::Layout<
        cute::Shape<cute::Shape<cute::_2, cute::_2, cute::_2>, cute::_1, cute::Int<kColumns / 16>>>{}));

template <int kColumns, class C>
CUTE_DEVICE void round_to_operand(C const& acc, OperandA<kColumns>& operand) {
  CUTE_UNROLL
  for (int i = 0; i < cute::size(acc); ++i) operand(i) = cute::bfloat16_t(acc(i));
}

// Two bf16 side by side, as an ordinary 4-byte access writes them.
CUTE_DEVICE std::uint32_t pack(float low, float high) {
  return cute::bfloat16_t(low).storage | std::uint32_t(cute::bfloat16_t(high).storage) << 16;
}

}  // namespace blip3v

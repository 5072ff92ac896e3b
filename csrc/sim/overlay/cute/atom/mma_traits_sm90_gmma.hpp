// Overlay: one mma_unpack that is more specialised than CuTe's, so that it takes every bf16 and fp16 wgmma
// into fp32 (64 x N x 16, SS and RS, either major) and hands descriptors and the addresses of registers to
// the simulator.
#pragma once
#include_next <cute/atom/mma_traits_sm90_gmma.hpp>

namespace cute::SM90::GMMA {

template <template <Major, Major, ScaleIn, ScaleIn> class Op, Major kMajorA, Major kMajorB, ScaleIn kSignA,
          ScaleIn kSignB, class TD, class DLayout, class TA, class ALayout, class TB, class BLayout, class TC,
          class CLayout>
inline void mma_unpack(MMA_Traits<Op<kMajorA, kMajorB, kSignA, kSignB>> const& traits, Tensor<TD, DLayout>& D,
                       Tensor<TA, ALayout> const& A, Tensor<TB, BLayout> const& B,
                       Tensor<TC, CLayout> const&) {
  using Instruction = Op<kMajorA, kMajorB, kSignA, kSignB>;
  using Traits = MMA_Traits<Instruction>;
  using ElementA = typename Traits::ValTypeA;
  static_assert(is_same_v<typename Traits::ValTypeD, float>,
                "not simulated: wgmma without fp32 accumulators");
  static_assert(is_same_v<ElementA, bfloat16_t> || is_same_v<ElementA, half_t>,
                "not simulated: wgmma of other types than bf16 and fp16");
  constexpr int n = decltype(size<1>(typename Traits::Shape_MNK{}))::value;

  blip3v_sim::Wgmma op;
  op.n = n;
  op.fp16 = is_same_v<ElementA, half_t>;
  op.a_mn_major = kMajorA == Major::MN;
  op.b_mn_major = kMajorB == Major::MN;
  op.a_in_registers = extent<typename Instruction::ARegisters>::value == 4;
  op.accumulate = traits.accumulate_ == ScaleOut::One;
  op.sign = float(int(kSignA) * int(kSignB));

  Tensor descriptor_b = recast<uint64_t>(B);
  op.b = descriptor_b(0);
  Tensor d = recast<float>(D);
  static_assert(decltype(size(d))::value == n / 2);
  blip3v_sim::fail_if(&d(size(d) - 1) - &d(0) != size(d) - 1, "not simulated: wgmma accumulators with gaps");
  if constexpr (extent<typename Instruction::ARegisters>::value == 4) {
    Tensor a = recast<uint32_t const>(A);
    blip3v_sim::fail_if(&a(3) - &a(0) != 3, "not simulated: wgmma A registers with gaps");
    blip3v_sim::wgmma(op, &a(0), &d(0));
  } else {
    Tensor descriptor_a = recast<uint64_t>(A);
    op.a = descriptor_a(0);
    blip3v_sim::wgmma(op, nullptr, &d(0));
  }
}

}  // namespace cute::SM90::GMMA

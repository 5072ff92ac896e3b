// GELU with the error function, and its derivative, of bf16 numbers:
//
//   gelu(h)  = h Phi(h)                Phi(h) = (1 + erf(h / sqrt 2)) / 2, the normal distribution
//   gelu'(h) = Phi(h) + h phi(h)       phi(h) = exp(-h^2 / 2) / sqrt(2 pi), its density
//
// Both need one exponential: with t = 1 / (1 + p |h| / sqrt 2),
//
//   Phi(-|h|) = t (a1 + t (a2 + t (a3 + t (a4 + t a5)))) exp(-h^2 / 2) / 2
//
// Hastings' approximation (Abramowitz and Stegun, 7.1.26), off by at most 7.5e-8 in Phi: a tenth of what erff
// costs, and errors below fp32's own in a product that is rounded to bf16. It takes the small side of the
// distribution as it is, so nothing cancels for negative h.
#pragma once

#include <cutlass/array.h>
#include <cutlass/bfloat16.h>

#include <cute/config.hpp>

namespace blip3v::feed_forward {

struct Normal {
  float below;    // Phi(h)
  float density;  // phi(h)
};

CUTE_DEVICE Normal normal(float h) {
  constexpr float kP = 0.3275911f * 0.70710678f;
  constexpr float kA1 = 0.254829592f, kA2 = -0.284496736f, kA3 = 1.421413741f, kA4 = -1.453152027f,
                  kA5 = 1.061405429f;
  constexpr float kHalfLog2E = 0.72134752f, kInverseRoot2Pi = 0.39894228f;
  float const x = fabsf(h);
  float const t = __fdividef(1.f, 1.f + kP * x);
  float const exponential = exp2f(-kHalfLog2E * h * h);
  float const tail = 0.5f * t * (kA1 + t * (kA2 + t * (kA3 + t * (kA4 + t * kA5)))) * exponential;
  return {h > 0.f ? 1.f - tail : tail, kInverseRoot2Pi * exponential};
}

CUTE_DEVICE float gelu(float h) {
  return h * normal(h).below;
}

CUTE_DEVICE float dgelu(float h) {
  Normal const n = normal(h);
  return n.below + h * n.density;
}

// What CUTLASS's epilogue visitor trees call, a fragment at a time.

// h as an fp32 sum -> gelu of what is stored of it. So the backward, which sees the stored h only,
// differentiates exactly what the forward computed, and `a` is the same when it is computed again.
template <class T>
struct GeluOfStored;
template <int kCount>
struct GeluOfStored<cutlass::Array<float, kCount>> {
  using Fragment = cutlass::Array<float, kCount>;
  CUTE_DEVICE Fragment operator()(Fragment const& sums) const {
    Fragment result;
    CUTE_UNROLL
    for (int i = 0; i < kCount; ++i) result[i] = gelu(float(cutlass::bfloat16_t(sums[i])));
    return result;
  }
};

// h as it was stored -> gelu(h). Beside TimesDgelu of the same h it costs one multiplication.
template <class T>
struct Gelu;
template <int kCount>
struct Gelu<cutlass::Array<float, kCount>> {
  using Fragment = cutlass::Array<float, kCount>;
  CUTE_DEVICE Fragment operator()(Fragment const& h) const {
    Fragment result;
    CUTE_UNROLL
    for (int i = 0; i < kCount; ++i) result[i] = gelu(h[i]);
    return result;
  }
};

// (dout w2, h, anything) -> (dout w2) * gelu'(h). The third is there to be evaluated: the store of gelu(h).
template <class T>
struct TimesDgelu;
template <int kCount>
struct TimesDgelu<cutlass::Array<float, kCount>> {
  using Fragment = cutlass::Array<float, kCount>;
  CUTE_DEVICE Fragment operator()(Fragment const& sums, Fragment const& h, Fragment const&) const {
    Fragment result;
    CUTE_UNROLL
    for (int i = 0; i < kCount; ++i) result[i] = sums[i] * dgelu(h[i]);
    return result;
  }
};

}  // namespace blip3v::feed_forward

// e^x in float32: the same operations on every instruction set, within 1 unit in the last place over [-87, 88].
#pragma once
#include "simd.h"

namespace pintpot {
namespace {

// e^r, |r| <= ln2 / 2, by a polynomial of degree 7 (Taylor; its remainder is below 2^-27).
template <int N>
INLINE void exp_of_rest(const VF (&r)[N], VF (&p)[N]) {
  UNROLL for (int i = 0; i < N; ++i) p[i] = r[i] * 1.98412698e-4f + 1.38888889e-3f;
  UNROLL for (int i = 0; i < N; ++i) p[i] = p[i] * r[i] + 8.33333333e-3f;
  UNROLL for (int i = 0; i < N; ++i) p[i] = p[i] * r[i] + 4.16666667e-2f;
  UNROLL for (int i = 0; i < N; ++i) p[i] = p[i] * r[i] + 1.66666667e-1f;
  UNROLL for (int i = 0; i < N; ++i) p[i] = p[i] * r[i] + 0.5f;
  UNROLL for (int i = 0; i < N; ++i) p[i] = (p[i] * (r[i] * r[i]) + r[i]) + 1.0f;
}

// x = n ln2 + r; n ln2 is taken off in two parts, the first exact (Cody and Waite). Below -87.3 the result is 0, above 88.7
// infinity.
INLINE VF exp(VF x) {
  const VF clamped = x < -87.3f ? splat(-87.3f) : (x > 88.7f ? splat(88.7f) : x);
  const VF shifted = clamped * 1.44269504f + 12582912.0f;
  const VF n = shifted - 12582912.0f;
  const VF r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
  VF value[1];
  exp_of_rest({r}, value);
  // 2^n in two factors, so that n = 128 does not overflow before its time.
  const VI whole = (VI)shifted - 0x4b400000, half = whole >> 1;
  const VF scaled = value[0] * (VF)((half + 127) << 23) * (VF)((whole - half + 127) << 23);
  const VF low = x < -87.3f ? splat(0.0f) : scaled;
  return x > 88.7f ? splat(__builtin_inff()) : low;
}
// e^x for x <= 0, with fewer steps: the same, but 0 below -86, where no second factor is needed. N vectors go side by side,
// step by step: one after another, a CPU that looks some hundred instructions ahead would wait for each chain of steps.
template <int N>
INLINE void exp_of_negative(VF (&x)[N]) {
  VF shifted[N], r[N], p[N];
  UNROLL for (int i = 0; i < N; ++i) shifted[i] = x[i] * 1.44269504f + 12582912.0f;
  UNROLL for (int i = 0; i < N; ++i) p[i] = shifted[i] - 12582912.0f;
  UNROLL for (int i = 0; i < N; ++i) r[i] = (x[i] - p[i] * 0.693359375f) - p[i] * -2.12194440e-4f;
  exp_of_rest(r, p);
  UNROLL for (int i = 0; i < N; ++i) {
    const VF scaled = (VF)((VI)p[i] + ((VI)shifted[i] << 23));
    x[i] = x[i] < -86.0f ? splat(0.0f) : scaled;
  }
}
// e^x for x <= 0 within 3e-6 of it, 0 below -86: what is rounded to bfloat16 anyway. x log2 e = n + r, |r| <= 1/2, and 2^r is a
// polynomial of degree 4 whose largest error is least, and which is 1 where r is 0.
INLINE VF rough_exp_of_negative(VF x) {
  const VF log2_e = splat(1.44269504f), shifted = fused(x, log2_e, splat(12582912.0f));
  const VF r = fused(x, log2_e, 12582912.0f - shifted);
  VF p = fused(r, splat(9.582818e-3f), splat(5.5906370e-2f));
  p = fused(p, r, splat(2.4024099e-1f));
  p = fused(p, r, splat(6.9312418e-1f));
  p = fused(p, r, splat(1.0f));
  const VF scaled = (VF)((VI)p + ((VI)shifted << 23));
  return x < -86.0f ? splat(0.0f) : scaled;
}
INLINE Pack exp_of_negative(Pack a) {
  exp_of_negative(a.v);
  return a;
}
INLINE Pack exp(Pack a) {
  return each([&](int i) { return exp(a.v[i]); });
}

}  // namespace
}  // namespace pintpot

// e^x in float32: the same operations on every instruction set, within 1 unit in the last place over [-87, 88].
#pragma once
#include "simd.h"

namespace pintpot {
namespace {

// e^r, |r| <= ln2 / 2, by a polynomial of degree 7 (Taylor; its remainder is below 2^-27).
INLINE VF exp_of_rest(VF r) {
  VF p = r * 1.98412698e-4f + 1.38888889e-3f;
  p = p * r + 8.33333333e-3f;
  p = p * r + 4.16666667e-2f;
  p = p * r + 1.66666667e-1f;
  p = p * r + 0.5f;
  return (p * (r * r) + r) + 1.0f;
}

// x = n ln2 + r; n ln2 is taken off in two parts, the first exact (Cody and Waite). Below -87.3 the result is 0, above 88.7
// infinity.
INLINE VF exp(VF x) {
  const VF clamped = x < -87.3f ? splat(-87.3f) : (x > 88.7f ? splat(88.7f) : x);
  const VF shifted = clamped * 1.44269504f + 12582912.0f;
  const VF n = shifted - 12582912.0f;
  const VF r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
  const VF value = exp_of_rest(r);
  // 2^n in two factors, so that n = 128 does not overflow before its time.
  const VI whole = (VI)shifted - 0x4b400000, half = whole >> 1;
  const VF scaled = value * (VF)((half + 127) << 23) * (VF)((whole - half + 127) << 23);
  const VF low = x < -87.3f ? splat(0.0f) : scaled;
  return x > 88.7f ? splat(__builtin_inff()) : low;
}
// e^x for x <= 0, with fewer steps: the same, but 0 below -86, where no second factor is needed.
INLINE VF exp_of_negative(VF x) {
  const VF clamped = x < -86.0f ? splat(-86.0f) : x;
  const VF shifted = clamped * 1.44269504f + 12582912.0f;
  const VF n = shifted - 12582912.0f;
  const VF r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
  const VF value = exp_of_rest(r);
  const VF scaled = (VF)((VI)value + ((VI)shifted << 23));
  return x < -86.0f ? splat(0.0f) : scaled;
}
INLINE Pack exp_of_negative(Pack a) {
  return each([&](int i) { return exp_of_negative(a.v[i]); });
}
INLINE Pack exp(Pack a) {
  return each([&](int i) { return exp(a.v[i]); });
}

}  // namespace
}  // namespace pintpot

// Gates: g / (1 + exp(-z)) * u, where z, which has the sign of g, is g itself or that of GELU's tanh form (kernels.h); and the same
// in fewer steps, within 2e-5, for values that are rounded to bfloat16 next.
#pragma once
#include "exp.h"

namespace pintpot {
namespace {

struct SwiGlu {
  INLINE Pack operator()(Pack gate) const { return gate; }
};
struct GeGlu {
  INLINE Pack operator()(Pack gate) const { return gate * (spread(1.59576912f) + spread(0.0713548163f) * (gate * gate)); }
};

// 1 / (1 + e), 0 <= e <= 1, within 9e-6 of it: a polynomial of degree 6, which takes 3 of the 16 cycles that a division does.
INLINE VF rough_share(VF e) {
  VF p = fused(e, splat(7.1706779e-2f), splat(-0.32268056f));
  p = fused(p, e, splat(0.66776955f));
  p = fused(p, e, splat(-0.9030575f));
  p = fused(p, e, splat(0.9854083f));
  p = fused(p, e, splat(-0.9991334f));
  return fused(p, e, splat(0.99999124f));
}
template <class Z>
INLINE Pack rough_gated(Pack gate, Pack up, Z opened) {
  const Pack z = opened(gate);
  return each([&](int j) {
    const VF e = rough_exp_of_negative((VF)((VU)z.v[j] | 0x80000000u));
    const VF share = rough_share(e) * up.v[j];
    return gate.v[j] * (gate.v[j] < 0.0f ? share * e : share);
  });
}

template <class Z>
INLINE Pack gated(Pack gate, Pack up, Z opened) {
  const Pack z = opened(gate);
  const Pack e = exp_of_negative(each([&](int j) { return (VF)((VU)z.v[j] | 0x80000000u); }));
  const Pack above = each([&](int j) { return gate.v[j] < 0.0f ? gate.v[j] * e.v[j] : gate.v[j]; });
  return above / (spread(1.0f) + e) * up;
}

}  // namespace
}  // namespace pintpot

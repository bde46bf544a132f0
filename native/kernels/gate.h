// Gates: g / (1 + exp(-z)) * u, where z, which has the sign of g, is g itself or that of GELU's tanh form (kernels.h).
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

template <class Z>
INLINE Pack gated(Pack gate, Pack up, Z opened) {
  const Pack z = opened(gate);
  const Pack e = exp_of_negative(each([&](int j) { return (VF)((VU)z.v[j] | 0x80000000u); }));
  const Pack above = each([&](int j) { return gate.v[j] < 0.0f ? gate.v[j] * e.v[j] : gate.v[j]; });
  return above / (spread(1.0f) + e) * up;
}

}  // namespace
}  // namespace pintpot

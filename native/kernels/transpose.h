// 16 sums at once, or maxima: lane j of the result is the tree (8, 4, 2, 1) over the 16 lanes of a[j].
#pragma once
#include "simd.h"

namespace pintpot {
namespace {

struct Sum {
  INLINE VF operator()(VF a, VF b) const { return a + b; }
};
struct Larger {
  INLINE VF operator()(VF a, VF b) const { return a > b ? a : b; }
};

#if defined(__AVX512F__)
#define SHUFFLE_128(a, b, imm) (VF) _mm512_shuffle_f32x4(a, b, imm)
template <class O>
INLINE Pack fold8(Pack a, Pack b, O o) {
  return {{o(SHUFFLE_128(a.v[0], b.v[0], 0x44), SHUFFLE_128(a.v[0], b.v[0], 0xee))}};
}
// [a0 a1 | b0 b1 ...] by 128 bits: a's and b's lower 4 lanes and their upper 4, in each half.
template <class O>
INLINE Pack fold4(Pack a, Pack b, O o) {
  const VF both = o(SHUFFLE_128(a.v[0], b.v[0], 0x88), SHUFFLE_128(a.v[0], b.v[0], 0xdd));
  return {{SHUFFLE_128(both, both, 0xd8)}};
}
#undef SHUFFLE_128
#elif defined(__AVX2__)
template <class O>
INLINE Pack fold8(Pack a, Pack b, O o) {
  return {{o(a.v[0], a.v[1]), o(b.v[0], b.v[1])}};
}
template <class O>
INLINE VF fold4_half(VF a, VF b, O o) {
  return o((VF)_mm256_permute2f128_ps(a, b, 0x20), (VF)_mm256_permute2f128_ps(a, b, 0x31));
}
template <class O>
INLINE Pack fold4(Pack a, Pack b, O o) {
  return {{fold4_half(a.v[0], b.v[0], o), fold4_half(a.v[1], b.v[1], o)}};
}
#else
template <class O>
INLINE Pack fold8(Pack a, Pack b, O o) {
  return {{o(a.v[0], a.v[2]), o(a.v[1], a.v[3]), o(b.v[0], b.v[2]), o(b.v[1], b.v[3])}};
}
template <class O>
INLINE Pack fold4(Pack a, Pack b, O o) {
  return {{o(a.v[0], a.v[1]), o(b.v[0], b.v[1]), o(a.v[2], a.v[3]), o(b.v[2], b.v[3])}};
}
#endif

// Within every 4 lanes: four picks out of a and b (0..3 of a, 4..7 of b).
template <int I0, int I1, int I2, int I3>
INLINE VF pick4(VF a, VF b) {
#if defined(__AVX512F__)
  return _mm512_shuffle_ps(a, b, I0 | I1 << 2 | (I2 - 4) << 4 | (I3 - 4) << 6);
#elif defined(__AVX2__)
  return _mm256_shuffle_ps(a, b, I0 | I1 << 2 | (I2 - 4) << 4 | (I3 - 4) << 6);
#else
  return VF{a[I0], a[I1], b[I2 - 4], b[I3 - 4]};
#endif
}
template <class O>
INLINE Pack fold2(Pack a, Pack b, O o) {
  return each([&](int i) { return o(pick4<0, 1, 4, 5>(a.v[i], b.v[i]), pick4<2, 3, 6, 7>(a.v[i], b.v[i])); });
}
template <class O>
INLINE Pack fold1(Pack a, Pack b, O o) {
  return each([&](int i) {
    const VF mixed = o(pick4<0, 2, 4, 6>(a.v[i], b.v[i]), pick4<1, 3, 5, 7>(a.v[i], b.v[i]));
    return pick4<0, 2, 5, 7>(mixed, mixed);
  });
}

// a[16] with the operation o.
template <class O>
INLINE Pack tree16(const Pack* a, O o) {
  const auto eight = [&](int j) { return fold8(a[j], a[j + 8], o); };
  const auto four = [&](int j) { return fold4(eight(j), eight(j + 4), o); };
  const auto two = [&](int j) { return fold2(four(j), four(j + 2), o); };
  return fold1(two(0), two(1), o);
}

}  // namespace
}  // namespace pintpot

// Rows of float32 and of bfloat16, 16 values at a time.
#pragma once
#include "learn.h"
#include "simd.h"

namespace pintpot {
namespace {

INLINE Pack load16_brain(const void* p) {
  return each([&](int i) { return (VF)(load_u16((const char*)p + i * kWidth * 2) << 16); });
}
// To nearest even. What is no number stays none.
INLINE void store16_brain(void* p, Pack a) {
  UNROLL for (int i = 0; i < kParts; ++i) {
    const VU bits = (VU)a.v[i];
    const VU rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    store_lower((char*)p + i * kWidth * 2, (VI)(a.v[i] == a.v[i] ? rounded : splat(0x7fc0u)));
  }
}

struct Floats {
  static constexpr int64_t kBytes = 4;
  static INLINE Pack get(const void* p) { return load16((const float*)p); }
  static INLINE void put(void* p, Pack a) { store16((float*)p, a); }
};
struct Brains {
  static constexpr int64_t kBytes = 2;
  static INLINE Pack get(const void* p) { return load16_brain(p); }
  static INLINE void put(void* p, Pack a) { store16_brain(p, a); }
};

// Values from `i` on, of which `left` are real; zeros beyond.
template <class T>
INLINE Pack get(const void* p, int64_t i, int64_t left) {
  const char* from = (const char*)p + i * T::kBytes;
  if (left >= 16) return T::get(from);
  alignas(64) char lanes[64] = {};
  memcpy(lanes, from, (size_t)(left * T::kBytes));
  return T::get(lanes);
}
template <class T>
INLINE void put(void* p, int64_t i, int64_t left, Pack a) {
  char* to = (char*)p + i * T::kBytes;
  if (left >= 16) return T::put(to, a);
  alignas(64) char lanes[64];
  T::put(lanes, a);
  memcpy(to, lanes, (size_t)(left * T::kBytes));
}

// f(T) with the type of some values, f(X, Y) with those of two.
template <class F>
INLINE void typed(const Values& x, F f) {
  if (x.brain) f(Brains());
  else f(Floats());
}
template <class F>
INLINE void typed(const Values& x, const Values& y, F f) {
  typed(x, [&](auto a) { typed(y, [&](auto b) { f(a, b); }); });
}

}  // namespace
}  // namespace pintpot

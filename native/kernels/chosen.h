// The int8 product where two of four values are kept: of the activations each row chooses those that its own codes meet, so that
// 16 products are made of 32 columns. The sums are those of dot.h over all columns, with the code of zero where nothing is kept.
//
// Products<F> says how a group of format F is multiplied, in kSteps steps: what a step takes of weights and of activations, and
// the Dot that gathers it. Where bytes cannot be chosen by others, 2:4 formats are multiplied as all others are.
#pragma once
#include "dot.h"
#include "group.h"

namespace pintpot {
namespace {

template <class F>
struct Products {
  using D = Dot<F::kBits, F::kZero>;
  static constexpr int kSteps = 8;
  template <int N>  // the N-th to be stepped over: two of one vector of 4 bits in a row
  static constexpr int kQuad = F::kHalves == 2 ? N : N / 2 + N % 2 * 4;
  template <int N>
  static INLINE VU weights(const uint8_t* planes, int64_t g, int part) {
    return F::template quad<kQuad<N>>(planes, g, part);
  }
  template <int N>
  static INLINE Quad activations(const int8_t* a) {
    return broadcast(a + kQuad<N> * 4);
  }
};

#if defined(__AVX2__)

typedef VI Eight;  // 8 signed bytes, in all lanes of 64 bits
#if defined(__AVX512F__)
INLINE Eight broadcast_eight(const int8_t* a) { return (VI)_mm512_set1_epi64(load<int64_t>(a)); }
INLINE VI choose(Eight a, VU places) { return (VI)_mm512_shuffle_epi8((__m512i)a, (__m512i)places); }
#else
INLINE Eight broadcast_eight(const int8_t* a) {
  VI eight;
  asm volatile("vpbroadcastq %1, %0" : "=x"(eight) : "m"(*(const int64_t*)a));
  return eight;
}
INLINE VI choose(Eight a, VU places) { return (VI)_mm256_shuffle_epi8((__m256i)a, (__m256i)places); }
#endif

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)

template <int BITS, int ZERO>
struct ChosenDot {
  static constexpr int kRegisters = 2;
  VI total, zero;
  INLINE void start(VI) { total = zero = VI{}; }
  template <int N>
  INLINE void step(const Kept& w, Eight a) {
    const VI chosen = choose(a, w.places);
    total = add_fours(total, w.codes, chosen);
    zero = add_fours(zero, splat(ZERO * 0x01010101u), chosen);
  }
  INLINE VI value(VI) const { return total - zero; }
};

#else

// |w| * (a with w's sign): four steps of up to 6 bits stay within 4 * 2 * 32 * 127.
template <int BITS, int ZERO>
struct ChosenDot {
  static constexpr int kRegisters = 1;
  __m256i sums;  // in 16 bits; of 8 bits in 32
  INLINE void start(VI) { sums = _mm256_setzero_si256(); }
  template <int N>
  INLINE void step(const Kept& w, Eight a) {
    const __m256i centred = _mm256_sub_epi8((__m256i)w.codes, _mm256_set1_epi8((char)ZERO));
    const __m256i signs = _mm256_sign_epi8((__m256i)choose(a, w.places), centred);
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(centred), signs);
    if constexpr (BITS == 8) sums = in_order(_mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))));
    else sums = N == 0 ? pairs : in_order(_mm256_add_epi16(sums, pairs));
  }
  INLINE VI value(VI) const {
    if constexpr (BITS == 8) return (VI)sums;
    else return (VI)_mm256_madd_epi16(sums, _mm256_set1_epi16(1));
  }
};

#endif

template <int BITS>
struct Products<TwoFour<BITS>> {
  using F = TwoFour<BITS>;
  using D = ChosenDot<F::kBits, F::kZero>;
  static constexpr int kSteps = 4;
  template <int N>
  static INLINE Kept weights(const uint8_t* planes, int64_t g, int part) {
    return F::template kept<N>(planes, g, part);
  }
  template <int N>
  static INLINE Eight activations(const int8_t* a) {
    return broadcast_eight(a + N * 8);
  }
};

#endif

}  // namespace
}  // namespace pintpot

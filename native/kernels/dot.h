// The int8 product: per row of a strip, unsigned weight bytes times signed activation bytes, summed exactly in int32.
//
// Dot<BITS, ZERO> gathers sum (q - ZERO) * a over up to 8 quads (4 columns each) for kWidth rows:
//   start(c):      c in all lanes, -128 times the sum of all a that will be stepped over
//   step<N>(w, a): the N-th quad since the start; w holds 4 unsigned bytes a row, a is the broadcast of 4 signed bytes
//   value(c):      the int32 result, for the same c
//   kRegisters:    how many it keeps
// and two_planes(high, low, c) is 254 times the value of one and the value of the other, whose c it is.
#pragma once
#include "simd.h"

namespace pintpot {
namespace {

// -ZERO times the sum, out of -128 times it.
template <int ZERO>
INLINE VI correction(VI c) {
  if constexpr (ZERO == 0) return VI{};
  else return c >> (7 - __builtin_ctz(ZERO));
}

template <class D>
INLINE VI two_planes(const D& high, const D& low, VI c) {
  const VI value = high.value(VI{});
  return (value << 8) - (value << 1) + low.value(c);
}

// The compiler takes p as it is, and what lies behind it at constant distances; it would keep an address for each.
INLINE void as_one_base(const int8_t*& p) { asm("" : "+r"(p)); }

#if defined(__AVX512F__)
typedef VI Quad;
INLINE Quad broadcast(const int8_t* a) { return (VI)_mm512_set1_epi32(load32(a)); }
#elif defined(__AVX2__)
typedef VI Quad;
// Volatile, so that it stays where it is: 16 registers cannot hold what the compiler would like to keep of them.
INLINE Quad broadcast(const int8_t* a) {
  VI quad;
  asm volatile("vpbroadcastd %1, %0" : "=x"(quad) : "m"(*(const int32_t*)a));
  return quad;
}
#endif

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)

// total + the four products of each lane.
#if defined(__AVX512VNNI__)
INLINE VI add_fours(VI total, VU w, Quad a) { return (VI)_mm512_dpbusd_epi32((__m512i)total, (__m512i)w, (__m512i)a); }
#else
INLINE VI add_fours(VI total, VU w, Quad a) {
  return (VI)_mm256_dpbusd_avx_epi32((__m256i)total, (__m256i)w, (__m256i)a);
}
#endif

template <int BITS, int ZERO>
struct Dot {
  static constexpr int kRegisters = 1;
  VI total;
  INLINE void start(VI c) { total = correction<ZERO>(c); }
  template <int N>
  INLINE void step(VU w, Quad a) {
    total = add_fours(total, w, a);
  }
  INLINE VI value(VI) const { return total; }
};

#elif defined(__AVX2__)

// Keeps GCC from adding in a tree, which 16 registers cannot hold either.
INLINE __m256i in_order(__m256i sum) {
  asm("" : "+x"(sum));
  return sum;
}

// vpmaddubsw adds pairs in 16 bits with saturation: how many quads fit before widening depends on the bits.
template <int BITS, int ZERO>
struct Dot {
  static constexpr int kQuads = BITS == 5 ? 4 : 2, kRegisters = 2;
  __m256i narrow, total;
  INLINE void start(VI) { narrow = total = _mm256_setzero_si256(); }
  template <int N>
  INLINE void step(VU w, Quad a) {
    const __m256i pairs = _mm256_maddubs_epi16((__m256i)w, (__m256i)a);
    narrow = N % kQuads == 0 ? pairs : in_order(_mm256_add_epi16(narrow, pairs));
    if (N % kQuads == kQuads - 1)
      total = _mm256_add_epi32(total, _mm256_madd_epi16(narrow, _mm256_set1_epi16(1)));
  }
  INLINE VI value(VI c) const { return (VI)total + correction<ZERO>(c); }
};
// Up to 4 bits all eight quads do, and what widens can multiply.
template <int ZERO>
struct Dot<4, ZERO> {
  static constexpr int kRegisters = 1;
  __m256i narrow;
  INLINE void start(VI) { narrow = _mm256_setzero_si256(); }
  template <int N>
  INLINE void step(VU w, Quad a) {
    const __m256i pairs = _mm256_maddubs_epi16((__m256i)w, (__m256i)a);
    narrow = N == 0 ? pairs : in_order(_mm256_add_epi16(narrow, pairs));
  }
  INLINE VI times(short factor) const { return (VI)_mm256_madd_epi16(narrow, _mm256_set1_epi16(factor)); }
  INLINE VI value(VI c) const { return times(1) + correction<ZERO>(c); }
};
template <int ZERO>
struct Dot<3, ZERO> : Dot<4, ZERO> {};
template <int ZERO>
struct Dot<2, ZERO> : Dot<4, ZERO> {};
template <int ZERO>
INLINE VI two_planes(const Dot<4, ZERO>& high, const Dot<4, ZERO>& low, VI c) {
  return high.times(254) + low.value(c);
}

// 8 bits: |w| * (a with w's sign), so that a pair stays within 128 * 127 * 2.
template <>
struct Dot<8, 128> {
  static constexpr int kRegisters = 1;
  __m256i total;
  INLINE void start(VI) { total = _mm256_setzero_si256(); }
  template <int N>
  INLINE void step(VU w, Quad a) {
    const __m256i centred = (__m256i)(w ^ 0x80808080u);
    const __m256i signs = _mm256_sign_epi8((__m256i)a, centred);
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(centred), signs);
    total = in_order(_mm256_add_epi32(total, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))));
  }
  INLINE VI value(VI) const { return (VI)total; }
};

#elif defined(__SSE2__)

typedef __m128i Quad;  // in 16 bits, twice
INLINE Quad broadcast(const int8_t* a) {
  const __m128i bytes = _mm_cvtsi32_si128(load32(a));
  const __m128i words = _mm_srai_epi16(_mm_unpacklo_epi8(bytes, bytes), 8);
  return _mm_unpacklo_epi64(words, words);
}

template <int BITS, int ZERO>
struct Dot {
  static constexpr int kRegisters = 2;
  __m128i low, high;  // rows 0, 1 and rows 2, 3: two halves each
  INLINE void start(VI) { low = high = _mm_setzero_si128(); }
  template <int N>
  INLINE void step(VU w, Quad a) {
    const __m128i zero = _mm_setzero_si128();
    low = _mm_add_epi32(low, _mm_madd_epi16(_mm_unpacklo_epi8((__m128i)w, zero), a));
    high = _mm_add_epi32(high, _mm_madd_epi16(_mm_unpackhi_epi8((__m128i)w, zero), a));
  }
  INLINE VI value(VI c) const {
    const __m128 even = _mm_shuffle_ps((__m128)low, (__m128)high, 0x88);
    const __m128 odd = _mm_shuffle_ps((__m128)low, (__m128)high, 0xdd);
    return (VI)even + (VI)odd + correction<ZERO>(c);
  }
};

#else

typedef VI Quad;
INLINE Quad broadcast(const int8_t* a) { return splat(load32(a)); }

template <int BITS, int ZERO>
struct Dot {
  static constexpr int kRegisters = 1;
  VI total;
  INLINE void start(VI c) { total = correction<ZERO>(c); }
  template <int N>
  INLINE void step(VU w, Quad a) {
    UNROLL for (int i = 0; i < 4; ++i) total += (VI)((w >> (8 * i)) & 255u) * (a << (24 - 8 * i) >> 24);
  }
  INLINE VI value(VI) const { return total; }
};

#endif

}  // namespace
}  // namespace pintpot

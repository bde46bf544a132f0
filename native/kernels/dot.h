// The int8 product: per row of a strip, unsigned weight bytes times signed activation bytes, summed exactly in int32.
//
// Dot<BITS, ZERO> gathers sum (q - ZERO) * a over up to 8 quads (4 columns each) for kWidth rows:
//   step<N>(w, a): the N-th quad since the start; w holds 4 unsigned bytes a row, a is the broadcast of 4 signed bytes;
//   value(sum): the int32 result; `sum` is the sum of all a stepped over.
#pragma once
#include "simd.h"

namespace pintpot {
namespace {

#if defined(__AVX512VNNI__) && defined(__AVX512F__)

typedef VI Quad;
INLINE Quad broadcast(const int8_t* a) { return (VI)_mm512_set1_epi32(load32(a)); }

template <int BITS, int ZERO>
struct Dot {
  __m512i total = _mm512_setzero_si512();
  template <int N>
  INLINE void step(VU w, Quad a) {
    total = _mm512_dpbusd_epi32(total, (__m512i)w, (__m512i)a);
  }
  INLINE VI value(int32_t sum) const {
    if constexpr (ZERO == 0) return (VI)total;
    // Shifted after the broadcast: the broadcast then comes straight from memory.
    return (VI)_mm512_sub_epi32(total, _mm512_slli_epi32(_mm512_set1_epi32(sum), __builtin_ctz(ZERO)));
  }
};

#elif defined(__AVX2__)

typedef VI Quad;
// Volatile, so that it stays where it is: 16 registers cannot hold what the compiler would like to keep of them.
INLINE Quad broadcast(const int8_t* a) {
  VI quad;
  asm volatile("vpbroadcastd %1, %0" : "=x"(quad) : "m"(*(const int32_t*)a));
  return quad;
}
// Keeps GCC from adding in a tree, for the same reason.
INLINE __m256i in_order(__m256i sum) {
  asm("" : "+x"(sum));
  return sum;
}

// vpmaddubsw adds pairs in 16 bits with saturation: how many quads fit before widening depends on the bits.
template <int BITS, int ZERO>
struct Dot {
  static constexpr int kQuads = BITS <= 4 ? 8 : BITS == 5 ? 4 : 2;
  __m256i narrow = _mm256_setzero_si256(), total = _mm256_setzero_si256();
  template <int N>
  INLINE void step(VU w, Quad a) {
    const __m256i pairs = _mm256_maddubs_epi16((__m256i)w, (__m256i)a);
    narrow = N % kQuads == 0 ? pairs : in_order(_mm256_add_epi16(narrow, pairs));
    if (N % kQuads == kQuads - 1) flush();
  }
  INLINE void flush() { total = _mm256_add_epi32(total, _mm256_madd_epi16(narrow, _mm256_set1_epi16(1))); }
  INLINE VI value(int32_t sum) const {
    if constexpr (ZERO == 0) return (VI)total;
    return (VI)_mm256_sub_epi32(total, _mm256_slli_epi32(_mm256_set1_epi32(sum), __builtin_ctz(ZERO)));
  }
};

// 8 bits: |w| * (a with w's sign), so that a pair stays within 128 * 127 * 2.
template <>
struct Dot<8, 128> {
  __m256i total = _mm256_setzero_si256();
  template <int N>
  INLINE void step(VU w, Quad a) {
    const __m256i centred = (__m256i)(w ^ 0x80808080u);
    const __m256i signs = _mm256_sign_epi8((__m256i)a, centred);
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(centred), signs);
    total = in_order(_mm256_add_epi32(total, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))));
  }
  INLINE VI value(int32_t) const { return (VI)total; }
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
  __m128i low = _mm_setzero_si128(), high = _mm_setzero_si128();  // rows 0, 1 and rows 2, 3: two halves each
  template <int N>
  INLINE void step(VU w, Quad a) {
    const __m128i zero = _mm_setzero_si128();
    low = _mm_add_epi32(low, _mm_madd_epi16(_mm_unpacklo_epi8((__m128i)w, zero), a));
    high = _mm_add_epi32(high, _mm_madd_epi16(_mm_unpackhi_epi8((__m128i)w, zero), a));
  }
  INLINE VI value(int32_t sum) const {
    const __m128 even = _mm_shuffle_ps((__m128)low, (__m128)high, 0x88);
    const __m128 odd = _mm_shuffle_ps((__m128)low, (__m128)high, 0xdd);
    return (VI)even + (VI)odd - splat(sum * ZERO);
  }
};

#else

typedef VI Quad;
INLINE Quad broadcast(const int8_t* a) { return splat(load32(a)); }

template <int BITS, int ZERO>
struct Dot {
  VI total = VI{};
  template <int N>
  INLINE void step(VU w, Quad a) {
    UNROLL for (int i = 0; i < 4; ++i) total += (VI)((w >> (8 * i)) & 255u) * (a << (24 - 8 * i) >> 24);
  }
  INLINE VI value(int32_t sum) const { return total - splat(sum * ZERO); }
};

#endif

}  // namespace
}  // namespace pintpot

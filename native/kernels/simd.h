// Vectors of the instruction set that this object is compiled for, as thin as they can be.
// VF, VI, VB: kWidth float32, int32, 4 * kWidth bytes (one register). Pack: 16 lanes as 16 / kWidth registers.
// Only what the compiler's own vector operators cannot say (f16, the int8 products in dot.h) uses intrinsics.
#pragma once
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define INLINE inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

namespace pintpot {
namespace {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif
constexpr int kParts = 16 / kWidth;  // registers for the 16 rows of a strip

typedef float VF __attribute__((vector_size(kWidth * 4)));
typedef int32_t VI __attribute__((vector_size(kWidth * 4)));
typedef uint32_t VU __attribute__((vector_size(kWidth * 4)));

template <class V>
INLINE V load(const void* from) {
  V v;
  memcpy(&v, from, sizeof v);
  return v;
}
template <class V>
INLINE void store(void* to, V v) {
  memcpy(to, &v, sizeof v);
}
INLINE int32_t load32(const void* from) { return load<int32_t>(from); }
INLINE VF splat(float x) { return x - VF{}; }  // x + 0 would be an addition: it is not x where x is -0
INLINE VI splat(int32_t x) { return VI{} + x; }
INLINE VU splat(uint32_t x) { return VU{} + x; }
INLINE VF to_float(VI v) { return __builtin_convertvector(v, VF); }
// a * b + c, rounded once.
#if defined(__AVX512F__)
INLINE VF fused(VF a, VF b, VF c) { return (VF)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
#elif defined(__AVX2__)
INLINE VF fused(VF a, VF b, VF c) { return (VF)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
#else
INLINE VF fused(VF a, VF b, VF c) {
  VF r;
  for (int i = 0; i < kWidth; ++i) r[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return r;
}
#endif

// Half precision, kWidth values, exact to float; to half rounds to nearest even.
#if defined(__AVX512F__)
INLINE VF load_f16(const void* from) { return _mm512_cvtph_ps(load<__m256i>(from)); }
INLINE void store_f16(void* to, VF v) {
  store(to, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#elif defined(__AVX2__)
INLINE VF load_f16(const void* from) { return _mm256_cvtph_ps(load<__m128i>(from)); }
INLINE void store_f16(void* to, VF v) { store(to, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT)); }
#else
typedef uint16_t VH __attribute__((vector_size(kWidth * 2)));
INLINE VF load_f16(const void* from) {
  const VU h = __builtin_convertvector(load<VH>(from), VU);
  const VU magnitude = (h & 0x7fffu) << 13;
  VU bits = (VU)((VF)magnitude * 0x1p112f);  // a power of two: exact, subnormals included
  bits = magnitude >= (0x7c00u << 13) ? (magnitude | 0x7f800000u) : bits;
  return (VF)(bits | (h & 0x8000u) << 16);
}
INLINE void store_f16(void* to, VF v) {
  const VU bits = (VU)v, sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  const VU odd = (magnitude >> 13) & 1u;
  const VU normal = (magnitude + 0xfffu + odd - (112u << 23)) >> 13;
  const VU tiny = (VU)((VF)magnitude + 0.5f) - 0x3f000000u;  // the addition rounds to units of 2^-24
  const VU large = magnitude > 0x7f800000u ? splat(0x7e00u) : splat(0x7c00u);
  VU half = magnitude < (113u << 23) ? tiny : normal;
  half = magnitude >= 0x477ff000u ? large : half;
  store(to, __builtin_convertvector(half | sign, VH));
}
#endif

// Narrow integers widened to kWidth of 32 bits, and narrowed again: to their lower half. (GCC 12 takes __builtin_convertvector apart here, lane by lane.)
#if defined(__AVX512F__)
INLINE VU load_u8(const void* p) { return (VU)_mm512_cvtepu8_epi32(load<__m128i>(p)); }
INLINE VI load_i8(const void* p) { return (VI)_mm512_cvtepi8_epi32(load<__m128i>(p)); }
INLINE VU load_u16(const void* p) { return (VU)_mm512_cvtepu16_epi32(load<__m256i>(p)); }
INLINE void store_i8(void* p, VI v) { store(p, _mm512_cvtepi32_epi8((__m512i)v)); }
INLINE void store_lower(void* p, VI v) { store(p, _mm512_cvtepi32_epi16((__m512i)v)); }
#elif defined(__AVX2__)
INLINE VU load_u8(const void* p) { return (VU)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)); }
INLINE VI load_i8(const void* p) { return (VI)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)); }
INLINE VU load_u16(const void* p) { return (VU)_mm256_cvtepu16_epi32(load<__m128i>(p)); }
INLINE void store_i8(void* p, VI v) {
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128((__m256i)v), _mm256_extracti128_si256((__m256i)v, 1));
  _mm_storel_epi64((__m128i*)p, _mm_packs_epi16(words, words));
}
INLINE void store_lower(void* p, VI v) {
  const __m256i lower = _mm256_and_si256((__m256i)v, _mm256_set1_epi32(0xffff));
  store(p, _mm_packus_epi32(_mm256_castsi256_si128(lower), _mm256_extracti128_si256(lower, 1)));
}
#else
INLINE VU load_u8(const void* from) {
  const uint8_t* p = (const uint8_t*)from;
  return VU{p[0], p[1], p[2], p[3]};
}
INLINE VI load_i8(const void* from) {
  const int8_t* p = (const int8_t*)from;
  return VI{p[0], p[1], p[2], p[3]};
}
INLINE VU load_u16(const void* from) { return __builtin_convertvector(load<VH>(from), VU); }
INLINE void store_i8(void* to, VI v) {
  for (int i = 0; i < kWidth; ++i) ((int8_t*)to)[i] = (int8_t)v[i];
}
INLINE void store_lower(void* to, VI v) {
  typedef int16_t VS __attribute__((vector_size(kWidth * 2)));
  store(to, __builtin_convertvector(v, VS));
}
#endif
// 4 bits of exponent and 3 of mantissa, exact to float; bit 7 is not looked at.
#if defined(__AVX2__)
INLINE VF load_e4m3(const void* p) {
  // As half precision 256 times too small, which also knows what lies below its normal numbers.
#if defined(__AVX512F__)
  const __m256i bytes = _mm256_cvtepu8_epi16(load<__m128i>(p));
  const __m256i halves = _mm256_slli_epi16(_mm256_and_si256(bytes, _mm256_set1_epi16(0x7f)), 7);
  return (VF)_mm512_cvtph_ps(halves) * 256.0f;
#else
  const __m128i bytes = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i*)p));
  return (VF)_mm256_cvtph_ps(_mm_slli_epi16(_mm_and_si128(bytes, _mm_set1_epi16(0x7f)), 7)) * 256.0f;
#endif
}
#else
INLINE VF load_e4m3(const void* p) { return (VF)((load_u8(p) & 0x7fu) << 20) * 0x1p120f; }
#endif

// 16 bytes, and for each byte below 16 of a vector the one it points to.
struct alignas(16) Table16 {
  uint8_t bytes[16];
};
#if defined(__AVX512F__)
INLINE VU look_up(const Table16& table, VU codes) {
  return (VU)_mm512_shuffle_epi8(_mm512_broadcast_i32x4(load<__m128i>(&table)), (__m512i)codes);
}
#elif defined(__AVX2__)
INLINE VU look_up(const Table16& table, VU codes) {
  return (VU)_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load<__m128i>(&table)), (__m256i)codes);
}
#else
typedef uint8_t Bytes16 __attribute__((vector_size(16)));
INLINE VU look_up(const Table16& table, VU codes) {
  return (VU)__builtin_shuffle(load<Bytes16>(&table), (Bytes16)codes);
}
#endif
// 32 integers from -127 to 127 as bytes, and their sums: of all, and of the first 16.
struct Sums {
  int32_t all, first_half;
};
#if defined(__AVX2__)
INLINE Sums store_bytes(void* to, const VI (&q)[32 / kWidth]) {
#if defined(__AVX512F__)
  const __m256i bytes = _mm256_set_m128i(_mm512_cvtepi32_epi8((__m512i)q[1]), _mm512_cvtepi32_epi8((__m512i)q[0]));
#else
  const __m256i low = _mm256_packs_epi32((__m256i)q[0], (__m256i)q[1]);
  const __m256i high = _mm256_packs_epi32((__m256i)q[2], (__m256i)q[3]);
  const __m256i mixed = _mm256_packs_epi16(low, high);
  const __m256i bytes = _mm256_permutevar8x32_epi32(mixed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
#endif
  store(to, bytes);
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
  const __m256i fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  const __m256i eights = _mm256_add_epi32(fours, _mm256_shuffle_epi32(fours, 0x4e));
  const __m256i halves = _mm256_add_epi32(eights, _mm256_shuffle_epi32(eights, 0xb1));
  const int32_t first = _mm_cvtsi128_si32(_mm256_castsi256_si128(halves));
  return {first + _mm_cvtsi128_si32(_mm256_extracti128_si256(halves, 1)), first};
}
#else
INLINE Sums store_bytes(void* to, const VI (&q)[32 / kWidth]) {
  VI halves[2] = {};
  for (int i = 0; i < 32 / kWidth; ++i) {
    store_i8((int8_t*)to + i * kWidth, q[i]);
    halves[i * kWidth / 16] += q[i];
  }
  int32_t sums[2] = {};
  for (int i = 0; i < 2 * kWidth; ++i) sums[i / kWidth] += halves[i / kWidth][i % kWidth];
  return {sums[0] + sums[1], sums[0]};
}
#endif
INLINE VF load_bf16(const void* from) { return (VF)(load_u16(from) << 16); }

// 16 float lanes.
struct Pack {
  VF v[kParts];
};
template <class F>
INLINE Pack each(F f) {
  Pack r;
  UNROLL for (int i = 0; i < kParts; ++i) r.v[i] = f(i);
  return r;
}
INLINE Pack operator+(Pack a, Pack b) { return each([&](int i) { return a.v[i] + b.v[i]; }); }
INLINE Pack operator-(Pack a, Pack b) { return each([&](int i) { return a.v[i] - b.v[i]; }); }
INLINE Pack operator*(Pack a, Pack b) { return each([&](int i) { return a.v[i] * b.v[i]; }); }
INLINE Pack operator/(Pack a, Pack b) { return each([&](int i) { return a.v[i] / b.v[i]; }); }
INLINE Pack max(Pack a, Pack b) { return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
INLINE Pack spread(float x) { return each([&](int) { return splat(x); }); }
INLINE Pack load16(const float* p) { return each([&](int i) { return load<VF>(p + i * kWidth); }); }
INLINE Pack load16_f16(const void* p) {
  return each([&](int i) { return load_f16(static_cast<const char*>(p) + i * kWidth * 2); });
}
INLINE Pack load16_i8(const int8_t* p) { return each([&](int i) { return to_float(load_i8(p + i * kWidth)); }); }
INLINE void store16(float* p, Pack a) {
  UNROLL for (int i = 0; i < kParts; ++i) store(p + i * kWidth, a.v[i]);
}
INLINE void store16_f16(void* p, Pack a) {
  UNROLL for (int i = 0; i < kParts; ++i) store_f16(static_cast<char*>(p) + i * kWidth * 2, a.v[i]);
}
// n < 16 values and `fill` beyond them.
INLINE Pack load16_part(const float* p, int64_t n, float fill) {
  float lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = i < n ? p[i] : fill;
  return load16(lanes);
}
INLINE void store16_part(float* p, Pack a, int64_t n) {
  float lanes[16];
  store16(lanes, a);
  for (int i = 0; i < n; ++i) p[i] = lanes[i];
}
INLINE Pack magnitude(Pack a) {
  return each([&](int i) { return (VF)((VU)a.v[i] & 0x7fffffffu); });
}
// To the nearest integer, ties to even, for |x| < 2^22: a sum with this has no fractional bits.
constexpr float kMagic = 12582912.0f;
constexpr int32_t kMagicBits = 0x4b400000;
INLINE VF nearest(VF a) { return (a + kMagic) - kMagic; }
INLINE VI nearest_int(VF a) { return (VI)(a + kMagic) - kMagicBits; }
INLINE Pack nearest(Pack a) {
  return each([&](int i) { return nearest(a.v[i]); });
}
// The tree of every reduction: lanes 8, 4, 2, 1 apart.
typedef float Four __attribute__((vector_size(16)));
typedef int32_t Lanes4 __attribute__((vector_size(16)));
template <class F>
INLINE float tree(Pack a, F combine) {
#if defined(__AVX2__)
  typedef float Eight __attribute__((vector_size(32)));
#if defined(__AVX512F__)
  const Eight eight = combine((Eight)_mm512_castps512_ps256(a.v[0]), (Eight)_mm512_extractf32x8_ps(a.v[0], 1));
#else
  const Eight eight = combine(a.v[0], a.v[1]);
#endif
  const Four x = combine((Four)_mm256_castps256_ps128(eight), (Four)_mm256_extractf128_ps(eight, 1));
#else
  const Four x = combine(combine(a.v[0], a.v[2]), combine(a.v[1], a.v[3]));
#endif
  const Four y = combine(x, __builtin_shuffle(x, Lanes4{2, 3, 2, 3}));
  return combine(y, __builtin_shuffle(y, Lanes4{1, 1, 1, 1}))[0];
}
INLINE float sum(Pack a) {
  return tree(a, [](auto x, auto y) { return x + y; });
}
INLINE float largest(Pack a) {
  return tree(a, [](auto x, auto y) { return x > y ? x : y; });
}

}  // namespace
}  // namespace pintpot

// How each packed format is read (docs/layout.md): one template for all bit planes, one for those of which two of four values
// are kept, one for codes that point into a table of 16 values, and the two superblock formats.
//
// A format struct has kBits, kZero, kHalves (2: the columns 0..15 and 16..31 of a group have scales of their own),
// kAffine, and for group g and part `part` (rows part * kWidth ...):
//   quad<Q>(planes, g, part): 4 unsigned bytes a row, columns 4Q .. 4Q + 3 of the group
//   scales(base, g, part):    d (for each half) and m as float32
//   kMany: from so many tokens on a stretch is better expanded first, where products and not unpacking decide (AVX-512)
// Every kRun blocks of kColumns have a float32 of their own before their scales (0: there is none).
#pragma once
#include "kernels.h"
#include "simd.h"

namespace pintpot {
namespace {

struct Scales {
  VF d[2];
  VF m;
};

// BITS of every byte of quad Q, of QUADS in a group, in one plane of that many bits a value, moved up by UP bits.
template <int BITS, int Q, int UP, int QUADS = 8>
INLINE VU plane_quad(const uint8_t* plane, int part) {
  constexpr int kVectors = BITS * QUADS / 8, kShift = Q / kVectors * BITS;
  constexpr uint32_t kMask = ((1u << BITS) - 1) * 0x01010101u << UP;
  const VU v = load<VU>(plane + Q % kVectors * 64 + part * kWidth * 4);
  if constexpr (BITS == 8) return v;
  if constexpr (kShift >= UP) return (v >> (kShift - UP)) & kMask;
  return (v << (UP - kShift)) & kMask;
}

// 8, 4 and 2 bits are one plane; 6 = 4 + 2, 5 = 4 + 1, 3 = 2 + 1, the low plane first.
template <int BITS, int Q, int QUADS = 8>
INLINE VU planes_quad(const uint8_t* planes, int part) {
  constexpr int kLow = BITS == 8 ? 8 : BITS >= 4 ? 4 : 2;
  const VU low = plane_quad<kLow, Q, 0, QUADS>(planes, part);
  if constexpr (BITS == kLow) return low;
  else return low | plane_quad<BITS - kLow, Q, kLow, QUADS>(planes + 8 * QUADS * kLow, part);
}

template <int BITS, bool AFFINE>
struct Group {
  static constexpr int kBits = BITS, kZero = AFFINE ? 0 : 1 << (BITS - 1), kHalves = 1;
  static constexpr bool kAffine = AFFINE, kExpanded = false;
  static constexpr int64_t kColumns = 32, kScaleBytes = AFFINE ? 64 : 32, kPlaneBytes = 64 * BITS, kRun = 0;
  static constexpr int64_t kMany = (BITS & (BITS - 1)) != 0 ? 16 : AFFINE ? 128 : 32;
  template <int Q>
  static INLINE VU quad(const uint8_t* planes, int64_t g, int part) {
    return planes_quad<BITS, Q>(planes + g * kPlaneBytes, part);
  }
  static INLINE Scales scales(const uint8_t* base, int64_t g, int part) {
    const uint8_t* at = base + g * kScaleBytes + part * kWidth * 2;
    return {{load_f16(at), VF{}}, AFFINE ? load_f16(at + 32) : VF{}};
  }
};

// Of every four columns two are kept: 16 codes a row in four quads, of which quad E has two of columns 8E .. 8E + 3 and two
// of 8E + 4 .. 8E + 7, and in as many bytes of 2 bits their places in those fours. What is not kept is the code of zero.
struct Kept {
  VU codes, places;  // places: among the eight columns
};
template <int BITS>
struct TwoFour {
  static constexpr int kBits = BITS, kZero = 1 << (BITS - 1), kHalves = 1;
  static constexpr bool kAffine = false, kExpanded = false;
  static constexpr int64_t kColumns = 32, kScaleBytes = 32, kPlaneBytes = 32 * BITS + 64, kRun = 0, kMany = 32;
  template <int E>
  static INLINE Kept kept(const uint8_t* planes, int64_t g, int part) {
    const uint8_t* at = planes + g * kPlaneBytes;
    return {planes_quad<BITS, E, 4>(at, part), plane_quad<2, E, 0, 4>(at + 32 * BITS, part) | 0x04040000u};
  }
  template <int Q>
  static INLINE VU quad(const uint8_t* planes, int64_t g, int part) {
    const Kept two = kept<Q / 2>(planes, g, part);
    const VU codes = two.codes >> (Q % 2 * 16), places = two.places >> (Q % 2 * 16);
    const VU first = (codes & 255u) - (uint32_t)kZero, second = (codes >> 8 & 255u) - (uint32_t)kZero;
    return (first << ((places & 3u) << 3)) + (second << (places >> 5 & 24u)) + kZero * 0x01010101u;
  }
  static INLINE Scales scales(const uint8_t* base, int64_t g, int part) {
    return {{load_f16(base + g * kScaleBytes + part * kWidth * 2), VF{}}, VF{}};
  }
};

// Tables of 16 signed bytes, each moved up by kZero: what a 4-bit code stands for.
struct E2M1 {  // 0, 0.5, 1, 1.5, 2, 3, 4, 6, twice as large, and with a sign
  static constexpr int kBits = 5, kZero = 16;
  static constexpr Table16 kTable = {{16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4}};
};
struct NormalFloat {  // quantiles of the normal distribution, 127 times as large and rounded
  static constexpr int kBits = 8, kZero = 128;
  static constexpr Table16 kTable = {
      {1, 40, 61, 78, 92, 105, 116, 128, 138, 148, 159, 171, 184, 199, 220, 255}};
};

// Scales of a byte.
struct Exponents {  // a power of two for 32 columns, half of it: the table is twice as large
  static constexpr int kHalves = 1;
  static constexpr int64_t kColumns = 32, kScaleBytes = 16, kRun = 0;
  static INLINE Scales scales(const uint8_t* base, int64_t g, int part) {
    return {{(VF)(load_u8(base + g * kScaleBytes + part * kWidth) << 23) * 0.5f, VF{}}, VF{}};
  }
};
struct SmallFloats {  // 4 bits of exponent and 3 of mantissa for 16 columns, times a float32 for the strip
  static constexpr int kHalves = 2;
  static constexpr int64_t kColumns = 32, kScaleBytes = 32, kRun = INT64_MAX;
  static INLINE Scales scales(const uint8_t* base, int64_t g, int part) {
    const float unit = load<float>(base);
    const uint8_t* at = base + 4 + g * kScaleBytes + part * kWidth;
    return {{load_e4m3(at) * unit, load_e4m3(at + 16) * unit}, VF{}};
  }
};
template <int64_t COLUMNS>
struct Shares {  // 0 to 255 times the float32 of 16 groups of COLUMNS columns: 256 scales
  static constexpr int kHalves = 1;
  static constexpr int64_t kColumns = COLUMNS, kScaleBytes = 16, kRun = 16;
  static INLINE Scales scales(const uint8_t* base, int64_t g, int part) {
    const int64_t group = g / (COLUMNS / 32);
    const uint8_t* run = base + group / kRun * (4 + kRun * kScaleBytes);
    const VU share = load_u8(run + 4 + group % kRun * kScaleBytes + part * kWidth);
    return {{to_float((VI)share) * load<float>(run), VF{}}, VF{}};
  }
};

template <class V, class S>
struct Table {
  static constexpr int kBits = V::kBits, kZero = V::kZero, kHalves = S::kHalves;
  static constexpr bool kAffine = false, kExpanded = false;
  static constexpr int64_t kColumns = S::kColumns, kScaleBytes = S::kScaleBytes, kPlaneBytes = 256, kRun = S::kRun;
  static constexpr int64_t kMany = S::kHalves == 1 ? 32 : 16;
  template <int Q>
  static INLINE VU quad(const uint8_t* planes, int64_t g, int part) {
    return look_up(V::kTable, planes_quad<4, Q>(planes + g * kPlaneBytes, part));
  }
  static INLINE Scales scales(const uint8_t* base, int64_t g, int part) { return S::scales(base, g, part); }
};

struct Q4K {
  static constexpr int kBits = 4, kZero = 0, kHalves = 1;
  static constexpr bool kAffine = true, kExpanded = false;
  static constexpr int64_t kColumns = 256, kScaleBytes = 256, kPlaneBytes = 256, kRun = 0, kMany = 16;
  template <int Q>
  static INLINE VU quad(const uint8_t* planes, int64_t g, int part) {
    return planes_quad<4, Q>(planes + g * kPlaneBytes, part);
  }
  static INLINE Scales scales(const uint8_t* base, int64_t g, int part) {
    const uint8_t* at = base + g / 8 * kScaleBytes;
    const uint8_t* packed = at + 64 + part * kWidth;
    const int64_t j = g % 8;
    VU scale, low;
    if (j < 4) {
      scale = load_u8(packed + 16 * j) & 63u;
      low = load_u8(packed + 16 * (j + 4)) & 63u;
    } else {
      const VU both = load_u8(packed + 16 * (j + 4));
      scale = (both & 15u) | (load_u8(packed + 16 * (j - 4)) >> 6 << 4);
      low = (both >> 4) | (load_u8(packed + 16 * j) >> 6 << 4);
    }
    const VF d = load_f16(at + part * kWidth * 2), dmin = load_f16(at + 32 + part * kWidth * 2);
    return {{d * to_float((VI)scale), VF{}}, -(dmin * to_float((VI)low))};
  }
};

struct Q6K {
  static constexpr int kBits = 6, kZero = 32, kHalves = 2;
  static constexpr bool kAffine = false, kExpanded = false;
  static constexpr int64_t kColumns = 256, kScaleBytes = 288, kPlaneBytes = 384, kRun = 0, kMany = 16;
  template <int Q>
  static INLINE VU quad(const uint8_t* planes, int64_t g, int part) {
    return planes_quad<6, Q>(planes + g * kPlaneBytes, part);
  }
  static INLINE Scales scales(const uint8_t* base, int64_t g, int part) {
    const uint8_t* at = base + g / 8 * kScaleBytes;
    const int8_t* sub = (const int8_t*)at + 32 + g % 8 * 32 + part * kWidth;
    const VF d = load_f16(at + part * kWidth * 2);
    return {{d * to_float(load_i8(sub)), d * to_float(load_i8(sub + 16))}, VF{}};
  }
};

// What many tokens read: a stretch of a strip expanded once, a byte a value, scales as float32 [half or m][16]. Codes
// are moved up to the zero of the widest format of their class (4, 6 or 8 bits), which then shares its products.
template <int BITS, bool AFFINE, int HALVES>
struct Expanded {
  static constexpr int kBits = BITS, kZero = AFFINE ? 0 : 1 << (BITS - 1), kHalves = HALVES;
  static constexpr bool kAffine = AFFINE, kExpanded = true;
  static constexpr int kVectors = kHalves + (kAffine ? 1 : 0);
  static constexpr int64_t kColumns = 32, kScaleBytes = 64 * kVectors, kPlaneBytes = 512;
  static constexpr uint32_t kFlip = 0;
  static INLINE void keep(const Scales& s, uint8_t* at) {
    store(at, s.d[0]);
    if constexpr (kVectors == 2) store(at + 64, kAffine ? s.m : s.d[1]);
  }
  template <int Q>
  static INLINE VU quad(const uint8_t* planes, int64_t g, int part) {
    return load<VU>(planes + g * kPlaneBytes + Q * 64 + part * kWidth * 4);
  }
  static INLINE Scales scales(const uint8_t* base, int64_t g, int part) {
    const uint8_t* at = base + g * kScaleBytes + part * kWidth * 4;
    return {{load<VF>(at), kHalves == 2 ? load<VF>(at + 64) : VF{}}, kAffine ? load<VF>(at + 64) : VF{}};
  }
};
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
constexpr int class_of(int) { return 8; }  // all cost the same, and the correction for 128 is there already
#else
constexpr int class_of(int bits) { return bits <= 4 ? 4 : bits <= 6 ? 6 : 8; }
#endif
template <class F>
using ExpandedOf = Expanded<class_of(F::kBits), F::kAffine, F::kHalves>;

// Calls f with 0 to N - 1 as constants: 0 to 7, one for each quad.
template <int I>
struct Index {
  static constexpr int value = I;
};
template <int N, int I = 0, class F>
INLINE void each_index(F f) {
  f(Index<I>{});
  if constexpr (I + 1 < N) each_index<N, I + 1>(f);
}
template <class F>
INLINE void each_quad(F f) {
  each_index<8>(f);
}

template <class F>
INLINE int64_t scale_bytes(int64_t k) {
  const int64_t blocks = (k + F::kColumns - 1) / F::kColumns;
  const int64_t runs = F::kRun == 0 ? 0 : (blocks - 1) / F::kRun + 1;
  return (4 * runs + blocks * F::kScaleBytes + 63) / 64 * 64;
}
template <class F>
INLINE int64_t format_strip_bytes(int64_t k) {
  const int64_t blocks = (k + F::kColumns - 1) / F::kColumns;
  return scale_bytes<F>(k) + blocks * (F::kColumns / 32) * F::kPlaneBytes;
}
// Bytes from one strip to the next.
template <class F>
INLINE int64_t strip_step(const StripsCall& c) {
  return format_strip_bytes<F>(c.k) + apart_bytes(c.num_apart);
}

}  // namespace
}  // namespace pintpot

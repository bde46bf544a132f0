// How each packed format is read (docs/layout.md): one template for all bit planes, and the two superblock formats.
//
// A format struct has kBits, kZero, kHalves (2: the columns 0..15 and 16..31 of a group have scales of their own),
// kAffine, and for group g and part `part` (rows part * kWidth ...):
//   quad<Q>(planes, g, part): 4 unsigned bytes a row, columns 4Q .. 4Q + 3 of the group
//   scales(base, g, part):    d (for each half) and m as float32
#pragma once
#include "kernels.h"
#include "simd.h"

namespace pintpot {
namespace {

struct Scales {
  VF d[2];
  VF m;
};

// BITS of every byte of quad Q in one plane of that many bits a value, moved up by UP bits.
template <int BITS, int Q, int UP>
INLINE VU plane_quad(const uint8_t* plane, int part) {
  constexpr int kVectors = BITS, kShift = Q / kVectors * BITS;
  constexpr uint32_t kMask = ((1u << BITS) - 1) * 0x01010101u << UP;
  const VU v = load<VU>(plane + Q % kVectors * 64 + part * kWidth * 4);
  if constexpr (BITS == 8) return v;
  if constexpr (kShift >= UP) return (v >> (kShift - UP)) & kMask;
  return (v << (UP - kShift)) & kMask;
}

// 8, 4 and 2 bits are one plane; 6 = 4 + 2, 5 = 4 + 1, 3 = 2 + 1, the low plane first.
template <int BITS, int Q>
INLINE VU planes_quad(const uint8_t* planes, int part) {
  constexpr int kLow = BITS == 8 ? 8 : BITS >= 4 ? 4 : 2;
  const VU low = plane_quad<kLow, Q, 0>(planes, part);
  if constexpr (BITS == kLow) return low;
  else return low | plane_quad<BITS - kLow, Q, kLow>(planes + 64 * kLow, part);
}

template <int BITS, bool AFFINE>
struct Group {
  static constexpr int kBits = BITS, kZero = AFFINE ? 0 : 1 << (BITS - 1), kHalves = 1;
  static constexpr bool kAffine = AFFINE, kExpanded = false;
  static constexpr int64_t kColumns = 32, kScaleBytes = AFFINE ? 64 : 32, kPlaneBytes = 64 * BITS;
  template <int Q>
  static INLINE VU quad(const uint8_t* planes, int64_t g, int part) {
    return planes_quad<BITS, Q>(planes + g * kPlaneBytes, part);
  }
  static INLINE Scales scales(const uint8_t* base, int64_t g, int part) {
    const uint8_t* at = base + g * kScaleBytes + part * kWidth * 2;
    return {{load_f16(at), VF{}}, AFFINE ? load_f16(at + 32) : VF{}};
  }
};

struct Q4K {
  static constexpr int kBits = 4, kZero = 0, kHalves = 1;
  static constexpr bool kAffine = true, kExpanded = false;
  static constexpr int64_t kColumns = 256, kScaleBytes = 256, kPlaneBytes = 256;
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
  static constexpr int64_t kColumns = 256, kScaleBytes = 288, kPlaneBytes = 384;
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
  template <int Q>
  static INLINE VU quad(const uint8_t* planes, int64_t g, int part) {
    return load<VU>(planes + g * kPlaneBytes + Q * 64 + part * kWidth * 4);
  }
  static INLINE Scales scales(const uint8_t* base, int64_t g, int part) {
    const uint8_t* at = base + g * kScaleBytes + part * kWidth * 4;
    return {{load<VF>(at), kHalves == 2 ? load<VF>(at + 64) : VF{}}, kAffine ? load<VF>(at + 64) : VF{}};
  }
};
#if defined(__AVX512VNNI__)
constexpr int class_of(int) { return 8; }  // all cost the same, and the correction for 128 is there already
#else
constexpr int class_of(int bits) { return bits <= 4 ? 4 : bits <= 6 ? 6 : 8; }
#endif
template <class F>
using ExpandedOf = Expanded<class_of(F::kBits), F::kAffine, F::kHalves>;

// Calls f with the Q of each quad as a constant.
template <int Q>
struct Index {
  static constexpr int value = Q;
};
template <class F>
INLINE void each_quad(F f) {
  f(Index<0>{}), f(Index<1>{}), f(Index<2>{}), f(Index<3>{});
  f(Index<4>{}), f(Index<5>{}), f(Index<6>{}), f(Index<7>{});
}

template <class F>
INLINE int64_t scale_bytes(int64_t k) {
  const int64_t blocks = (k + F::kColumns - 1) / F::kColumns;
  return (blocks * F::kScaleBytes + 63) / 64 * 64;
}
template <class F>
INLINE int64_t format_strip_bytes(int64_t k) {
  const int64_t blocks = (k + F::kColumns - 1) / F::kColumns;
  return scale_bytes<F>(k) + blocks * (F::kColumns / 32) * F::kPlaneBytes;
}

}  // namespace
}  // namespace pintpot

// Pages of keys and values (kernels.h, `CacheView`): where things lie, storing a token, widening a page.
#pragma once
#include "kernels.h"
#include "simd.h"

namespace pintpot {
namespace {

template <int32_t FORMAT>
constexpr int64_t kValueBytes = FORMAT == kCacheF32 ? 4 : FORMAT == kCacheF16 ? 2 : 1;

INLINE int64_t page_head_bytes(const CacheView& c) {
  const int64_t values = kPageTokens * c.head_dim;
  return c.format == kCacheF32 ? values * 4 : c.format == kCacheF16 ? values * 2 : values + values / 32 * 2;
}
INLINE uint8_t* page_head(const CacheView& c, const void* base, int64_t page, int64_t head) {
  return (uint8_t*)base + (page * c.kv_heads + head) * page_head_bytes(c);
}

INLINE float half_at(const uint8_t* p) {
#if defined(__F16C__)
  return _cvtsh_ss(load<uint16_t>(p));
#else
  uint16_t lanes[kWidth] = {};
  memcpy(lanes, p, 2);
  return load_f16(lanes)[0];
#endif
}

// 16 values of a page as they are stored: without their scale.
template <int32_t FORMAT>
INLINE Pack load_stored(const uint8_t* p) {
  if constexpr (FORMAT == kCacheF32) return load16((const float*)p);
  else if constexpr (FORMAT == kCacheF16) return load16_f16(p);
  else return load16_i8((const int8_t*)p);
}

// Column d of 16 keys of a page and head.
template <int32_t FORMAT>
INLINE Pack key_column(int64_t dim, const uint8_t* page, int64_t d, int64_t token) {
  const Pack value = load_stored<FORMAT>(page + (d * kPageTokens + token) * kValueBytes<FORMAT>);
  if (FORMAT != kCacheSym8c) return value;
  return value * load16_f16(page + kPageTokens * dim + (d / 32 * kPageTokens + token) * 2);
}
// 16 columns, from d on, of a value of a page and head.
template <int32_t FORMAT>
INLINE Pack value_columns(int64_t dim, const uint8_t* page, int64_t token, int64_t d) {
  const Pack value = load_stored<FORMAT>(page + (token * dim + d) * kValueBytes<FORMAT>);
  if (FORMAT != kCacheSym8c) return value;
  return value * spread(half_at(page + kPageTokens * dim + (token * dim + d) / 32 * 2));
}

// The keys of a page and head as float32 [head_dim][32 tokens]; what lies in places of no token is of no meaning.
template <int32_t FORMAT>
INLINE void widen_keys(int64_t dim, const uint8_t* page, float* to) {
  for (int64_t d = 0; d < dim; ++d)
    for (int64_t token = 0; token < kPageTokens; token += 16)
      store16(to + d * kPageTokens + token, key_column<FORMAT>(dim, page, d, token));
}
// The first n values of a page and head as float32 [n][head_dim].
template <int32_t FORMAT>
INLINE void widen_values(int64_t dim, const uint8_t* page, int64_t n, float* to) {
  const uint8_t* scales = page + kPageTokens * dim;
  for (int64_t i = 0; i < n * dim; i += 32) {
    const Pack scale = spread(FORMAT == kCacheSym8c ? half_at(scales + i / 16) : 1.0f);
    for (int64_t at = i; at < i + 32; at += 16) {
      const Pack value = load_stored<FORMAT>(page + at * kValueBytes<FORMAT>);
      store16(to + at, FORMAT == kCacheSym8c ? value * scale : value);
    }
  }
}

constexpr float kMostHalf = 65504.0f;  // f16 holds no larger one
// Values that f16 cannot hold are cut off: an infinity in a page would make no number of every sum that passes over it.
INLINE Pack within_half(Pack a) {
  return each([&](int i) {
    const VF x = a.v[i] > kMostHalf ? splat(kMostHalf) : a.v[i];
    return x < -kMostHalf ? splat(-kMostHalf) : x;
  });
}

// 32 values as int8 and a half-precision scale: s = f16(max|x| / 127), q = rint(x / s).
INLINE void round_group(const float* x, int8_t* q, uint8_t* scale) {
  const Pack a[2] = {load16(x), load16(x + 16)};
  const float wanted = largest(max(magnitude(a[0]), magnitude(a[1]))) / 127.0f;
  uint16_t lanes[kWidth];
  store_f16(lanes, splat(wanted < kMostHalf ? wanted : kMostHalf));
  memcpy(scale, lanes, 2);
  const float s = half_at(scale);
  float values[32];
  for (int h = 0; h < 2; ++h) store16(values + 16 * h, nearest(a[h] / spread(s)));
  for (int i = 0; i < 32; ++i) {
    const float v = s == 0.0f ? 0.0f : values[i];
    q[i] = (int8_t)(v > 127.0f ? 127.0f : v < -127.0f ? -127.0f : v);
  }
}

// One token's vector of one head as its page keeps it: head_dim values, and of sym8c the scale of each 32.
struct Stored {
  alignas(64) uint8_t values[kMaxHeadDim * 4];
  uint8_t scales[kMaxHeadDim / 32 * 2];
};
INLINE void round_token(const CacheView& c, const float* x, Stored& to) {
  for (int64_t i = 0; i < c.head_dim; i += 32) {
    if (c.format == kCacheSym8c) round_group(x + i, (int8_t*)to.values + i, to.scales + i / 16);
    else if (c.format == kCacheF32) memcpy(to.values + i * 4, x + i, 128);
    else
      for (int64_t at = i; at < i + 32; at += 16) store16_f16(to.values + at * 2, within_half(load16(x + at)));
  }
}

template <class T>
INLINE void scatter(const void* from, int64_t n, int64_t slot, void* to) {
  for (int64_t i = 0; i < n; ++i) ((T*)to)[i * kPageTokens + slot] = ((const T*)from)[i];
}
INLINE void store_key(const CacheView& c, uint8_t* page, int64_t slot, const float* x) {
  Stored token;
  round_token(c, x, token);
  if (c.format == kCacheF32) scatter<uint32_t>(token.values, c.head_dim, slot, page);
  if (c.format == kCacheF16) scatter<uint16_t>(token.values, c.head_dim, slot, page);
  if (c.format != kCacheSym8c) return;
  scatter<uint8_t>(token.values, c.head_dim, slot, page);
  scatter<uint16_t>(token.scales, c.head_dim / 32, slot, page + kPageTokens * c.head_dim);
}
INLINE void store_value(const CacheView& c, uint8_t* page, int64_t slot, const float* x) {
  Stored token;
  round_token(c, x, token);
  const int64_t bytes = c.head_dim * (c.format == kCacheF32 ? 4 : c.format == kCacheF16 ? 2 : 1);
  memcpy(page + slot * bytes, token.values, bytes);
  const int64_t scales = c.head_dim / 32 * 2;
  if (c.format == kCacheSym8c) memcpy(page + kPageTokens * c.head_dim + slot * scales, token.scales, scales);
}

}  // namespace
}  // namespace pintpot

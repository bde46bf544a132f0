// Pages of keys and values (kernels.h, `CacheView`).
#pragma once
#include "kernels.h"
#include "simd.h"

namespace pintpot {
namespace {

INLINE int64_t page_head_bytes(const CacheView& c) {
  const int64_t values = kPageTokens * c.head_dim;
  return c.format == kCacheF32 ? values * 4 : c.format == kCacheF16 ? values * 2 : values + values / 32 * 2;
}
INLINE uint8_t* page_head(const CacheView& c, void* base, int64_t page, int64_t head) {
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

// The first n tokens of one page and head as float32 [n][head_dim].
INLINE void widen_page(const CacheView& c, const uint8_t* page, int64_t n, float* to) {
  if (c.format == kCacheF16) {
    for (int64_t i = 0; i < n * c.head_dim; i += 16) store16(to + i, load16_f16(page + i * 2));
    return;
  }
  if (c.format == kCacheF32) {
    memcpy(to, page, n * c.head_dim * sizeof(float));
    return;
  }
  const uint8_t* scales = page + kPageTokens * c.head_dim;
  for (int64_t i = 0; i < n * c.head_dim; i += 32) {
    const Pack s = spread(half_at(scales + i / 16));
    store16(to + i, load16_i8((const int8_t*)page + i) * s);
    store16(to + i + 16, load16_i8((const int8_t*)page + i + 16) * s);
  }
}

// 32 values as int8 and a half-precision scale: s = f16(max|x| / 127), q = rint(x / s).
INLINE void store_group(const float* x, int8_t* q, uint8_t* scale) {
  const Pack a[2] = {load16(x), load16(x + 16)};
  const float wanted = largest(max(magnitude(a[0]), magnitude(a[1]))) / 127.0f;
  uint16_t lanes[kWidth];
  store_f16(lanes, splat(wanted < 65504.0f ? wanted : 65504.0f));
  memcpy(scale, lanes, 2);
  const float s = half_at(scale);
  float values[32];
  for (int h = 0; h < 2; ++h) store16(values + 16 * h, nearest(a[h] / spread(s)));
  for (int i = 0; i < 32; ++i) {
    const float v = s == 0.0f ? 0.0f : values[i];
    q[i] = (int8_t)(v > 127.0f ? 127.0f : v < -127.0f ? -127.0f : v);
  }
}

// One token's vector of one head into its slot of a page.
INLINE void store_token(const CacheView& c, uint8_t* page, int64_t slot, const float* x) {
  if (c.format == kCacheF16) {
    for (int64_t i = 0; i < c.head_dim; i += 16) store16_f16(page + (slot * c.head_dim + i) * 2, load16(x + i));
    return;
  }
  if (c.format == kCacheF32) {
    memcpy(page + slot * c.head_dim * sizeof(float), x, c.head_dim * sizeof(float));
    return;
  }
  uint8_t* scales = page + kPageTokens * c.head_dim + slot * (c.head_dim / 32) * 2;
  for (int64_t i = 0; i < c.head_dim; i += 32)
    store_group(x + i, (int8_t*)page + slot * c.head_dim + i, scales + i / 32 * 2);
}

}  // namespace
}  // namespace pintpot

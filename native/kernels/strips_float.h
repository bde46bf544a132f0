// Products in float32: float formats as they are, packed formats expanded a stretch at a time.
#pragma once
#include "group.h"

namespace pintpot {
namespace {

#if defined(__AVX512F__)
constexpr int kFloatBlock = 8;
#else
constexpr int kFloatBlock = 4;
#endif
constexpr int64_t kChunkColumns = 256;  // a tile of 16 KiB

// Columns as they lie in a strip: [column][16].
struct F32 {
  static constexpr int64_t kBytes = 4;
  static INLINE VF read(const uint8_t* p) { return load<VF>(p); }
};
struct F16 {
  static constexpr int64_t kBytes = 2;
  static INLINE VF read(const uint8_t* p) { return load_f16(p); }
};
struct BF16 {
  static constexpr int64_t kBytes = 2;
  static INLINE VF read(const uint8_t* p) { return load_bf16(p); }
};
template <class C>
INLINE int64_t columns_bytes(int64_t k) {
  return (k + 3) / 4 * 4 * 16 * C::kBytes;
}

// out (+)= T tokens times `columns` columns, in groups of 32.
struct FloatStretch {
  const uint8_t* columns;
  int64_t num_columns;
  const float* x;
  int64_t x_stride;
  float* out;
  int64_t stride, rows;
  bool fresh;
};
INLINE VF load_rows(const float* from, int64_t rows) {
  if (rows == kWidth) return load<VF>(from);
  float lanes[kWidth] = {};
  for (int64_t i = 0; i < rows; ++i) lanes[i] = from[i];
  return load<VF>(lanes);
}
INLINE void store_rows(float* to, VF v, int64_t rows) {
  if (rows == kWidth) return store(to, v);
  float lanes[kWidth];
  store(lanes, v);
  for (int64_t i = 0; i < rows; ++i) to[i] = lanes[i];
}
template <class C, int T>
__attribute__((noinline)) void dot_columns(const FloatStretch& c) {
  for (int part = 0; part < kParts; ++part) {
    const int64_t left = c.rows - part * kWidth, rows = left < kWidth ? left : kWidth;
    if (rows <= 0) return;
    float* out = c.out + part * kWidth;
    VF acc[T] = {};
    if (!c.fresh) UNROLL for (int t = 0; t < T; ++t) acc[t] = load_rows(out + t * c.stride, rows);
    for (int64_t start = 0; start < c.num_columns; start += 32) {
      const int64_t n = c.num_columns - start < 32 ? c.num_columns - start : 32;
      const uint8_t* w = c.columns + (start * 16 + part * kWidth) * C::kBytes;
      const float* x = c.x + start;
      VF group[T] = {};
      for (int64_t i = 0; i < n; ++i) {
        const VF column = C::read(w + i * 16 * C::kBytes);
        UNROLL for (int t = 0; t < T; ++t) group[t] = group[t] + column * x[t * c.x_stride + i];
      }
      UNROLL for (int t = 0; t < T; ++t) acc[t] = acc[t] + group[t];
    }
    UNROLL for (int t = 0; t < T; ++t) store_rows(out + t * c.stride, acc[t], rows);
  }
}
template <class C>
INLINE void dot_tokens_float(FloatStretch c, int64_t num_tokens) {
  for (int64_t t = 0; t < num_tokens;) {
    const int64_t left = num_tokens - t;
    const int64_t width = left >= kFloatBlock ? kFloatBlock : left >= 4 ? 4 : left >= 2 ? 2 : 1;
    if (width == kFloatBlock) dot_columns<C, kFloatBlock>(c);
    else if (width == 4) dot_columns<C, 4>(c);
    else if (width == 2) dot_columns<C, 2>(c);
    else dot_columns<C, 1>(c);
    t += width, c.x += width * c.x_stride, c.out += width * c.stride;
  }
}

// `num_groups` groups of 32 columns as float32 [column][16].
template <class F>
INLINE void expand_groups(const uint8_t* strip, int64_t k, int64_t first, int64_t num_groups, float* to) {
  const uint8_t* planes = strip + scale_bytes<F>(k);
  for (int64_t g = first; g < first + num_groups; ++g, to += 512) {
    UNROLL for (int part = 0; part < kParts; ++part) {
      const Scales s = F::scales(strip, g, part);
      each_quad([&](auto index) {
        constexpr int kQ = decltype(index)::value;
        const VU q = F::template quad<kQ>(planes, g, part);
        const VF d = s.d[F::kHalves == 2 ? kQ / 4 : 0];
        UNROLL for (int i = 0; i < 4; ++i) {
          VF w = d * to_float((VI)((q >> (8 * i)) & 255u) - F::kZero);
          if constexpr (F::kAffine) w = w + s.m;
          store(to + (kQ * 4 + i) * 16 + part * kWidth, w);
        }
      });
    }
  }
}
template <class C>
INLINE void widen_columns(const uint8_t* strip, int64_t first, int64_t columns, float* to) {
  for (int64_t i = 0; i < columns * 16; i += kWidth) store(to + i, C::read(strip + (first * 16 + i) * C::kBytes));
}

// Many tokens, or a packed format: by stretches of float32 columns. With every stretch as large a part of the next strip
// is asked for: between two strips there is so much to do that the CPU's own prefetcher loses sight of the memory.
template <class Expand>
INLINE void strips_by_tile(const StripsCall& c, int64_t bytes, Expand expand) {
  alignas(64) float tile[kChunkColumns * 16];
  const int64_t ahead = bytes * kChunkColumns / c.k + 64;
  for (int64_t i = 0; i < c.num_strips; ++i) {
    const uint8_t* strip = (const uint8_t*)c.strips + i * bytes;
    const int64_t left = c.num_rows - i * 16, rows = left < 16 ? left : 16;
    for (int64_t first = 0; first < c.k; first += kChunkColumns) {
      const int64_t n = c.k - first < kChunkColumns ? c.k - first : kChunkColumns;
      const uint8_t* next = strip + bytes + bytes * first / c.k;
      for (int64_t line = 0; line < ahead; line += 64) __builtin_prefetch(next + line);
      expand(strip, first, n, tile);
      dot_tokens_float<F32>({(const uint8_t*)tile, n, c.x + first, c.x_stride, c.out + i * 16, c.out_stride, rows,
                             first == 0},
                            c.num_tokens);
    }
  }
}
template <class C>
void strips_columns(const StripsCall& c) {
  const int64_t bytes = columns_bytes<C>(c.k);
  if (c.num_tokens > kFloatBlock && C::kBytes < 4) {
    return strips_by_tile(c, bytes, [](const uint8_t* strip, int64_t first, int64_t n, float* tile) {
      widen_columns<C>(strip, first, n, tile);
    });
  }
  for (int64_t i = 0; i < c.num_strips; ++i) {
    const uint8_t* strip = (const uint8_t*)c.strips + i * bytes;
    const int64_t left = c.num_rows - i * 16, rows = left < 16 ? left : 16;
    dot_tokens_float<C>({strip, c.k, c.x, c.x_stride, c.out + i * 16, c.out_stride, rows, true}, c.num_tokens);
  }
}
template <class F>
void strips_float(const StripsCall& c) {
  strips_by_tile(c, strip_step<F>(c), [&](const uint8_t* strip, int64_t first, int64_t n, float* tile) {
    expand_groups<F>(strip, c.k, first / 32, (n + 31) / 32, tile);
  });
}

}  // namespace
}  // namespace pintpot

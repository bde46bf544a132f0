// Activations: quantizing, norms, gates, rotations.
#include "entry.h"
#include "gate.h"
#include "panel.h"

namespace pintpot {
namespace {

// 16 values (n of them real) of x, whatever n; zero beyond.
INLINE Pack load_tail(const float* x, int64_t n) { return n >= 16 ? load16(x) : load16_part(x, n, 0.0f); }
INLINE void store_tail(float* y, Pack a, int64_t n) {
  if (n >= 16) store16(y, a);
  else store16_part(y, a, n);
}
template <class F>
INLINE void map(int64_t n, F f) {
  for (int64_t i = 0; i < n; i += 16) f(i, n - i);
}

constexpr int kVectors = 32 / kWidth;  // of a group

// The group's largest magnitude; x is filled with zeros beyond n.
INLINE float load_group(const float* x, int64_t n, VF (&values)[kVectors]) {
  const Pack first = n >= 16 ? load16(x) : load16_part(x, n, 0.0f);
  const Pack second = n >= 32 ? load16(x + 16) : load16_part(x + 16, n - 16, 0.0f);
  UNROLL for (int i = 0; i < kParts; ++i) values[i] = first.v[i], values[kParts + i] = second.v[i];
  return largest(max(magnitude(first), magnitude(second)));
}

template <int PLANES>
INLINE void quantize_group(const float* x, int64_t n, uint8_t* record, int64_t width, int64_t t) {
  using P = PanelOf<PLANES>;
  VF ratio[kVectors];
  const float peak = load_group(x, n, ratio);
  const float s = peak < 1e-30f ? 0.0f : peak / 127.0f, inverse = peak < 1e-30f ? 0.0f : 127.0f / peak;
  UNROLL for (int i = 0; i < kVectors; ++i) ratio[i] = ratio[i] * inverse;
  int32_t all = 0, first_half = 0;
  for (int p = 0; p < PLANES; ++p) {
    VI q[kVectors];
    UNROLL for (int i = 0; i < kVectors; ++i) q[i] = nearest_int(ratio[i]);
    const Sums sums = store_bytes(record + p * width * 32 + t * 32, q);
    all = all * 254 + sums.all;
    first_half = first_half * 254 + sums.first_half;
    if (p + 1 < PLANES)
      UNROLL for (int i = 0; i < kVectors; ++i) ratio[i] = (ratio[i] - nearest(ratio[i])) * 254.0f;
  }
  const float unit = PLANES == 2 ? s * (1.0f / 254.0f) : s;
  ((float*)(record + width * P::kScale))[t] = unit;
  ((float*)(record + width * P::kOffset))[t] = unit * (float)all;
  int32_t* to = (int32_t*)(record + width * P::kCorrection) + t;
  to[0] = -128 * all;
  to[width] = -128 * first_half;
}

template <int PLANES>
void quantize_tokens(const float* x, int64_t x_stride, int64_t k, int64_t num_tokens, int64_t first, int64_t last,
                     uint8_t* out) {
  const int64_t groups = (k + 31) / 32, group_bytes = PanelOf<PLANES>::kTokenBytes;
  for (int64_t start = 0, width = 0; start < last; start += width) {
    width = panel_width(num_tokens - start);
    uint8_t* panel = out + start * groups * group_bytes;
    for (int64_t t = start < first ? first : start; t < start + width && t < last; ++t)
      for (int64_t g = 0; g < groups; ++g)
        quantize_group<PLANES>(x + t * x_stride + g * 32, k - g * 32, panel + g * width * group_bytes, width,
                               t - start);
  }
}

void brain_tokens(const float* x, int64_t x_stride, int64_t k, int64_t num_tokens, int64_t first, int64_t last, uint8_t* out) {
  const int64_t groups = (k + 31) / 32;
  for (int64_t t = first; t < last; ++t) {
    const int64_t start = t / kPanelTokens * kPanelTokens, left = num_tokens - start;
    const int64_t width = left < kPanelTokens ? left : kPanelTokens;
    for (int64_t g = 0; g < groups; ++g) {
      VF values[kVectors];
      load_group(x + t * x_stride + g * 32, k - g * 32, values);
      uint8_t* to = out + start * groups * 64 + (g * width + t - start) * 64;
      UNROLL for (int i = 0; i < kVectors; ++i) store_lower(to + i * kWidth * 2, (VI)(brain_bits(values[i]) >> 16));
    }
  }
}

// Sums and differences of lanes DISTANCE apart.
template <int DISTANCE>
INLINE Pack butterfly(Pack a) {
  if constexpr (DISTANCE < kWidth) {
    VI mate = {};
    VU sign = {};
    for (int i = 0; i < kWidth; ++i) mate[i] = i ^ DISTANCE, sign[i] = i & DISTANCE ? 0x80000000u : 0u;
    return each([&](int j) { return __builtin_shuffle(a.v[j], mate) + (VF)((VU)a.v[j] ^ sign); });
  } else {
    constexpr int kApart = DISTANCE / kWidth;
    return each([&](int j) { return j & kApart ? a.v[j - kApart] - a.v[j] : a.v[j] + a.v[j + kApart]; });
  }
}
// All of them inside blocks of `size` lanes.
INLINE Pack butterflies(Pack a, int64_t size) {
  a = butterfly<1>(a);
  if (size > 2) a = butterfly<2>(a);
  if (size > 4) a = butterfly<4>(a);
  if (size > 8) a = butterfly<8>(a);
  return a;
}
// 16 * PACKS values, in registers.
template <int PACKS>
INLINE void rotate_block(float* x, float factor) {
  Pack a[PACKS];
  UNROLL for (int i = 0; i < PACKS; ++i) a[i] = butterflies(load16(x + 16 * i), 16);
  UNROLL for (int apart = 1; apart < PACKS; apart *= 2)
    UNROLL for (int i = 0; i < PACKS; ++i)
      if (!(i & apart)) {
        const Pack first = a[i];
        a[i] = first + a[i + apart];
        a[i + apart] = first - a[i + apart];
      }
  UNROLL for (int i = 0; i < PACKS; ++i) store16(x + 16 * i, a[i] * spread(factor));
}
INLINE void rotate_long(float* x, int64_t size, float factor) {
  for (int64_t i = 0; i < size; i += 64) rotate_block<4>(x + i, 1.0f);
  for (int64_t apart = 64; apart < size; apart *= 2) {
    const Pack last = spread(2 * apart == size ? factor : 1.0f);
    for (int64_t i = 0; i < size; i += 16) {
      if (i & apart) continue;
      const Pack first = load16(x + i), second = load16(x + i + apart);
      store16(x + i, (first + second) * last);
      store16(x + i + apart, (first - second) * last);
    }
  }
}

template <class Z>
INLINE void gate_row(const float* gate_up, int64_t n, float* y, Z opened) {
  map(n, [&](int64_t i, int64_t left) {
    store_tail(y + i, gated(load_tail(gate_up + i, left), load_tail(gate_up + n + i, left), opened), left);
  });
}

}  // namespace

void quantize(const float* x, int64_t x_stride, int64_t k, int32_t planes, int64_t num_tokens, int64_t first,
              int64_t last, void* out) {
  if (planes == kBrainRows) brain_tokens(x, x_stride, k, num_tokens, first, last, (uint8_t*)out);
  else if (planes == 2) quantize_tokens<2>(x, x_stride, k, num_tokens, first, last, (uint8_t*)out);
  else quantize_tokens<1>(x, x_stride, k, num_tokens, first, last, (uint8_t*)out);
}

void rmsnorm(const float* x, const float* w, int64_t n, float eps, float* y) {
  Pack squares = spread(0.0f);
  map(n, [&](int64_t i, int64_t left) {
    const Pack a = load_tail(x + i, left);
    squares = squares + a * a;
  });
  const float inverse = 1.0f / __builtin_sqrtf(sum(squares) / (float)n + eps);
  map(n, [&](int64_t i, int64_t left) {
    store_tail(y + i, load_tail(x + i, left) * spread(inverse) * load_tail(w + i, left), left);
  });
}

void rough_gate(int32_t kind, const float* gate_up, int64_t n, float* y) {
  const auto rows = [&](auto opened) {
    map(n, [&](int64_t i, int64_t left) {
      store_tail(y + i, rough_gated(load_tail(gate_up + i, left), load_tail(gate_up + n + i, left), opened), left);
    });
  };
  if (kind == kSwiGlu) rows(SwiGlu());
  else rows(GeGlu());
}

void swiglu(const float* gate_up, int64_t n, float* y) {
  gate_row(gate_up, n, y, SwiGlu());
}

void geglu(const float* gate_up, int64_t n, float* y) {
  gate_row(gate_up, n, y, GeGlu());
}

void rotate(float* x, int64_t n, int64_t size) {
  const float factor = (float)__builtin_sqrt(1.0 / (double)size);
  if (size <= 16) {
    map(n, [&](int64_t i, int64_t left) {
      store_tail(x + i, butterflies(load_tail(x + i, left), size) * spread(factor), left);
    });
    return;
  }
  for (int64_t i = 0; i < n; i += size) {
    if (size == 32) rotate_block<2>(x + i, factor);
    else if (size == 64) rotate_block<4>(x + i, factor);
    else rotate_long(x + i, size, factor);
  }
}

void add(const float* x, int64_t n, float* y) {
  map(n, [&](int64_t i, int64_t left) { store_tail(y + i, load_tail(y + i, left) + load_tail(x + i, left), left); });
}

void scale(const float* x, int64_t n, float factor, float* y) {
  map(n, [&](int64_t i, int64_t left) { store_tail(y + i, load_tail(x + i, left) * spread(factor), left); });
}

}  // namespace pintpot

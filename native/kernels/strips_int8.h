// Products of packed weights and int8 activations, for one format F: see `StripsCall` for the order of every sum.
#pragma once
#include "dot.h"
#include "group.h"
#include "panel.h"

namespace pintpot {
namespace {

#if defined(__AVX512F__)
constexpr int kBlock = 8;  // tokens whose sums stay in registers
#elif defined(__AVX2__)
constexpr int kBlock = 4;
#else
constexpr int kBlock = 2;
#endif
constexpr int64_t kAhead = 2048;      // bytes
constexpr int64_t kChunkGroups = 32;  // expanded at a time: 16 KiB of bytes stay in the first cache

// For a single token the memory decides: the strip's lines are asked for ahead of their use, in the order of addresses
// (its scales come first, so that much further ahead), at the pace of the groups.
template <class F>
INLINE void ask_ahead(const uint8_t* planes, int64_t g) {
  constexpr int64_t kBytes = F::kPlaneBytes + F::kScaleBytes / (F::kColumns / 32);
  const uint8_t* at = planes + kAhead + g * kBytes;
  UNROLL for (int64_t i = 0; i < (kBytes + 63) / 64; ++i) __builtin_prefetch(at + 64 * i);
}

// T tokens from `first` of a panel of WIDTH, groups [0, num_groups) added onto acc.
template <class F, int WIDTH, int T, int PLANES>
INLINE void dot_tokens(const uint8_t* scales, const uint8_t* planes, int64_t first_group, int64_t num_groups,
                       const uint8_t* panel, int first, VF (&acc)[T][kParts]) {
  using P = PanelOf<PLANES>;
  using D = Dot<F::kBits, F::kZero>;
  for (int64_t g = first_group; g < first_group + num_groups; ++g, panel += WIDTH * P::kTokenBytes) {
    if constexpr (WIDTH == 1) ask_ahead<F>(planes, g);
    const int8_t* q = (const int8_t*)panel + first * 32;
    const float* s = (const float*)(panel + WIDTH * P::kScale) + first;
    const float* o = (const float*)(panel + WIDTH * P::kOffset) + first;
    const int32_t* sums = (const int32_t*)(panel + WIDTH * P::kSums) + first;
    UNROLL for (int part = 0; part < kParts; ++part) {
      D dots[T][PLANES][F::kHalves];
      each_quad([&](auto index) {
        constexpr int kQ = decltype(index)::value, kHalf = F::kHalves == 2 ? kQ / 4 : 0;
        const VU w = F::template quad<kQ>(planes, g, part);
        UNROLL for (int t = 0; t < T; ++t)
          UNROLL for (int p = 0; p < PLANES; ++p)
            dots[t][p][kHalf].template step<kQ>(w, broadcast(q + p * WIDTH * 32 + t * 32 + kQ * 4));
      });
      const Scales w = F::scales(scales, g, part);
      UNROLL for (int t = 0; t < T; ++t) {
        VF n[F::kHalves];
        UNROLL for (int h = 0; h < F::kHalves; ++h) {
          UNROLL for (int p = 0; p < PLANES; ++p) {
            const int32_t* all = sums + p * 2 * WIDTH + t;
            const int32_t sum = F::kHalves == 1 ? all[0] : h == 0 ? all[WIDTH] : all[0] - all[WIDTH];
            const VF value = to_float(dots[t][p][h].value(sum));
            n[h] = p == 0 ? value : n[h] + value * (1.0f / 254.0f);
          }
        }
        const VF scaled = F::kHalves == 1 ? n[0] * w.d[0] : n[0] * w.d[0] + n[F::kHalves - 1] * w.d[1];
        VF total = acc[t][part] + scaled * s[t];
        if constexpr (F::kAffine) total = total + w.m * o[t];
        acc[t][part] = total;
      }
    }
  }
}

template <int T>
INLINE void load_out(const float* out, int64_t stride, int64_t rows, VF (&acc)[T][kParts]) {
  UNROLL for (int t = 0; t < T; ++t) {
    const Pack a = rows == 16 ? load16(out + t * stride) : load16_part(out + t * stride, rows, 0.0f);
    UNROLL for (int i = 0; i < kParts; ++i) acc[t][i] = a.v[i];
  }
}
template <int T>
INLINE void store_out(float* out, int64_t stride, int64_t rows, const VF (&acc)[T][kParts]) {
  UNROLL for (int t = 0; t < T; ++t) {
    const Pack a = each([&](int i) { return acc[t][i]; });
    if (rows == 16) store16(out + t * stride, a);
    else store16_part(out + t * stride, a, rows);
  }
}

// A stretch of groups of one strip times one panel; out holds the sums of the groups before where first_group > 0.
struct Stretch {
  const uint8_t* scales;
  const uint8_t* planes;
  int64_t first_group, num_groups;
  const uint8_t* panel;  // its record of the first group
  float* out;
  int64_t stride, rows;
  bool fresh;
};
template <class F, int WIDTH, int PLANES>
__attribute__((noinline)) void dot_panel(const Stretch& c) {
  constexpr int T = WIDTH < kBlock ? WIDTH : kBlock;
  for (int first = 0; first < WIDTH; first += T) {
    VF acc[T][kParts] = {};
    float* out = c.out + first * c.stride;
    if (!c.fresh) load_out<T>(out, c.stride, c.rows, acc);
    dot_tokens<F, WIDTH, T, PLANES>(c.scales, c.planes, c.first_group, c.num_groups, c.panel, first, acc);
    store_out<T>(out, c.stride, c.rows, acc);
  }
}
template <class F, int PLANES>
INLINE void dot_any(int64_t width, const Stretch& c) {
  if (width == 8) dot_panel<F, 8, PLANES>(c);
  else if (width == 4) dot_panel<F, 4, PLANES>(c);
  else if (width == 2) dot_panel<F, 2, PLANES>(c);
  else dot_panel<F, 1, PLANES>(c);
}

template <class F>
INLINE void expand_stretch(const uint8_t* scales, const uint8_t* planes, int64_t first_group, int64_t num_groups,
                           uint8_t* to_scales, uint8_t* to_planes) {
  using E = Expanded<F>;
  for (int64_t i = 0; i < num_groups; ++i) {
    UNROLL for (int part = 0; part < kParts; ++part) {
      each_quad([&](auto index) {
        constexpr int kQ = decltype(index)::value;
        store(to_planes + i * 512 + kQ * 64 + part * kWidth * 4, F::template quad<kQ>(planes, first_group + i, part));
      });
      const Scales s = F::scales(scales, first_group + i, part);
      uint8_t* at = to_scales + i * E::kScaleBytes + part * kWidth * 4;
      store(at, s.d[0]);
      if constexpr (E::kVectors == 2) store(at + 64, F::kAffine ? s.m : s.d[1]);
    }
  }
}

template <class F, int PLANES>
INLINE void strips_plain(const StripsCall& c, const uint8_t* strip, float* out, int64_t rows, int64_t groups) {
  const int64_t token_bytes = groups * PanelOf<PLANES>::kTokenBytes;
  for (int64_t t = 0, width = 0; t < c.num_tokens; t += width) {
    width = panel_width(c.num_tokens - t);
    dot_any<F, PLANES>(width, {strip, strip + scale_bytes<F>(c.k), 0, groups,
                               (const uint8_t*)c.quantized + t * token_bytes, out + t * c.out_stride, c.out_stride,
                               rows, true});
  }
}
template <class F, int PLANES>
INLINE void strips_expanded(const StripsCall& c, const uint8_t* strip, float* out, int64_t rows, int64_t groups) {
  alignas(64) uint8_t planes[kChunkGroups * 512];
  alignas(64) uint8_t scales[kChunkGroups * Expanded<F>::kScaleBytes];
  const int64_t group_bytes = PanelOf<PLANES>::kTokenBytes, token_bytes = groups * group_bytes;
  for (int64_t g = 0; g < groups; g += kChunkGroups) {
    const int64_t n = groups - g < kChunkGroups ? groups - g : kChunkGroups;
    expand_stretch<F>(strip, strip + scale_bytes<F>(c.k), g, n, scales, planes);
    for (int64_t t = 0, width = 0; t < c.num_tokens; t += width) {
      width = panel_width(c.num_tokens - t);
      const uint8_t* panel = (const uint8_t*)c.quantized + t * token_bytes + g * width * group_bytes;
      dot_any<Expanded<F>, PLANES>(
          width, {scales, planes, 0, n, panel, out + t * c.out_stride, c.out_stride, rows, g == 0});
    }
  }
}
template <class F, int PLANES>
void strips_planes(const StripsCall& c) {
  const int64_t groups = (c.k + 31) / 32, bytes = format_strip_bytes<F>(c.k);
  for (int64_t i = 0; i < c.num_strips; ++i) {
    const uint8_t* strip = (const uint8_t*)c.strips + i * bytes;
    const int64_t left = c.num_rows - i * 16, rows = left < 16 ? left : 16;
    if (rows <= 0) return;
    if (c.num_tokens >= 2 * kPanelTokens) strips_expanded<F, PLANES>(c, strip, c.out + i * 16, rows, groups);
    else strips_plain<F, PLANES>(c, strip, c.out + i * 16, rows, groups);
  }
}
template <class F>
void strips_int8(const StripsCall& c) {
  if (c.planes == 2) strips_planes<F, 2>(c);
  else strips_planes<F, 1>(c);
}

}  // namespace
}  // namespace pintpot

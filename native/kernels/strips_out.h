// What products of many tokens have in common: sums on their way to memory and back, and strips that are asked for ahead.
#pragma once
#include "group.h"

namespace pintpot {
namespace {

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

// Strips that are asked for during the products of those before them: two lines of each for each group, until all are.
struct Ahead {
  const uint8_t* at;
  const uint8_t* stop;
  int64_t apart;  // bytes from strip to strip
};
template <int S>
INLINE void ask_for_next(Ahead& ahead) {
  if (ahead.at >= ahead.stop) return;
  UNROLL for (int i = 0; i < S; ++i)
    UNROLL for (int line = 0; line < 2; ++line) __builtin_prefetch(ahead.at + i * ahead.apart + line * 64, 0, 2);
  ahead.at += 128;
}

template <class F>
INLINE void ask_for_scales(const uint8_t* strip, int64_t first, int64_t n) {
  constexpr int64_t kGroups = F::kColumns / 32;
  const int64_t begin = first / kGroups * F::kScaleBytes, end = (first + n) / kGroups * F::kScaleBytes;
  for (int64_t i = begin; i < end; i += 64) __builtin_prefetch(strip + i, 0, 2);
}
// Groups [first, first + n) of the S strips from `index` on: their scales now, their planes as the work goes on.
template <class F, int S>
INLINE Ahead ask_for_strips(const StripsCall& c, int64_t index, int64_t first, int64_t n) {
  const int64_t bytes = strip_step<F>(c);
  const uint8_t* strip = (const uint8_t*)c.strips + index * bytes;
  for (int i = 0; i < S; ++i) ask_for_scales<F>(strip + i * bytes, first, n);
  const uint8_t* planes = strip + scale_bytes<F>(c.k) + first * F::kPlaneBytes;
  return {planes, planes + n * F::kPlaneBytes, bytes};
}

// Groups of a strip as E keeps them: codes moved up to its zero, a byte a value, and scales.
template <class F, class E>
INLINE void expand_stretch(const uint8_t* scales, const uint8_t* planes, int64_t first_group, int64_t num_groups,
                           uint8_t* to_scales, uint8_t* to_planes) {
  for (int64_t i = 0; i < num_groups; ++i) {
    UNROLL for (int part = 0; part < kParts; ++part) {
      each_quad([&](auto index) {
        constexpr int kQ = decltype(index)::value;
        constexpr uint32_t kUp = (uint32_t)(E::kZero - F::kZero) * 0x01010101u;
        store(to_planes + i * 512 + kQ * 64 + part * kWidth * 4,
              (F::template quad<kQ>(planes, first_group + i, part) + kUp) ^ E::kFlip);
      });
      E::keep(F::scales(scales, first_group + i, part), to_scales + i * E::kScaleBytes + part * kWidth * 4);
    }
  }
}

// A stretch of groups of S strips times one panel; out holds the sums of the groups before unless it is fresh.
struct Stretch {
  const uint8_t* scales;
  const uint8_t* planes;
  int64_t apart[2];
  int64_t num_groups;
  const uint8_t* panel;  // its record of the first group
  int64_t next_panel;    // bytes to the panel that comes after it
  Ahead* ahead;
  float* out;
  int64_t stride, rows;  // rows of the last strip
  bool fresh;
};

}  // namespace
}  // namespace pintpot

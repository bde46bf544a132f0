// Products of attention that learns, and how rows come to lie for them.
//
// A product takes rows as panels, [group of 32 columns][16 rows][32], and what they meet as strips, [group][16 pairs of rows][16
// columns][2]: pairs of rows of something are strips without being transposed, so sums over queries give transposed sums.
#pragma once
#include "brain_tiles.h"
#include "learn_values.h"

namespace pintpot {
namespace {

constexpr int64_t kBlock = 64;  // queries
constexpr int64_t kRecord = kBrainRecord;

INLINE int64_t padded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Sizes of one call, and its buffers in `scratch`: those of the way back, some of which the way forward leaves alone.
struct Rooms {
  const AttentionCall& c;
  int64_t columns, keys;  // of a head, of a sequence: whole groups
  int64_t total = 0;
  uint8_t* base;
  uint8_t *by_key, *by_value, *key_pairs, *value_pairs, *queries, *grads, *queries_across, *grads_across, *shares, *share_pairs;
  float *scores, *pulled, *made, *sums_of_k, *sums_of_v;

  Rooms(const AttentionCall& call, void* scratch)
      : c(call), columns(padded(c.head_dim, kGroup)), keys(padded(padded(c.length, kBlock), kGroup)), base((uint8_t*)scratch) {
    const int64_t all = keys * columns * 2, block = kBlock * columns * 2, wide = kBlock * keys;
    by_key = take(all), by_value = take(all), key_pairs = take(all), value_pairs = take(all);
    queries = take(block), grads = take(block), queries_across = take(block), grads_across = take(block);
    shares = take(wide * 2), share_pairs = take(wide * 2);
    scores = (float*)take(wide * 4), pulled = (float*)take(wide * 4), made = (float*)take(block * 2);
    sums_of_k = (float*)take(all * 2), sums_of_v = (float*)take(all * 2);
  }
  uint8_t* take(int64_t bytes) {
    uint8_t* at = base + total;
    total += padded(bytes, 64);
    return at;
  }
};

// Panels times strips: sums [16 panels][16 strips], an even number of both, over `groups` groups.
struct Product {
  const uint8_t* panels;
  int64_t next_panel;  // bytes
  const uint8_t* strips;
  int64_t next_strip;  // bytes
  int64_t groups;
  float* out;
  int64_t stride;
  bool fresh;
};

void multiply(const Product& p, int64_t panels, int64_t strips) {
  Unpacking nothing = {};
  nothing.due = INT64_MAX;
  for (int64_t strip = 0; strip < strips; strip += 2)
    for (int64_t panel = 0; panel < panels; panel += 2)
      multiply_brain<2, 2>({p.strips + strip * p.next_strip, p.next_strip, p.panels + panel * p.next_panel, p.next_panel, p.groups,
                            p.out + panel * 16 * p.stride + strip * 16, p.stride, p.fresh, &nothing});
}

// One head's values of a token as floats, zeros beyond.
INLINE void read_row(const void* from, int64_t row, int64_t width, int64_t head, int64_t n, float* to) {
  const int64_t first = row * width + head * n;
  for (int64_t i = 0; i < padded(n, kGroup); i += 16)
    store16(to + i, i < n ? get<Brains>(from, first + i, n - i) : spread(0.0f));
}
INLINE void write_row(const float* from, int64_t row, int64_t width, int64_t head, int64_t n, void* to) {
  for (int64_t i = 0; i < n; i += 16) put<Brains>(to, row * width + head * n + i, n - i, load16(from + i));
}

// Pairs turned, or turned back, and scaled.
INLINE void turn(const AttentionCall& c, int64_t sequence, int64_t at, bool back, float scale, float* x) {
  const int64_t half = c.rope_dim / 2, step = c.interleaved ? 2 : 1, mate = c.interleaved ? 1 : half;
  const float* cosine = c.angles + (sequence * c.length + at) * c.rope_dim;
  const float *sine = cosine + half, sign = back ? -1.0f : 1.0f;
  for (int64_t i = 0; i < half; ++i) {
    const float a = x[i * step], b = x[i * step + mate], s = sine[i] * sign;
    x[i * step] = a * cosine[i] - b * s;
    x[i * step + mate] = b * cosine[i] + a * s;
  }
  if (scale != 1.0f)
    for (int64_t i = 0; i < c.head_dim; i += 16) store16(x + i, load16(x + i) * spread(scale));
}

// A row's place in panels of `groups` groups, and what two rows make of a strip.
INLINE void put_row(const float* x, int64_t n, int64_t row, int64_t groups, uint8_t* panels) {
  uint8_t* to = panels + row / 16 * groups * kRecord + row % 16 * 64;
  for (int64_t i = 0; i < n; i += 16) put_pack(load16(x + i), to + i / kGroup * kRecord + i % kGroup * 2);
}
INLINE void put_pair(const float* one, const float* other, int64_t n, int64_t row, int64_t groups, uint8_t* strips) {
  uint8_t* to = strips + row / kGroup * kRecord + row % kGroup / 2 * 64;
  for (int64_t i = 0; i < n; i += kWidth)
    store(to + i / 16 * groups * kRecord + i % 16 * 4, brain_pair(load<VF>(one + i), load<VF>(other + i)));
}
// A row as one column of panels, and of strips.
INLINE void put_across(const float* x, int64_t n, int64_t row, int64_t groups, uint8_t* panels) {
  uint8_t* to = panels + row / kGroup * kRecord + row % kGroup * 2;
  for (int64_t i = 0; i < n; ++i) {
    const uint16_t value = (uint16_t)(((uint32_t)load32(x + i) + 0x8000u) >> 16);
    memcpy(to + i / 16 * groups * kRecord + i % 16 * 64, &value, 2);
  }
}
INLINE void put_column(const float* x, int64_t n, int64_t row, uint8_t* strips) {
  uint8_t* to = strips + row / 16 * (n / kGroup) * kRecord + row % 16 * 4;
  for (int64_t i = 0; i < n; i += 2) {
    const uint32_t a = (uint32_t)load32(x + i) + 0x8000u, b = (uint32_t)load32(x + i + 1) + 0x8000u, pair = a >> 16 | (b & 0xffff0000u);
    memcpy(to + i / kGroup * kRecord + i % kGroup / 2 * 64, &pair, 4);
  }
}

}  // namespace
}  // namespace pintpot

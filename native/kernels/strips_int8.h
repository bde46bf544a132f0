// Products of packed weights and int8 activations, for one format F: see `StripsCall` for the order of every sum.
#pragma once
#include "chosen.h"
#include "panel.h"
#include "strips_out.h"
#if defined(__AMX_INT8__)
#include "strips_amx.h"
#endif

namespace pintpot {
namespace {

// How many strips share a broadcast activation, and for how many tokens their sums stay in registers: DOTS integer sums
// (planes times halves) and one of float32 each, beside a vector of weights for each strip.
#if defined(__AVX512F__)
constexpr int strips_at_once(int dots) { return dots == 1 ? 3 : dots == 2 ? 2 : 1; }
constexpr int tokens_at_once(int strips) { return strips == 1 ? 8 : 4; }
constexpr int64_t kChunkGroups = 54;  // of all strips, expanded at a time: their bytes stay in the first cache
#if defined(__AMX_INT8__)
constexpr int expanded_at_once(int) { return 2; }
template <class F>
constexpr int64_t kManyTokens = F::kAffine ? 2 * kPanelTokens : kPanelTokens;  // one panel pays no expansion with minima
#else
constexpr int expanded_at_once(int dots) { return strips_at_once(dots); }
template <class F>
constexpr int64_t kManyTokens = F::kMany;
#endif
#else
constexpr int strips_at_once(int) { return 1; }
constexpr int expanded_at_once(int) { return 1; }
constexpr int tokens_at_once(int) { return kParts == 2 ? 4 : 2; }
constexpr int64_t kChunkGroups = 32;
template <class F>
constexpr int64_t kManyTokens = kPanelTokens;
#endif
// How many parts of a strip share a broadcast activation, as far as registers go.
template <class D>
constexpr int parts_at_once(int dots) {
  return kParts == 2 && dots * D::kRegisters <= 2 ? 2 : 1;
}
// Integer sums of a token and strip.
template <class F, int PLANES>
constexpr int kDots = PLANES * F::kHalves * (kParts == 1 ? Products<F>::D::kRegisters : 1);
constexpr int64_t kAhead = 4096;  // bytes

// For few tokens the memory decides: S strips' lines are asked for ahead of their use, in the order of addresses (scales
// come first, so that much further ahead), at the pace of the groups; behind a strip's end it is the strip S further on.
template <class F, int S>
INLINE void ask_ahead(const uint8_t* planes, int64_t g, int64_t num_groups, int64_t apart) {
  constexpr int64_t kBytes = F::kPlaneBytes + F::kScaleBytes / (F::kColumns / 32);
  const int64_t turn = num_groups * F::kPlaneBytes - kAhead;
  const uint8_t* at = planes + kAhead + g * kBytes + (g * kBytes < turn ? 0 : (S - 1) * apart);
  UNROLL for (int i = 0; i < S; ++i)
    UNROLL for (int64_t line = 0; line < (kBytes + 63) / 64; ++line) __builtin_prefetch(at + i * apart + 64 * line);
}

// The correction (panel.h) of one half of a token's group, in all lanes.
template <class F, int WIDTH>
INLINE VI correction_of(const int32_t* c, int half) {
  if (F::kHalves == 1) return splat(c[0]);
  return half == 0 ? splat(c[WIDTH]) : splat(c[0]) - splat(c[WIDTH]);
}

// float32 of the exact integer, both planes together.
template <int PLANES, class D>
INLINE VF value_of(const D (&dots)[PLANES], VI c) {
  if constexpr (PLANES == 1) return to_float(dots[0].value(c));
  else return to_float(two_planes(dots[0], dots[1], c));
}

// T tokens from `first` of a panel of WIDTH times S strips (`apart` bytes of scales and of planes from each other),
// num_groups groups added onto acc.
template <class F, int WIDTH, int T, int S, int PLANES>
INLINE void dot_tokens(const uint8_t* scales, const uint8_t* planes, const int64_t (&apart)[2], int64_t num_groups,
                       const uint8_t* panel, int64_t next_panel, Ahead& ahead, int first, VF (&acc)[S][T][kParts]) {
  using P = PanelOf<PLANES>;
  using W = Products<F>;
  using D = typename W::D;
  constexpr int R = parts_at_once<D>(T * PLANES);
  for (int64_t g = 0; g < num_groups; ++g, panel += WIDTH * P::kTokenBytes) {
    if constexpr (!F::kExpanded) {
      if (first == 0) ask_ahead<F, S>(planes, g, num_groups, apart[1]);
    } else {
      ask_for_next<S>(ahead);
      UNROLL for (int64_t i = 0; i < T * P::kTokenBytes; i += 64)
        __builtin_prefetch(panel + next_panel + first * P::kTokenBytes + i);
    }
    const int8_t* q = (const int8_t*)panel + first * 32;
    as_one_base(q);
    const float* s = (const float*)(panel + WIDTH * P::kScale) + first;
    const float* o = (const float*)(panel + WIDTH * P::kOffset) + first;
    const int32_t* c = (const int32_t*)(panel + WIDTH * P::kCorrection) + first;
    _Pragma("GCC unroll 2") for (int part = 0; part < kParts; part += R) {
      D dots[S][R][T][F::kHalves][PLANES];
      UNROLL for (int t = 0; t < T; ++t)
        UNROLL for (int h = 0; h < F::kHalves; ++h)
          UNROLL for (int i = 0; i < S; ++i)
            UNROLL for (int r = 0; r < R; ++r)
              UNROLL for (int p = 0; p < PLANES; ++p)
                dots[i][r][t][h][p].start(p + 1 < PLANES ? VI{} : correction_of<F, WIDTH>(c + t, h));
      each_index<W::kSteps>([&](auto index) {
        constexpr int kN = decltype(index)::value, kHalf = F::kHalves == 2 ? kN / 4 : 0;
        decltype(W::template weights<kN>(planes, g, part)) w[S][R];
        UNROLL for (int i = 0; i < S; ++i)
          UNROLL for (int r = 0; r < R; ++r) w[i][r] = W::template weights<kN>(planes + i * apart[1], g, part + r);
        UNROLL for (int t = 0; t < T; ++t)
          UNROLL for (int p = 0; p < PLANES; ++p) {
            const auto a = W::template activations<kN>(q + p * WIDTH * 32 + t * 32);
            UNROLL for (int i = 0; i < S; ++i)
              UNROLL for (int r = 0; r < R; ++r) dots[i][r][t][kHalf][p].template step<kN>(w[i][r], a);
          }
      });
      UNROLL for (int i = 0; i < S; ++i)
        UNROLL for (int r = 0; r < R; ++r) {
          const Scales w = F::scales(scales + i * apart[0], g, part + r);
          UNROLL for (int t = 0; t < T; ++t) {
            VF scaled = value_of(dots[i][r][t][0], correction_of<F, WIDTH>(c + t, 0)) * w.d[0];
            if constexpr (F::kHalves == 2)
              scaled = scaled + value_of(dots[i][r][t][1], correction_of<F, WIDTH>(c + t, 1)) * w.d[1];
            VF total = acc[i][t][part + r] + scaled * s[t];
            if constexpr (F::kAffine) total = total + w.m * o[t];
            acc[i][t][part + r] = total;
          }
        }
    }
  }
}

template <class F, int WIDTH, int S, int PLANES>
__attribute__((noinline)) void dot_panel(const Stretch& c) {
  constexpr int T = WIDTH < tokens_at_once(S) ? WIDTH : tokens_at_once(S);
  for (int first = 0; first < WIDTH; first += T) {
    VF acc[S][T][kParts] = {};
    float* out = c.out + first * c.stride;
    UNROLL for (int i = 0; i < S; ++i)
      if (!c.fresh) load_out<T>(out + i * 16, c.stride, i + 1 < S ? 16 : c.rows, acc[i]);
    dot_tokens<F, WIDTH, T, S, PLANES>(c.scales, c.planes, c.apart, c.num_groups, c.panel, c.next_panel, *c.ahead, first, acc);
    UNROLL for (int i = 0; i < S; ++i) store_out<T>(out + i * 16, c.stride, i + 1 < S ? 16 : c.rows, acc[i]);
  }
}

// S strips as they are, for few tokens: [first, c.num_tokens).
template <class F, int S, int PLANES>
INLINE void strips_plain(const StripsCall& c, int64_t index, int64_t first) {
  const int64_t groups = (c.k + 31) / 32, token_bytes = groups * PanelOf<PLANES>::kTokenBytes;
  const int64_t bytes = strip_step<F>(c), left = c.num_rows - (index + S - 1) * 16;
  const uint8_t* strip = (const uint8_t*)c.strips + index * bytes;
  constexpr bool kWide = kManyTokens<F> > kPanelTokens;
  Ahead none = {};
  Stretch s = {strip, strip + scale_bytes<F>(c.k), {bytes, bytes}, groups, nullptr, 0, &none, nullptr, c.out_stride,
               left < 16 ? left : 16, true};
  for (int64_t t = first, width = 0; t < c.num_tokens; t += width) {
    width = panel_width(c.num_tokens - t);
    s.panel = (const uint8_t*)c.quantized + t * token_bytes;
    s.out = c.out + t * c.out_stride + index * 16;
    if (kWide && width == 16) dot_panel<F, kWide ? 16 : 8, S, PLANES>(s);
    else if (width == 8) dot_panel<F, 8, S, PLANES>(s);
    else if (width == 4) dot_panel<F, 4, S, PLANES>(s);
    else if (width == 2) dot_panel<F, 2, S, PLANES>(s);
    else dot_panel<F, 1, S, PLANES>(s);
  }
}

// All panels of kPanelTokens, from the first on.
template <class E, int S, int PLANES>
INLINE void multiply_panels(Stretch c, int64_t num_panels) {
#if defined(__AMX_INT8__)
  tile_panels<E, S>(c, num_panels);
#else
  for (int64_t i = 0; i < num_panels; ++i, c.panel += c.next_panel, c.out += kPanelTokens * c.stride)
    dot_panel<E, kPanelTokens, S, PLANES>(c);
#endif
}

// Groups [first, first + n) of S strips times all whole panels of tokens.
template <class F, int S, int PLANES>
INLINE void strips_expanded(const StripsCall& c, int64_t index, int64_t first, int64_t n) {
#if defined(__AMX_INT8__)
  using E = Tiled<F::kAffine, F::kHalves, PLANES>;
#else
  using E = ExpandedOf<F>;
#endif
  constexpr int64_t kChunk = kChunkGroups / S, kScales = kChunk * E::kScaleBytes, kPlanes = kChunk * 512;
  alignas(64) uint8_t planes[S * kPlanes];
  alignas(64) uint8_t scales[S * kScales];
  const int64_t groups = (c.k + 31) / 32, bytes = strip_step<F>(c);
  const int64_t left = c.num_rows - (index + S - 1) * 16, group_bytes = PanelOf<PLANES>::kTokenBytes;
  for (int i = 0; i < S; ++i) {
    const uint8_t* strip = (const uint8_t*)c.strips + (index + i) * bytes;
    expand_stretch<F, E>(strip, strip + scale_bytes<F>(c.k), first, n, scales + i * kScales, planes + i * kPlanes);
  }
  Ahead ahead = ask_for_strips<F, S>(c, index + S, first, n);
  multiply_panels<E, S, PLANES>({scales, planes, {kScales, kPlanes}, n,
                                 (const uint8_t*)c.quantized + first * kPanelTokens * group_bytes,
                                 kPanelTokens * groups * group_bytes, &ahead, c.out + index * 16, c.out_stride,
                                 left < 16 ? left : 16, first == 0}, c.num_tokens / kPanelTokens);
}

// All strips from `index` on, S at a time, and fewer where fewer are left.
template <class F, int S, int PLANES>
INLINE void expand_all(const StripsCall& c, int64_t index, int64_t first, int64_t n) {
  for (; index + S <= c.num_strips; index += S) strips_expanded<F, S, PLANES>(c, index, first, n);
  if constexpr (S > 1) expand_all<F, S - 1, PLANES>(c, index, first, n);
}

// Chunk by chunk of groups, so that what all tokens have there stays in the second cache for all strips.
template <class F, int PLANES>
INLINE void strips_by_chunks(const StripsCall& c) {
  constexpr int S = expanded_at_once(PLANES * F::kHalves);
#if defined(__AMX_INT8__)
  const TileUse use(TileShapes(32 / F::kHalves));
#endif
  const int64_t groups = (c.k + 31) / 32, chunks = (groups + kChunkGroups / S - 1) / (kChunkGroups / S);
  for (int64_t i = 0; i < chunks; ++i) {
    const int64_t first = groups * i / chunks, stop = groups * (i + 1) / chunks;
    expand_all<F, S, PLANES>(c, 0, first, stop - first);
  }
}
template <class F, int PLANES>
void strips_planes(const StripsCall& c) {
  const bool many = c.num_tokens >= kManyTokens<F>;
  const int64_t whole = many ? c.num_tokens / kPanelTokens * kPanelTokens : 0;
  if (many) strips_by_chunks<F, PLANES>(c);
  const bool few = c.num_tokens - whole >= 4;
  int64_t i = 0;
  constexpr int S = strips_at_once(kDots<F, PLANES>);
  if (S > 1 && few)
    for (; i + S <= c.num_strips; i += S) strips_plain<F, S, PLANES>(c, i, whole);
  for (; i < c.num_strips; ++i) strips_plain<F, 1, PLANES>(c, i, whole);
}
template <class F>
void strips_int8(const StripsCall& c) {
  if (c.planes == 2) strips_planes<F, 2>(c);
  else strips_planes<F, 1>(c);
}

}  // namespace
}  // namespace pintpot

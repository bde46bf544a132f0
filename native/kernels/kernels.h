// The arithmetic of Pintpot: the table of kernels that every instruction set's shared object exports.
//
// libpintpot_portable.so, libpintpot_avx2.so, libpintpot_avxvnni.so (AVX2 with the byte products of VNNI),
// libpintpot_avx512.so and libpintpot_amx.so (AVX-512 with tiles for many tokens) are one source with different flags;
// each exports one C function, `pintpot_kernels()`. Kernels allocate nothing, start no threads, throw nothing, and use
// at most 512 KiB of stack. They check no arguments: the caller does. Pointers may be unaligned except where stated.
//
// One result everywhere. The same inputs give the same bits on every instruction set and for every split of strips,
// tokens and segments: integer sums are exact, float code has no fused multiply-add but where the path of bfloat16 says
// so, a float reduction along an axis runs over 16 virtual lanes (lane = index mod 16, in order within a lane) and then
// the tree lane i + lane i+8, i+4, i+2, i+1; products of weights and activations follow the order written at `strips`.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "learn.h"

namespace pintpot {

constexpr int32_t kAbiVersion = 10;
constexpr int64_t kStripRows = 16;
constexpr int64_t kTileStrips = 6;  // whole numbers of what a product of many tokens takes at once: 2 or 3
constexpr int64_t kGroup = 32;
constexpr int64_t kPageTokens = 32;
constexpr int64_t kSegmentTokens = 128;  // attention: keys are folded per segment, then segments are merged in order
constexpr int64_t kMaxHeadDim = 256;     // head_dim: a multiple of 32, at most this
constexpr int64_t kPanelTokens = 16;     // quantized tokens lie in panels of 16, then 8, 4, 2, 1 for what is left

enum Format : int32_t {
  kF32, kF16, kBF16,
  kSym8, kSym6, kSym5, kSym4, kSym3, kSym2,
  kAff6, kAff5, kAff4, kAff3, kAff2,
  kQ4K, kQ6K,
  kNF4, kNF4x32, kMXFP4, kNVFP4,
  kSym8x24, kSym6x24, kSym4x24,
  kNumFormats,
};
// The name of each format, in the order of the enum, as pintpot.formats spells it.
constexpr const char* kFormatNames[kNumFormats] = {"f32",  "f16",  "bf16", "sym8", "sym6", "sym5", "sym4", "sym3",
                                                   "sym2", "aff6", "aff5", "aff4", "aff3", "aff2", "q4_k", "q6_k",
                                                   "nf4",  "nf4_32", "mxfp4", "nvfp4",
                                                   "sym8_24", "sym6_24", "sym4_24"};

// Bytes of one strip of k columns (docs/layout.md), as the kernels step through them.
constexpr int32_t kBrainRows = 3;  // where a number of int8 planes is asked: rows of bfloat16
// Bytes of one quantized token: ceil(k/32) * (48, 80 in two planes, 64 in bfloat16). A run of n tokens takes n times
// that, and the part of tokens [first, n) of a run begins at first * bytes where first is a multiple of kPanelTokens.
constexpr int64_t quantized_bytes(int64_t k, int32_t planes) {
  return (k + kGroup - 1) / kGroup * (planes == kBrainRows ? 64 : planes == 2 ? 80 : 48);
}

// Bytes behind a strip whose weight has `count` columns kept apart: their numbers, int32 ascending, then f16 [column][16].
constexpr int64_t apart_bytes(int64_t count) { return (count * 36 + 63) / 64 * 64; }

// y[t][row] = sum over columns of w[row][column] * x[t][column], for a contiguous run of strips.
//
// Exactly one of `x` (float32 activations; every format) and `quantized` (group and superblock formats) is not null.
// Rows at and beyond num_rows (padding of the last strip) are not written; rows count from the first strip given.
//
// Order, integer path, groups g of 32 columns ascending from acc = 0; all float32, each operation rounded:
//   i = sum (q - zero) * a, exact, a = q0, or 254 * q0 + q1 (zero: 2^(b-1) for sym, 32 for q6_k, 0 otherwise;
//     for a format with a table i = sum table[q] * a; of 2:4 formats over the kept columns, whose two places of a four differ)
//   n = float(i), s the group's scale, with a second plane s * (1/254f)
//   acc = acc + (n * d) * s
//   aff, q4_k: acc = acc + m * o         with o = s * float(sum a)
//   q4_k: d = d16 * scale, m = -(dmin16 * min) (exact); q6_k, nvfp4: acc = acc + (na * da + nb * db) * s, a and b the halves
// Order, path of bfloat16: w = B(fma(b + q, d, m - b * d)), b = 128 for codes of up to 7 bits and 256 for those of 8, m =
//   -zero * d where there is none, B rounds to bfloat16 (its ties away from 0), a = B(x); of a group, even and odd are the
//   sums of the columns of even and of odd number, each a chain of fused products from 0; acc = acc + (even + odd).
// Order, float path: group p = 0, p = p + w * x for its columns ascending; acc = acc + p, groups ascending; w is the
//   float32 of expand_row: sym d * float(q - zero), aff d * float(q) + m, with a table d * float(table[q]).
// Columns kept apart come last, on either path, as columns in groups of 32 do on the float path. What meets the strips
// has zeros there: that is the caller's work.
struct StripsCall {
  int32_t format;         // Format
  int32_t planes;         // 1 or 2, of `quantized`, or kBrainRows
  const void* strips;     // num_strips * (strip_bytes(format, k) + apart_bytes(num_apart))
  int64_t num_strips;
  int64_t k;              // columns, unpadded
  const float* x;         // [num_tokens][x_stride], or null
  int64_t x_stride;       // floats
  const void* quantized;  // num_tokens * quantized_bytes(k, planes), as `quantize` wrote them, or null
  int64_t num_tokens;     // >= 1
  float* out;             // [num_tokens][out_stride]
  int64_t out_stride;     // floats
  int64_t num_rows;       // <= 16 * num_strips
  int64_t num_apart;      // columns kept apart, 0 for float formats
  const float* apart;     // [num_tokens][num_apart], what meets them
};

// The gate of two products on the path of bfloat16, g of `gate` and u of `up` (of as many strips, rows a multiple of 32), rounded
// as `quantize` would: columns [first_column, + num_rows) of bfloat16 rows of `columns`. What comes out is what `strips`, `rough_gate` and
// `quantize` give one after the other, without the sums ever lying in memory.
enum Gate : int32_t { kSwiGlu, kGeGlu };
struct GatedCall {
  StripsCall gate;        // its `out` is not used; no columns apart
  const void* up;
  int32_t kind;           // Gate
  void* panels;           // num_tokens * quantized_bytes(columns, kBrainRows)
  int64_t columns;        // a multiple of 32, as first_column is
  int64_t first_column;
};

enum Rounded : int32_t { kNotRounded, kRoundedIntegers, kRoundedBrain };  // products of attention
enum CacheFormat : int32_t { kCacheF16, kCacheSym8c, kCacheF32 };

// k and v: [pages][kv_heads][page of one head]; a page of one head is 32 * head_dim f16 or f32, or 32 * head_dim int8 and
// then 32 * (head_dim / 32) f16 scales. head_dim is a multiple of 32. Keys lie transposed, [head_dim][32 tokens] and their
// scales [head_dim / 32][32 tokens], so that a vector holds one column of 16 keys; values [32 tokens][head_dim] and
// [32 tokens][head_dim / 32], so that a vector holds 16 columns of one value. (docs/layout.md) What is beyond the largest
// f16, as a value or as a scale, is cut off there.
struct CacheView {
  void* k;
  void* v;
  int32_t format;  // CacheFormat
  int32_t kv_heads;
  int32_t head_dim;
};

// Segments of so many positions.
constexpr int64_t num_segments(int64_t positions) { return (positions + kSegmentTokens - 1) / kSegmentTokens; }
// Floats of one row of a segment's partial results.
constexpr int64_t partial_floats(int64_t head_dim) { return head_dim + 16; }

struct RopeCall {
  CacheView cache;
  int32_t heads;
  int32_t rope_dim;        // even, <= head_dim; the columns beyond it are not rotated
  int32_t interleaved;     // 1: pairs (2i, 2i+1); 0: pairs (i, i + rope_dim/2)
  float eps;               // of the head norms
  const float* q_norm;     // [head_dim] or null
  const float* k_norm;     // [head_dim] or null
};

// Causal attention of consecutive positions of one sequence, for one kv head and the heads / kv_heads query heads on it
// (query head = kv_head * (heads / kv_heads) + r). Key j is visible to position p when j <= p and (window == 0 or
// j > p - window or j < sinks). Pages without a visible key are never read, and their entry may be -1.
//
// Order, all float32, each operation rounded: a score is the sum over d ascending of (q[d] * scale) * k[d]. Of a segment
// of 128 keys: w = exp(score - the largest visible score), 0 where nothing is visible; its mass is the sum of w over 16
// lanes (lane = key mod 16, in order) and the tree; its sum o over its keys in order of w * v. Segments are merged in
// order, from O = 0, M = 0, m = -inf: m' = max(m, the segment's), a = exp(m - m'), b = exp(the segment's - m'),
// O = O * a + o * b, M = M * a + mass * b. At the end O * (1 / M).
//
// kRoundedBrain: B rounds q * scale, keys, w and values to bfloat16, and both products run over 32 columns, or the 32 keys of a
// page, as `StripsCall` says of bfloat16; the mass is of w as it was, e^x within 3e-6 (exp.h).
// kRoundedIntegers: products run in integers of 13 bits and a sign, R(x) = rint(x * (8191 / m)), worth m * (1 / 8191) each, m the
// largest magnitude (all 0 where it is under 1e-30): of a query q * scale, of a key, of a value, and, in a segment, of
// the row w * (what one of the key's value is worth). Products are summed exactly over 32 columns, or the 32 keys of a
// page, and those sums in float32 in their order. A score is that * the key's worth * the query's; o is that * the row's.
struct AttendCall {
  CacheView cache;
  int32_t heads;
  int32_t kv_head;
  float scale;
  int32_t window;          // 0: none
  int32_t sinks;
  int32_t rounded;         // Rounded
  int32_t num_tokens;
  int64_t first_position;  // of the first token; its keys and those of all num_tokens are stored already
  const int32_t* pages;    // page table of the sequence: physical page of each 32 positions
  const float* q;          // [num_tokens][q_stride], rotated, all heads (column head * head_dim)
  int64_t q_stride;
  float* out;              // [num_tokens][out_stride], all heads likewise
  int64_t out_stride;
};

struct KernelTable {
  int32_t abi;
  const char* isa;  // "portable", "avx2", "avxvnni", "avx512", "amx"

  int64_t (*strip_bytes)(int32_t format, int64_t k);
  // Tokens [first, last) of a run of num_tokens (x points at token 0): float32 rows to int8 planes, laid in panels.
  // Record of one panel of T tokens and one group: q0 [T][32] int8, (q1 [T][32],) s f32 [T], o f32 [T], then int32 [T]:
  // -128 * sum a, -128 * sum of the first 16 a (`strips` names s, o, a). Records of a panel follow each other by group.
  // In bfloat16 a panel has 16 tokens, or all that are left; its records are [T][32], the columns in their order.
  // s = max|x| / 127, r = x * (127 / max|x|); q0 = rint(r), q1 = rint((r - q0) * 254), all 0 where max|x| is below 1e-30.
  void (*quantize)(const float* x, int64_t x_stride, int64_t k, int32_t planes, int64_t num_tokens, int64_t first,
                   int64_t last, void* out);
  void (*strips)(const StripsCall* call);
  void (*gated_strips)(const GatedCall* call);  // of group and superblock formats
  // One row (0-based from the first strip) of packed strips as float32 [k]; the whole strip: [16][k].
  void (*expand_row)(int32_t format, const void* strips, int64_t k, int64_t row, float* out);
  void (*expand_strip)(int32_t format, const void* strip, int64_t k, float* out);

  // y = (x * (1 / sqrt(mean(x^2) + eps))) * w; y may be x.
  void (*rmsnorm)(const float* x, const float* w, int64_t n, float eps, float* y);
  // y[i] = g / (1 + exp(-g)) * u, g = gate_up[i], u = gate_up[n + i]: with e = exp(-|g|), (g < 0 ? g * e : g) / (1 + e) * u.
  void (*swiglu)(const float* gate_up, int64_t n, float* y);
  // The same with z = g * (1.59576912 + 0.0713548163 * g^2) in place of g in the exponent: GELU(g) * u, its tanh form.
  void (*geglu)(const float* gate_up, int64_t n, float* y);
  // Either (Gate) within 2e-5, for values that are rounded to bfloat16 next (gate.h).
  void (*rough_gate)(int32_t kind, const float* gate_up, int64_t n, float* y);
  // Each block of `size` values (a power of two, at least 2, that divides n) times the Hadamard matrix of +1 and -1, over
  // its norm: sums a + b and differences a - b of values 1, 2, 4 ... apart, and then one product with float(sqrt(1 / size)).
  void (*rotate)(float* x, int64_t n, int64_t size);
  // y[i] = y[i] + x[i]  (residuals and biases);  y[i] = x[i] * factor.
  void (*add)(const float* x, int64_t n, float* y);
  void (*scale)(const float* x, int64_t n, float factor, float* y);

  // One token: norms (if any) and rotates its q heads into q_out [heads * head_dim] and its k heads, and stores k and v
  // into page pages[position / 32]. qkv: [(heads + 2 kv_heads) * head_dim]. q_out may be qkv itself.
  void (*rope_store)(const RopeCall* call, const float* angles, const float* qkv, int64_t position, const int32_t* pages,
                     float* q_out);
  // All of it: memory does not grow with the number of keys or tokens.
  void (*attend)(const AttendCall* call);
  // The same in pieces that threads can share, for few tokens over a long cache: segments [first, stop) of
  // num_segments(first_position + num_tokens). `partials` begins at segment 0; each segment has
  // [num_tokens * heads/kv_heads][head_dim + 16] f32 (the sum, then maximum and mass); merge writes out, in the order of
  // segments: the bits of `attend`.
  void (*attend_segments)(const AttendCall* call, int64_t first, int64_t stop, float* partials);
  void (*attend_merge)(const AttendCall* call, const float* partials, int64_t num_segments);

  // Sampling over one row of logits; n >= 1.
  int64_t (*argmax)(const float* x, int64_t n);                  // lowest index of the largest; NaN is never chosen
  // p[i] = exp((x[i] - maximum) * inverse_temperature); returns their sum (16 lanes, then the tree).
  float (*exp_sum)(const float* x, int64_t n, float maximum, float inverse_temperature, float* p);
  float (*kth_largest)(const float* x, int64_t n, int64_t k);    // 1 <= k <= n: the k-th largest value
  // p >= 0: the largest threshold t such that the p[i] >= t sum to at least mass (sums in double, in index order).
  float (*mass_threshold)(const float* p, int64_t n, double mass);
  double (*sum_from)(const float* p, int64_t n, float threshold);  // sum of the p[i] >= threshold, in index order
  // First index whose running sum (of the p[i] >= threshold, double) exceeds target; the last kept one if none does.
  int64_t (*pick)(const float* p, int64_t n, float threshold, double target);

  uint32_t (*crc32c)(uint32_t crc, const void* data, size_t bytes);  // start with 0; may be continued

  // The machine's own limits, for the probe and for every "share of the limit".
  uint64_t (*read_loop)(const void* data, size_t bytes);             // reads every byte once; a checksum of no meaning
  void (*copy_loop)(void* to, const void* from, size_t bytes);       // bytes a multiple of 64
  uint64_t (*int8_peak)(uint64_t rounds, uint64_t* num_operations);  // multiply-adds on 8-bit values in registers
  uint64_t (*float_peak)(uint64_t rounds, uint64_t* num_operations); // float32 multiply-adds in registers

  LearnTable learn;
};

}  // namespace pintpot

extern "C" {
typedef const pintpot::KernelTable* (*pintpot_kernels_fn)();
}

// Choosing the next token: maxima, softmax, thresholds found by radix instead of sorting.
#include "entry.h"
#include "exp.h"

namespace pintpot {
namespace {

constexpr int kBits[3] = {11, 11, 10};  // of an ordered key, from the top

// Unsigned integers in the order of the floats.
INLINE uint32_t ordered(float x) {
  const uint32_t bits = load<uint32_t>(&x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
INLINE float unordered(uint32_t key) {
  const uint32_t bits = key & 0x80000000u ? key & 0x7fffffffu : ~key;
  return load<float>(&bits);
}

// The largest key such that what lies at or above it, in `Sum`s of `weigh`, reaches `wanted`; by refining 3 digits.
template <class Sum, class Weigh>
INLINE float threshold(const float* x, int64_t n, Sum wanted, Weigh weigh) {
  Sum above = 0;
  uint32_t prefix = 0;
  int shift = 32;
  for (int digit = 0; digit < 3; ++digit) {
    const uint32_t high_mask = shift == 32 ? 0 : ~0u << shift;
    shift -= kBits[digit];
    Sum buckets[2048] = {};
    for (int64_t i = 0; i < n; ++i) {
      const uint32_t key = ordered(x[i]);
      if ((key & high_mask) == prefix) buckets[key >> shift & ((1u << kBits[digit]) - 1)] += weigh(x[i]);
    }
    int64_t bucket = (1 << kBits[digit]) - 1, lowest = bucket;
    for (; bucket >= 0; --bucket) {
      if (buckets[bucket] == 0) continue;
      lowest = bucket;
      if (above + buckets[bucket] >= wanted) break;
      above += buckets[bucket];
    }
    // Rounding may leave the whole just short of what is wanted: then everything is kept.
    if (bucket < 0) above -= buckets[lowest];
    prefix |= (uint32_t)lowest << shift;
  }
  return unordered(prefix);
}

}  // namespace

int64_t argmax(const float* x, int64_t n) {
  Pack best = spread(-__builtin_inff());
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) best = max(load16(x + i), best);
  if (i < n) best = max(load16_part(x + i, n - i, -__builtin_inff()), best);
  const float top = largest(best);
  for (i = 0; i < n; ++i)
    if (x[i] == top) return i;
  return 0;
}

float exp_sum(const float* x, int64_t n, float maximum, float inverse_temperature, float* p) {
  Pack total = spread(0.0f);
  for (int64_t i = 0; i < n; i += 16) {
    const int64_t left = n - i;
    const Pack a = left >= 16 ? load16(x + i) : load16_part(x + i, left, -__builtin_inff());
    const Pack value = exp((a - spread(maximum)) * spread(inverse_temperature));
    total = total + value;
    if (left >= 16) store16(p + i, value);
    else store16_part(p + i, value, left);
  }
  return sum(total);
}

float kth_largest(const float* x, int64_t n, int64_t k) {
  return threshold(x, n, k, [](float) { return (int64_t)1; });
}

float mass_threshold(const float* p, int64_t n, double mass) {
  return threshold(p, n, mass, [](float value) { return (double)value; });
}

double sum_from(const float* p, int64_t n, float threshold) {
  double total = 0.0;
  for (int64_t i = 0; i < n; ++i) total += p[i] >= threshold ? (double)p[i] : 0.0;
  return total;
}

int64_t pick(const float* p, int64_t n, float threshold, double target) {
  double total = 0.0;
  int64_t kept = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (!(p[i] >= threshold)) continue;
    total += (double)p[i];
    kept = i;
    if (total > target) return i;
  }
  return kept;
}

}  // namespace pintpot

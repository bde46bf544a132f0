// The one exported symbol of an instruction set's object: its table of kernels.
#include "entry.h"

#include <string.h>

namespace pintpot {
namespace {

const FormatEntry& entry(int32_t format) {
  if (format < kSym8) return kFloatEntries[format];
  if (format < kAff6) return kSymEntries[format - kSym8];
  if (format < kQ4K) return kAffineEntries[format - kAff6];
  if (format < kNF4) return kBlockEntries[format - kQ4K];
  if (format < kSym8x24) return kTableEntries[format - kNF4];
  return kTwoFourEntries[format - kSym8x24];
}

int64_t strip_bytes(int32_t format, int64_t k) { return entry(format).strip_bytes(k); }

void strips(const StripsCall* call) {
  const FormatEntry& e = entry(call->format);
  if (call->quantized) (call->planes == kBrainRows ? e.brain : e.int8)(*call);
  else e.float32(*call);
  if (call->num_apart > 0) add_apart(*call, e.strip_bytes(call->k));
}

void gated_strips(const GatedCall* call) { entry(call->gate.format).gated(*call); }

void expand_row(int32_t format, const void* strips, int64_t k, int64_t row, float* out) {
  alignas(64) float tile[32 * 16];
  const FormatEntry& e = entry(format);
  const char* strip = (const char*)strips + row / 16 * e.strip_bytes(k);
  for (int64_t first = 0; first < k; first += 32) {
    const int64_t n = k - first < 32 ? k - first : 32;
    e.expand(strip, k, first, n, tile);
    for (int64_t i = 0; i < n; ++i) out[first + i] = tile[i * 16 + row % 16];
  }
}

void expand_strip(int32_t format, const void* strip, int64_t k, float* out) {
  alignas(64) float tile[32 * 16];
  const FormatEntry& e = entry(format);
  for (int64_t first = 0; first < k; first += 32) {
    const int64_t n = k - first < 32 ? k - first : 32;
    e.expand(strip, k, first, n, tile);
    for (int64_t row = 0; row < 16; ++row)
      for (int64_t i = 0; i < n; ++i) out[row * k + first + i] = tile[i * 16 + row];
  }
}

#if defined(__AMX_INT8__)
constexpr const char* kIsa = "amx";
#elif defined(__AVX512F__)
constexpr const char* kIsa = "avx512";
#elif defined(__AVXVNNI__)
constexpr const char* kIsa = "avxvnni";
#elif defined(__AVX2__)
constexpr const char* kIsa = "avx2";
#else
constexpr const char* kIsa = "portable";
#endif

const KernelTable kTable = {
    kAbiVersion, kIsa,
    strip_bytes, quantize, strips, gated_strips, expand_row, expand_strip,
    rmsnorm, swiglu, geglu, rough_gate, rotate, add, scale,
    rope_store, attend, attend_segments, attend_merge,
    argmax, exp_sum, kth_largest, mass_threshold, sum_from, pick,
    crc32c, read_loop, copy_loop, int8_peak, float_peak,
    {norm, norm_back, gate, gate_back, join, thin_products, thin_added, thin_sums, attention_bytes, attention, attention_back},
};

}  // namespace
}  // namespace pintpot

extern "C" __attribute__((visibility("default"))) const pintpot::KernelTable* pintpot_kernels() {
  return &pintpot::kTable;
}

// Entries of the float formats, f32, f16 and bf16: whole columns of a strip.
#include "entry.h"
#include "strips_float.h"

namespace pintpot {
namespace {

template <class C>
void expand_columns(const void* strip, int64_t, int64_t first, int64_t n, float* to) {
  widen_columns<C>((const uint8_t*)strip, first, n, to);
}
template <class C>
constexpr FormatEntry column_entry() {
  return {columns_bytes<C>, nullptr, nullptr, nullptr, strips_columns<C>, expand_columns<C>};
}

constexpr int kStripsAtOnce = 4;

// The columns kept apart of kStripsAtOnce whole strips times one token: each strip's sum is a chain of additions, and
// the chains of several hide each other's latency.
INLINE void dot_apart(const uint8_t* columns, int64_t step, int64_t num_columns, const float* x, float* out) {
  for (int part = 0; part < kParts; ++part) {
    VF acc[kStripsAtOnce];
    UNROLL for (int s = 0; s < kStripsAtOnce; ++s) acc[s] = load<VF>(out + s * 16 + part * kWidth);
    for (int64_t start = 0; start < num_columns; start += 32) {
      const int64_t stop = num_columns - start < 32 ? num_columns : start + 32;
      VF group[kStripsAtOnce] = {};
      for (int64_t i = start; i < stop; ++i)
        UNROLL for (int s = 0; s < kStripsAtOnce; ++s)
          group[s] = group[s] + F16::read(columns + s * step + (i * 16 + part * kWidth) * F16::kBytes) * x[i];
      UNROLL for (int s = 0; s < kStripsAtOnce; ++s) acc[s] = acc[s] + group[s];
    }
    UNROLL for (int s = 0; s < kStripsAtOnce; ++s) store(out + s * 16 + part * kWidth, acc[s]);
  }
}

}  // namespace

void add_apart(const StripsCall& c, int64_t strip_bytes) {
  const int64_t step = strip_bytes + apart_bytes(c.num_apart);
  const uint8_t* first = (const uint8_t*)c.strips + strip_bytes + 4 * c.num_apart;
  int64_t i = 0;
  if (c.num_tokens < 4)
    for (; (i + kStripsAtOnce) * 16 <= c.num_rows; i += kStripsAtOnce)
      for (int64_t t = 0; t < c.num_tokens; ++t)
        dot_apart(first + i * step, step, c.num_apart, c.apart + t * c.num_apart, c.out + t * c.out_stride + i * 16);
  for (; i < c.num_strips; ++i) {
    const int64_t left = c.num_rows - i * 16, rows = left < 16 ? left : 16;
    dot_tokens_float<F16>({first + i * step, c.num_apart, c.apart, c.num_apart, c.out + i * 16, c.out_stride, rows, false},
                          c.num_tokens);
  }
}

const FormatEntry kFloatEntries[3] = {
    column_entry<F32>(),
    column_entry<F16>(),
    column_entry<BF16>(),
};

}  // namespace pintpot

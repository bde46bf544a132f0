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
  return {columns_bytes<C>, nullptr, strips_columns<C>, expand_columns<C>};
}

}  // namespace

void add_apart(const StripsCall& c, int64_t strip_bytes) {
  for (int64_t i = 0; i < c.num_strips; ++i) {
    const uint8_t* columns = (const uint8_t*)c.strips + i * (strip_bytes + apart_bytes(c.num_apart)) + strip_bytes + 4 * c.num_apart;
    const int64_t left = c.num_rows - i * 16, rows = left < 16 ? left : 16;
    dot_tokens_float<F16>({columns, c.num_apart, c.apart, c.num_apart, c.out + i * 16, c.out_stride, rows, false},
                          c.num_tokens);
  }
}

const FormatEntry kFloatEntries[3] = {
    column_entry<F32>(),
    column_entry<F16>(),
    column_entry<BF16>(),
};

}  // namespace pintpot

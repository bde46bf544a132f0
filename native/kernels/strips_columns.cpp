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

const FormatEntry kFloatEntries[3] = {
    column_entry<F32>(),
    column_entry<F16>(),
    column_entry<BF16>(),
};

}  // namespace pintpot

// Makes the FormatEntry of a packed format.
#pragma once
#include "entry.h"
#include "strips_brain.h"
#include "strips_float.h"
#include "strips_gated.h"
#include "strips_int8.h"

namespace pintpot {
namespace {

template <class F>
void expand_packed(const void* strip, int64_t k, int64_t first, int64_t, float* to) {
  expand_groups<F>((const uint8_t*)strip, k, first / 32, 1, to);
}
template <class F>
constexpr FormatEntry packed_entry() {
  return {format_strip_bytes<F>, strips_int8<F>, strips_brain<F>, strips_gated<F>, strips_float<F>, expand_packed<F>};
}

}  // namespace
}  // namespace pintpot

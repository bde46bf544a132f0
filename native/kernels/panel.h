// Where the parts of quantized tokens lie (kernels.h, `quantize`).
#pragma once
#include "kernels.h"
#include "simd.h"

namespace pintpot {
namespace {

template <int PLANES>
struct PanelOf {
  static constexpr int64_t kTokenBytes = 32 * PLANES + 16;  // of one group
  static constexpr int64_t kScale = 32 * PLANES, kOffset = kScale + 4, kCorrection = kOffset + 4;
};

INLINE VU brain_bits(VF v) { return (VU)v + 0x8000u; }  // the upper half is v as bfloat16, ties away from 0

// The number of tokens in the panel that begins when `left` tokens are left.
INLINE int64_t panel_width(int64_t left) { return left >= 16 ? 16 : left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1; }

}  // namespace
}  // namespace pintpot

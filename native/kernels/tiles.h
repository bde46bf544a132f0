// The tile registers of AMX, as thin as they can be. Tiles 0 to 3 hold sums, 4 and 5 activations, 6 and 7 weights.
//
// The compiler's own functions tell it nothing of the memory behind their pointers (GCC 12), so these are none of them.
#pragma once
#include "simd.h"

namespace pintpot {
namespace {

constexpr int kTileTokens = 16;

struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  // Sums of 16 tokens and 16 rows, over `columns` columns.
  INLINE explicit TileShapes(int columns) {
    for (int i = 0; i < 8; ++i) row_bytes[i] = 64, rows[i] = kTileTokens;
    for (int i = 4; i < 6; ++i) row_bytes[i] = (uint16_t)columns;
    for (int i = 6; i < 8; ++i) rows[i] = (uint8_t)(columns / 4);
  }
};

// What the compiler is told that a tile reads or writes; of rows apart it is told too much or too little, and nobody here minds.
struct TileBytes {
  uint8_t bytes[1024];
};

// Tiles of these shapes while it lives. A thread that has none left is switched at the old price.
class TileUse {
 public:
  INLINE explicit TileUse(const TileShapes& shapes) { asm volatile("ldtilecfg %0" : : "m"(shapes)); }
  INLINE ~TileUse() { asm volatile("tilerelease"); }
  TileUse(const TileUse&) = delete;
  TileUse& operator=(const TileUse&) = delete;
};

template <int N>
INLINE void tile_zero() {
  asm volatile("tilezero %%tmm%c0" : : "i"(N));
}
template <int N>
INLINE void tile_load(const void* from, int64_t step) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(step), "i"(N), "m"(*(const TileBytes*)from));
}
template <int N>
INLINE void tile_store(void* to) {
  asm volatile("tilestored %%tmm%c3, (%1,%2,1)" : "=m"(*(TileBytes*)to) : "r"(to), "r"((int64_t)64), "i"(N));
}
// Rows `step` bytes apart.
template <int N>
INLINE void tile_store(void* to, int64_t step) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(step), "i"(N) : "memory");
}
// SUMS += activations * weights, both signed bytes.
template <int SUMS, int ACTIVATIONS, int WEIGHTS>
INLINE void tile_dot() {
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(SUMS), "i"(ACTIVATIONS), "i"(WEIGHTS));
}

// The same of bfloat16, 32 columns deep: even + odd, a chain of fused products each.
template <int SUMS, int ACTIVATIONS, int WEIGHTS>
INLINE void tile_dot_brain() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(SUMS), "i"(ACTIVATIONS), "i"(WEIGHTS));
}

}  // namespace
}  // namespace pintpot

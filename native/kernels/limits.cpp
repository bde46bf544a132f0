// Loops that do nothing but meet a limit of the machine: reading, copying, multiplying.
#include "dot.h"
#include "entry.h"
#if defined(__AMX_INT8__)
#include "tiles.h"
#endif

namespace pintpot {
namespace {

constexpr int kChains = 12;  // independent sums: more than latency times throughput, fewer than registers
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
constexpr int kDots = 12;  // likewise
#else
constexpr int kDots = 2;  // each adds up several sums by itself
#endif
constexpr int kQuads = 8;    // steps of a Dot before it is read

// Keeps the compiler from working once for several steps, without a trip to memory.
INLINE void opaque(VU& v) {
#if defined(__x86_64__)
  asm volatile("" : "+v"(v));
#elif defined(__aarch64__)
  asm volatile("" : "+w"(v));
#else
  asm volatile("" : "+m"(v));
#endif
}

// Sums one by one and not in an array, which would be kept in memory.
template <int C>
struct Chains {
  Dot<4, 0> dot;
  Chains<C - 1> rest;
  template <int N>
  INLINE void step(VU weights, const int8_t* activations) {
    dot.template step<N>(weights, broadcast(activations));
    rest.template step<N>(weights, activations + 4);
  }
  template <int N = 0>
  INLINE void round(VU weights, const int8_t* activations) {
    opaque(weights);
    step<N>(weights, activations);
    if constexpr (N + 1 < kQuads) round<N + 1>(weights, activations);
  }
  INLINE void start() { dot.start(VI{}), rest.start(); }
  INLINE VI value() const { return dot.value(VI{}) + rest.value(); }
};
template <>
struct Chains<0> {
  INLINE void start() {}
  template <int N>
  INLINE void step(VU, const int8_t*) {}
  INLINE VI value() const { return VI{}; }
};

}  // namespace

uint64_t read_loop(const void* data, size_t bytes) {
  const uint8_t* p = (const uint8_t*)data;
  constexpr int kUnroll = 8;
  VU total[kUnroll] = {};
  size_t i = 0;
  for (; i + sizeof total <= bytes; i += sizeof total)
    UNROLL for (int j = 0; j < kUnroll; ++j) total[j] ^= load<VU>(p + i + j * sizeof(VU));
  uint64_t rest = 0;
  for (; i < bytes; ++i) rest += p[i];
  UNROLL for (int j = 1; j < kUnroll; ++j) total[0] ^= total[j];
  for (int j = 0; j < kWidth; ++j) rest += total[0][j];
  return rest;
}

void copy_loop(void* to, const void* from, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 64)
    UNROLL for (int j = 0; j < kParts; ++j)
      store((uint8_t*)to + i + j * sizeof(VU), load<VU>((const uint8_t*)from + i + j * sizeof(VU)));
}

#if defined(__AMX_INT8__)
uint64_t int8_peak(uint64_t rounds, uint64_t* num_operations) {
  alignas(64) uint8_t bytes[1024];
  for (int i = 0; i < 1024; ++i) bytes[i] = (uint8_t)(i % 3);
  const TileUse use(TileShapes(64));
  tile_zero<0>(), tile_zero<1>(), tile_zero<2>(), tile_zero<3>();
  tile_load<4>(bytes, 64), tile_load<5>(bytes, 64), tile_load<6>(bytes, 64), tile_load<7>(bytes, 64);
  for (uint64_t r = 0; r < rounds; ++r) tile_dot<0, 4, 6>(), tile_dot<1, 4, 7>(), tile_dot<2, 5, 6>(), tile_dot<3, 5, 7>();
  tile_store<0>(bytes);
  *num_operations = rounds * 4 * kTileTokens * 16 * 64;
  return bytes[0];
}
#else
uint64_t int8_peak(uint64_t rounds, uint64_t* num_operations) {
  int8_t activations[64];
  for (int i = 0; i < 64; ++i) activations[i] = (int8_t)(i - 32);
  VU weights = {};
  for (int i = 0; i < kWidth; ++i) weights[i] = 0x01020304u * (uint32_t)(i % 3 + 1);
  Chains<kDots> chains;
  chains.start();
  for (uint64_t r = 0; r < rounds; ++r) chains.round(weights, activations);
  const VI total = chains.value();
  *num_operations = rounds * kQuads * kDots * kWidth * 4;
  return (uint64_t)(uint32_t)total[0];
}
#endif

uint64_t float_peak(uint64_t rounds, uint64_t* num_operations) {
  VF sums[kChains];
  UNROLL for (int i = 0; i < kChains; ++i) sums[i] = splat((float)i);
  VF a = splat(0.999f), b = splat(0.001f);
  for (uint64_t r = 0; r < rounds; ++r) {
    UNROLL for (int i = 0; i < kChains; ++i) {
#if defined(__AVX512F__)
      sums[i] = _mm512_fmadd_ps(sums[i], a, b);
#elif defined(__FMA__)
      sums[i] = _mm256_fmadd_ps(sums[i], a, b);
#else
      sums[i] = sums[i] * a + b;
#endif
    }
  }
  VF total = splat(0.0f);
  UNROLL for (int i = 0; i < kChains; ++i) total += sums[i];
  *num_operations = rounds * kChains * kWidth;
  return (uint64_t)(uint32_t)total[0];
}

}  // namespace pintpot

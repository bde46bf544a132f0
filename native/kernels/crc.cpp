// CRC-32C (Castagnoli polynomial, reflected): by instruction over three interleaved streams where there is one,
// by tables of 8 bytes otherwise.
#include "entry.h"
#include "simd.h"

namespace pintpot {
namespace {

constexpr uint32_t kPolynomial = 0x82f63b78u;

constexpr uint32_t add_zeros(uint32_t crc, int bytes) {
  for (int i = 0; i < bytes * 8; ++i) crc = crc >> 1 ^ (crc & 1 ? kPolynomial : 0);
  return crc;
}

// of[row][v]: what the byte v of a remainder becomes after some zero bytes; `make_tables` is told which by `step`.
template <int ROWS>
struct Tables {
  uint32_t of[ROWS][256];
};
// The tables' linear part: entries of powers of two by stepping, the rest by exclusive or.
template <int ROWS, class Step>
constexpr Tables<ROWS> make_tables(Step step) {
  Tables<ROWS> t = {};
  for (int row = 0; row < ROWS; ++row) {
    for (int bit = 0; bit < 8; ++bit) t.of[row][1 << bit] = step(row, 1u << bit);
    for (int v = 1; v < 256; ++v)
      if (v & (v - 1)) t.of[row][v] = t.of[row][v & (v - 1)] ^ t.of[row][v & -v];
  }
  return t;
}

#if defined(__SSE4_2__)

constexpr int kStream = 1024;  // bytes of each of the three streams
constexpr Tables<4> kShift =
    make_tables<4>([](int row, uint32_t value) { return add_zeros(value << 8 * row, kStream); });

INLINE uint32_t shift_stream(uint32_t crc) {
  return kShift.of[0][crc & 255] ^ kShift.of[1][crc >> 8 & 255] ^ kShift.of[2][crc >> 16 & 255] ^
         kShift.of[3][crc >> 24];
}
INLINE uint32_t three_streams(uint32_t crc, const uint8_t* p) {
  uint64_t a = crc, b = 0, c = 0;
  for (int i = 0; i < kStream; i += 8) {
    a = _mm_crc32_u64(a, load<uint64_t>(p + i));
    b = _mm_crc32_u64(b, load<uint64_t>(p + kStream + i));
    c = _mm_crc32_u64(c, load<uint64_t>(p + 2 * kStream + i));
  }
  return shift_stream(shift_stream((uint32_t)a) ^ (uint32_t)b) ^ (uint32_t)c;
}
INLINE uint32_t run(uint32_t crc, const uint8_t* p, size_t bytes) {
  for (; bytes >= 3 * kStream; bytes -= 3 * kStream, p += 3 * kStream) crc = three_streams(crc, p);
  uint64_t wide = crc;
  for (; bytes >= 8; bytes -= 8, p += 8) wide = _mm_crc32_u64(wide, load<uint64_t>(p));
  crc = (uint32_t)wide;
  for (; bytes > 0; --bytes, ++p) crc = _mm_crc32_u8(crc, *p);
  return crc;
}

#else

constexpr Tables<8> kBytes = make_tables<8>([](int row, uint32_t value) { return add_zeros(value, row + 1); });

INLINE uint32_t run(uint32_t crc, const uint8_t* p, size_t bytes) {
  for (; bytes >= 8; bytes -= 8, p += 8) {
    uint32_t next = 0;
    for (int i = 0; i < 8; ++i) next ^= kBytes.of[7 - i][p[i] ^ (i < 4 ? crc >> 8 * i & 255 : 0)];
    crc = next;
  }
  for (; bytes > 0; --bytes, ++p) crc = crc >> 8 ^ kBytes.of[0][(crc ^ *p) & 255];
  return crc;
}

#endif

}  // namespace

uint32_t crc32c(uint32_t crc, const void* data, size_t bytes) { return ~run(~crc, (const uint8_t*)data, bytes); }

}  // namespace pintpot

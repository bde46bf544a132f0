// What each source file of an instruction set's object offers to the table (table.cpp).
#pragma once
#include "kernels.h"

namespace pintpot {

// One format's kernels. `int8`, `brain` and `gated` are null for float formats.
struct FormatEntry {
  int64_t (*strip_bytes)(int64_t k);
  void (*int8)(const StripsCall& call);
  void (*brain)(const StripsCall& call);
  void (*gated)(const GatedCall& call);
  void (*float32)(const StripsCall& call);
  // Columns [first, first + n) of one strip, first a multiple of 32, n <= 32, as float32 [column][16].
  void (*expand)(const void* strip, int64_t k, int64_t first, int64_t n, float* to);
};
extern const FormatEntry kFloatEntries[3];   // f32 f16 bf16
extern const FormatEntry kSymEntries[6];     // sym8 .. sym2
extern const FormatEntry kAffineEntries[5];  // aff6 .. aff2
extern const FormatEntry kBlockEntries[2];   // q4_k q6_k
extern const FormatEntry kTableEntries[4];   // nf4 nf4_32 mxfp4 nvfp4
extern const FormatEntry kTwoFourEntries[3]; // sym8_24 sym6_24 sym4_24

// Adds the products of the columns kept apart, which lie behind `strip_bytes` bytes of every strip.
void add_apart(const StripsCall& call, int64_t strip_bytes);

void quantize(const float* x, int64_t x_stride, int64_t k, int32_t planes, int64_t num_tokens, int64_t first,
              int64_t last, void* out);
void rmsnorm(const float* x, const float* w, int64_t n, float eps, float* y);
void swiglu(const float* gate_up, int64_t n, float* y);
void geglu(const float* gate_up, int64_t n, float* y);
void rough_gate(int32_t kind, const float* gate_up, int64_t n, float* y);
void rotate(float* x, int64_t n, int64_t size);
void add(const float* x, int64_t n, float* y);
void scale(const float* x, int64_t n, float factor, float* y);

void rope_store(const RopeCall* call, const float* angles, const float* qkv, int64_t position, const int32_t* pages,
                float* q_out);
void attend(const AttendCall* call);
void attend_segments(const AttendCall* call, int64_t first, int64_t stop, float* partials);
void attend_merge(const AttendCall* call, const float* partials, int64_t num_segments);

int64_t argmax(const float* x, int64_t n);
float exp_sum(const float* x, int64_t n, float maximum, float inverse_temperature, float* p);
float kth_largest(const float* x, int64_t n, int64_t k);
float mass_threshold(const float* p, int64_t n, double mass);
double sum_from(const float* p, int64_t n, float threshold);
int64_t pick(const float* p, int64_t n, float threshold, double target);

uint32_t crc32c(uint32_t crc, const void* data, size_t bytes);
uint64_t read_loop(const void* data, size_t bytes);
void copy_loop(void* to, const void* from, size_t bytes);
uint64_t int8_peak(uint64_t rounds, uint64_t* num_operations);
uint64_t float_peak(uint64_t rounds, uint64_t* num_operations);

void norm(const NormCall* call, int64_t first, int64_t last);
void norm_back(const NormCall* call, int64_t first, int64_t last);
void gate(const GateCall* call, int64_t first, int64_t last);
void gate_back(const GateCall* call, int64_t first, int64_t last);
void join(const JoinCall* call, int64_t first, int64_t last);
void thin_products(const ThinCall* call, int64_t first, int64_t last);
void thin_added(const ThinCall* call, int64_t first, int64_t last);
void thin_sums(const ThinCall* call, float* thin, int64_t first, int64_t last);
int64_t attention_bytes(const AttentionCall* call);
void attention(const AttentionCall* call, int64_t first, int64_t last, void* scratch);
void attention_back(const AttentionCall* call, int64_t first, int64_t last, void* scratch);

}  // namespace pintpot

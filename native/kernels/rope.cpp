// Rotary embedding of new queries and keys, and storing keys and values into their pages.
#include "cache.h"
#include "entry.h"

namespace pintpot {
namespace {

void rotate(const RopeCall& c, const float* angles, float* x) {
  const int64_t half = c.rope_dim / 2;
  const float *cosine = angles, *sine = angles + half;
  const int64_t step = c.interleaved ? 2 : 1, mate = c.interleaved ? 1 : half;
  for (int64_t i = 0; i < half; ++i) {
    const float a = x[i * step], b = x[i * step + mate];
    x[i * step] = a * cosine[i] - b * sine[i];
    x[i * step + mate] = b * cosine[i] + a * sine[i];
  }
}

void prepare(const RopeCall& c, const float* norm, const float* angles, const float* x, float* y) {
  if (norm) rmsnorm(x, norm, c.cache.head_dim, c.eps, y);
  else if (y != x) memcpy(y, x, c.cache.head_dim * sizeof(float));
  rotate(c, angles, y);
}

}  // namespace

void rope_store(const RopeCall* call, const float* angles, const float* qkv, int64_t position, const int32_t* pages,
                float* q_out) {
  const CacheView& cache = call->cache;
  const int64_t dim = cache.head_dim, page = pages[position / kPageTokens], slot = position % kPageTokens;
  const float* keys = qkv + call->heads * dim;
  const float* values = keys + cache.kv_heads * dim;
  for (int64_t h = 0; h < cache.kv_heads; ++h) {
    float key[kMaxHeadDim];
    prepare(*call, call->k_norm, angles, keys + h * dim, key);
    store_key(cache, page_head(cache, cache.k, page, h), slot, key);
    store_value(cache, page_head(cache, cache.v, page, h), slot, values + h * dim);
  }
  for (int64_t h = 0; h < call->heads; ++h) prepare(*call, call->q_norm, angles, qkv + h * dim, q_out + h * dim);
}

}  // namespace pintpot

// Rows between the products of a step that learns (learn.h): norms, gates and thin matrices.
#include "entry.h"
#include "gate.h"
#include "learn_values.h"

namespace pintpot {
namespace {

template <class F>
INLINE void across(int64_t n, F f) {
  for (int64_t i = 0; i < n; i += 16) f(i, n - i);
}

template <class X>
INLINE float root_of(const char* x, int64_t n, float eps) {
  Pack squares = spread(0.0f);
  across(n, [&](int64_t i, int64_t left) {
    const Pack a = get<X>(x, i, left);
    squares = squares + a * a;
  });
  return 1.0f / __builtin_sqrtf(sum(squares) / (float)n + eps);
}

template <class X, class Y>
void norm_rows(const NormCall& c, int64_t first, int64_t last) {
  for (int64_t row = first; row < last; ++row) {
    const char* x = (const char*)c.x.at + row * c.n * X::kBytes;
    char* y = (char*)c.y.at + row * c.n * Y::kBytes;
    const Pack root = spread(root_of<X>(x, c.n, c.eps));
    across(c.n, [&](int64_t i, int64_t left) { put<Y>(y, i, left, get<X>(x, i, left) * root * get<Floats>(c.w, i, left)); });
  }
}

// With v = x * r and g = grad * w: by_x = (g - v * mean(g * v)) * r, by_w = grad * v.
template <class X, class Y>
void norm_rows_back(const NormCall& c, int64_t first, int64_t last) {
  for (int64_t row = first; row < last; ++row) {
    const char* x = (const char*)c.x.at + row * c.n * X::kBytes;
    const char* grad = (const char*)c.y.at + row * c.n * Y::kBytes;
    const float one = root_of<X>(x, c.n, c.eps);
    const Pack root = spread(one);
    Pack together = spread(0.0f);
    across(c.n, [&](int64_t i, int64_t left) {
      const Pack v = get<X>(x, i, left) * root, g = get<Y>(grad, i, left);
      if (c.by_w) put<Floats>(c.by_w, i, left, get<Floats>(c.by_w, i, left) + g * v);
      together = together + g * get<Floats>(c.w, i, left) * v;
    });
    if (!c.by_x.at) continue;
    const Pack mean = spread(sum(together) / (float)c.n);
    char* by_x = (char*)c.by_x.at + row * c.n * X::kBytes;
    across(c.n, [&](int64_t i, int64_t left) {
      const Pack v = get<X>(x, i, left) * root, g = get<Y>(grad, i, left) * get<Floats>(c.w, i, left);
      put<X>(by_x, i, left, (g - v * mean) * root);
    });
  }
}

// 1 / (1 + exp(-z)).
INLINE Pack share_of(Pack z) {
  const Pack e = exp_of_negative(each([&](int j) { return (VF)((VU)z.v[j] | 0x80000000u); }));
  const Pack share = spread(1.0f) / (spread(1.0f) + e);
  return each([&](int j) { return z.v[j] < 0.0f ? e.v[j] * share.v[j] : share.v[j]; });
}

// z of a gate, and its slope.
struct SiluOpened {
  INLINE Pack operator()(Pack gate) const { return gate; }
  INLINE Pack slope(Pack) const { return spread(1.0f); }
};
struct GeluOpened {
  INLINE Pack operator()(Pack gate) const { return GeGlu()(gate); }
  INLINE Pack slope(Pack gate) const { return spread(1.59576912f) + spread(0.2140644489f) * (gate * gate); }
};
template <class F>
INLINE void opened(int32_t kind, F f) {
  if (kind == kSwiGlu) f(SiluOpened());
  else f(GeluOpened());
}

template <class T, class Z>
void gate_values(const GateCall& c, Z opened, int64_t first, int64_t last) {
  across(last - first, [&](int64_t i, int64_t left) {
    const Pack g = get<T>(c.gate.at, first + i, left), u = get<T>(c.up.at, first + i, left);
    put<T>(c.y.at, first + i, left, g * share_of(opened(g)) * u);
  });
}

// act'(g) = s + g * s * (1 - s) * z'.
template <class T, class Z>
void gate_values_back(const GateCall& c, Z opened, int64_t first, int64_t last) {
  across(last - first, [&](int64_t i, int64_t left) {
    const Pack g = get<T>(c.gate.at, first + i, left), u = get<T>(c.up.at, first + i, left), y = get<T>(c.y.at, first + i, left);
    const Pack s = share_of(opened(g)), acted = g * s;
    const Pack slope = s + acted * (spread(1.0f) - s) * opened.slope(g);
    put<T>(c.by_gate.at, first + i, left, y * u * slope);
    put<T>(c.by_up.at, first + i, left, y * acted);
  });
}

template <class T>
void join_values(const JoinCall& c, int64_t first, int64_t last) {
  across(last - first, [&](int64_t i, int64_t left) {
    put<Floats>(c.y, first + i, left, get<Floats>(c.states, first + i, left) + get<T>(c.made.at, first + i, left));
  });
}

constexpr int64_t kThin = 4;  // rows of a thin matrix at a time

// Each sum over 16 lanes and the tree.
template <class X, int R>
INLINE void thin_row(const ThinCall& c, const char* x, const float* thin, float* inner) {
  Pack sums[R];
  UNROLL for (int i = 0; i < R; ++i) sums[i] = spread(0.0f);
  across(c.n, [&](int64_t column, int64_t left) {
    const Pack a = get<X>(x, column, left);
    UNROLL for (int i = 0; i < R; ++i) sums[i] = sums[i] + a * get<Floats>(thin + i * c.n, column, left);
  });
  UNROLL for (int i = 0; i < R; ++i) inner[i] = sum(sums[i]) * c.scale;
}

template <class X>
void thin_rows(const ThinCall& c, int64_t first, int64_t last) {
  for (int64_t row = first; row < last; ++row) {
    const char* x = (const char*)c.x.at + row * c.n * X::kBytes;
    float* inner = c.inner + row * c.r;
    int64_t i = 0;
    for (; i + kThin <= c.r; i += kThin) thin_row<X, kThin>(c, x, c.thin + i * c.n, inner + i);
    for (; i < c.r; ++i) thin_row<X, 1>(c, x, c.thin + i * c.n, inner + i);
  }
}

template <class X>
void add_thin(const ThinCall& c, int64_t first, int64_t last) {
  for (int64_t row = first; row < last; ++row) {
    char* x = (char*)c.x.at + row * c.n * X::kBytes;
    const float* inner = c.inner + row * c.r;
    across(c.n, [&](int64_t column, int64_t left) {
      Pack more = spread(0.0f);
      for (int64_t i = 0; i < c.r; ++i) more = more + spread(inner[i]) * get<Floats>(c.thin + i * c.n, column, left);
      put<X>(x, column, left, get<X>(x, column, left) + more * spread(c.scale));
    });
  }
}

template <class X, int R>
INLINE void sum_thin(const ThinCall& c, float* thin, int64_t at, int64_t column, int64_t left) {
  Pack sums[R];
  UNROLL for (int i = 0; i < R; ++i) sums[i] = spread(0.0f);
  for (int64_t row = 0; row < c.rows; ++row) {
    const Pack a = get<X>(c.x.at, row * c.n + column, left);
    UNROLL for (int i = 0; i < R; ++i) sums[i] = sums[i] + a * spread(c.inner[row * c.r + at + i]);
  }
  UNROLL for (int i = 0; i < R; ++i) put<Floats>(thin + (at + i) * c.n, column, left, sums[i] * spread(c.scale));
}

template <class X>
void sum_thins(const ThinCall& c, float* thin, int64_t first, int64_t last) {
  for (int64_t column = first; column < last; column += 16) {
    int64_t i = 0;
    for (; i + 2 * kThin <= c.r; i += 2 * kThin) sum_thin<X, 2 * kThin>(c, thin, i, column, last - column);
    for (; i < c.r; ++i) sum_thin<X, 1>(c, thin, i, column, last - column);
  }
}

}  // namespace

void norm(const NormCall* c, int64_t first, int64_t last) {
  typed(c->x, c->y, [&](auto x, auto y) { norm_rows<decltype(x), decltype(y)>(*c, first, last); });
}
void norm_back(const NormCall* c, int64_t first, int64_t last) {
  typed(c->x, c->y, [&](auto x, auto y) { norm_rows_back<decltype(x), decltype(y)>(*c, first, last); });
}
void gate(const GateCall* c, int64_t first, int64_t last) {
  opened(c->kind, [&](auto z) { typed(c->y, [&](auto t) { gate_values<decltype(t)>(*c, z, first, last); }); });
}
void gate_back(const GateCall* c, int64_t first, int64_t last) {
  opened(c->kind, [&](auto z) { typed(c->y, [&](auto t) { gate_values_back<decltype(t)>(*c, z, first, last); }); });
}
void join(const JoinCall* c, int64_t first, int64_t last) {
  typed(c->made, [&](auto t) { join_values<decltype(t)>(*c, first, last); });
}
void thin_products(const ThinCall* c, int64_t first, int64_t last) {
  typed(c->x, [&](auto x) { thin_rows<decltype(x)>(*c, first, last); });
}
void thin_added(const ThinCall* c, int64_t first, int64_t last) {
  typed(c->x, [&](auto x) { add_thin<decltype(x)>(*c, first, last); });
}
void thin_sums(const ThinCall* c, float* thin, int64_t first, int64_t last) {
  typed(c->x, [&](auto x) { sum_thins<decltype(x)>(*c, thin, first, last); });
}

}  // namespace pintpot

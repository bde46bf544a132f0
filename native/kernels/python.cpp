// Every kernel, callable with numpy arrays and the name of an instruction set ("" for the chosen one). Outputs are
// arrays of the caller's, so that tests can poison them. The GIL is released while a kernel runs.
#include "python.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>

#include "dispatch.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace pintpot {
namespace {

template <class T, int N>
using Array = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
using Bytes = Array<const uint8_t, 1>;
using Rows = Array<const float, 2>;
using OutRows = Array<float, 2>;
using Row = Array<const float, 1>;
using OutRow = Array<float, 1>;
using Pages = Array<const int32_t, 1>;

void need(bool condition, const char* why) {
  if (!condition) throw std::invalid_argument(why);
}
const KernelTable& table(const std::string& isa) { return isa.empty() ? kernels() : kernels_of(isa); }
// Of what can be expanded row by row: columns kept apart are not put back there.
int32_t format_of(const std::string& name) {
  const PackedFormat found = packed_format(name);
  need(found.num_apart == 0, "strips with columns kept apart are not expanded");
  return found.format;
}
template <class F>
auto unlocked(F f) {
  const nb::gil_scoped_release release;
  return f();
}

int64_t strip_bytes(const std::string& isa, const std::string& format, int64_t k) {
  need(k >= 1, "k must be at least 1");
  return packed_format(format).strip_bytes(table(isa), k);
}

void quantize(const std::string& isa, Rows x, int32_t planes, int64_t first, int64_t last, Array<uint8_t, 1> out) {
  const int64_t tokens = (int64_t)x.shape(0), k = (int64_t)x.shape(1);
  need(planes >= 1 && planes <= kBrainRows, "planes must be 1 or 2, or 3 for bfloat16");
  need(0 <= first && first <= last && last <= tokens, "first and last must lie within the tokens");
  need((int64_t)out.shape(0) == tokens * quantized_bytes(k, planes), "out must have quantized_bytes for each token");
  const auto& t = table(isa);
  unlocked([&] { t.quantize(x.data(), k, k, planes, tokens, first, last, out.data()); });
}

void strips(const std::string& isa, const std::string& format, Bytes packed, int64_t k, std::optional<Rows> x,
            std::optional<Bytes> quantized, int32_t planes, OutRows out, std::optional<Rows> apart) {
  const auto& t = table(isa);
  const PackedFormat packed_as = packed_format(format);
  StripsCall c = {};
  c.format = packed_as.format, c.num_apart = packed_as.num_apart, c.planes = planes, c.k = k;
  const int64_t bytes = packed_as.strip_bytes(t, k);
  c.strips = packed.data(), c.num_strips = (int64_t)packed.shape(0) / bytes;
  c.num_tokens = (int64_t)out.shape(0), c.out = out.data();
  c.out_stride = c.num_rows = (int64_t)out.shape(1);
  need((int64_t)packed.shape(0) == c.num_strips * bytes && c.num_strips >= 1, "strips must be whole");
  need(c.num_rows <= 16 * c.num_strips && c.num_rows > 16 * (c.num_strips - 1), "out must have the strips' rows");
  need(x.has_value() != quantized.has_value(), "give x or quantized, not both");
  need(apart.has_value() == (c.num_apart > 0), "apart comes with columns that are kept apart");
  if (apart) {
    need((int64_t)apart->shape(0) == c.num_tokens && (int64_t)apart->shape(1) == c.num_apart, "apart must be [tokens, columns]");
    c.apart = apart->data();
  }
  if (x) {
    need((int64_t)x->shape(0) == c.num_tokens && (int64_t)x->shape(1) == k, "x must be [tokens, k]");
    c.x = x->data(), c.x_stride = k;
  } else {
    need(planes >= 1 && planes <= kBrainRows, "planes must be 1 or 2, or 3 for bfloat16");
    need(c.format >= kSym8, "float formats take float32 activations");
    need((int64_t)quantized->shape(0) == c.num_tokens * quantized_bytes(k, planes), "quantized has the wrong size");
    c.quantized = quantized->data();
  }
  unlocked([&] { t.strips(&c); });
}

void expand_row(const std::string& isa, const std::string& format, Bytes packed, int64_t row, OutRow out) {
  const auto& t = table(isa);
  const int32_t f = format_of(format);
  const int64_t k = (int64_t)out.shape(0);
  need(row >= 0 && (row / 16 + 1) * t.strip_bytes(f, k) <= (int64_t)packed.shape(0), "row lies beyond the strips");
  unlocked([&] { t.expand_row(f, packed.data(), k, row, out.data()); });
}

void expand_strip(const std::string& isa, const std::string& format, Bytes packed, OutRows out) {
  const auto& t = table(isa);
  const int32_t f = format_of(format);
  const int64_t k = (int64_t)out.shape(1);
  need(out.shape(0) == 16 && t.strip_bytes(f, k) <= (int64_t)packed.shape(0), "one strip expands to [16, k]");
  unlocked([&] { t.expand_strip(f, packed.data(), k, out.data()); });
}

void rmsnorm(const std::string& isa, Row x, Row w, float eps, OutRow y) {
  need(x.shape(0) == w.shape(0) && x.shape(0) == y.shape(0), "x, w and y must have one length");
  table(isa).rmsnorm(x.data(), w.data(), (int64_t)x.shape(0), eps, y.data());
}
void swiglu(const std::string& isa, Row gate_up, OutRow y) {
  need(gate_up.shape(0) == 2 * y.shape(0), "gate_up must be twice as long as y");
  table(isa).swiglu(gate_up.data(), (int64_t)y.shape(0), y.data());
}
void geglu(const std::string& isa, Row gate_up, OutRow y) {
  need(gate_up.shape(0) == 2 * y.shape(0), "gate_up must be twice as long as y");
  table(isa).geglu(gate_up.data(), (int64_t)y.shape(0), y.data());
}
void rotate(const std::string& isa, OutRow x, int64_t size) {
  const int64_t n = (int64_t)x.shape(0);
  need(size > 1 && (size & (size - 1)) == 0 && n % size == 0, "blocks are a power of two that divides the length of x");
  table(isa).rotate(x.data(), n, size);
}
void add(const std::string& isa, Row x, OutRow y) {
  need(x.shape(0) == y.shape(0), "x and y must have one length");
  table(isa).add(x.data(), (int64_t)x.shape(0), y.data());
}
void scale(const std::string& isa, Row x, float factor, OutRow y) {
  need(x.shape(0) == y.shape(0), "x and y must have one length");
  table(isa).scale(x.data(), (int64_t)x.shape(0), factor, y.data());
}

// k and v are the whole caches' bytes; page numbers are checked against their size.
CacheView view(const std::string& format, Array<uint8_t, 1> k, Array<uint8_t, 1> v, int32_t kv_heads, int32_t dim,
               Pages pages) {
  need(format == "f16" || format == "f32" || format == "sym8c", "the cache is f16, f32 or sym8c");
  need(dim > 0 && dim % 32 == 0 && dim <= kMaxHeadDim && kv_heads > 0, "head_dim: a multiple of 32, at most 256");
  const bool half = format == "f16", whole = format == "f32";
  const int64_t page = kv_heads * kPageTokens * (whole ? dim * 4 : half ? dim * 2 : dim + dim / 32 * 2);
  for (size_t i = 0; i < pages.shape(0); ++i)
    need(pages.data()[i] < (int64_t)k.shape(0) / page && pages.data()[i] < (int64_t)v.shape(0) / page,
         "a page lies beyond the cache");
  return {k.data(), v.data(), whole ? kCacheF32 : half ? kCacheF16 : kCacheSym8c, kv_heads, dim};
}

void rope_store(const std::string& isa, const std::string& format, Array<uint8_t, 1> k, Array<uint8_t, 1> v,
                Pages pages, int32_t kv_heads, int32_t head_dim, Rows qkv, Rows rope, bool interleaved,
                std::optional<Row> q_norm, std::optional<Row> k_norm, float eps, int64_t position, OutRows q_out) {
  RopeCall c = {};
  c.cache = view(format, k, v, kv_heads, head_dim, pages);
  c.heads = (int32_t)qkv.shape(1) / head_dim - 2 * kv_heads;
  c.rope_dim = (int32_t)rope.shape(1), c.interleaved = interleaved, c.eps = eps;
  c.q_norm = q_norm ? q_norm->data() : nullptr, c.k_norm = k_norm ? k_norm->data() : nullptr;
  const int64_t tokens = (int64_t)qkv.shape(0), last = position + tokens - 1;
  need(c.heads > 0 && (int64_t)q_out.shape(1) == c.heads * head_dim && q_out.shape(0) == qkv.shape(0),
       "qkv and q_out disagree");
  need(position >= 0 && last < (int64_t)rope.shape(0) && last / kPageTokens < (int64_t)pages.shape(0),
       "positions lie beyond rope or pages");
  const auto& t = table(isa);
  for (int64_t i = 0; i < tokens; ++i) {
    need(pages.data()[(position + i) / kPageTokens] >= 0, "the page of a new token must exist");
    t.rope_store(&c, rope.data() + (position + i) * c.rope_dim, qkv.data() + i * (int64_t)qkv.shape(1), position + i, pages.data(),
                 q_out.data() + i * (int64_t)q_out.shape(1));
  }
}

// All kv heads; with `pieces` through attend_segments and attend_merge instead of attend.
void attend(const std::string& isa, const std::string& format, Array<uint8_t, 1> k, Array<uint8_t, 1> v, Pages pages,
            int32_t kv_heads, int32_t head_dim, Rows q, float scale, int32_t window, int32_t sinks, int64_t position,
            bool pieces, int32_t rounded, OutRows out) {
  AttendCall c = {};
  c.cache = view(format, k, v, kv_heads, head_dim, pages);
  c.heads = (int32_t)q.shape(1) / head_dim, c.scale = scale, c.window = window, c.sinks = sinks, c.rounded = rounded;
  c.num_tokens = (int32_t)q.shape(0), c.first_position = position, c.pages = pages.data();
  c.q = q.data(), c.q_stride = (int64_t)q.shape(1), c.out = out.data(), c.out_stride = (int64_t)out.shape(1);
  need(c.heads % kv_heads == 0 && q.shape(0) == out.shape(0) && q.shape(1) == out.shape(1), "q and out disagree");
  const int64_t end = position + c.num_tokens, segments = num_segments(end);
  need(position >= 0 && (end + kPageTokens - 1) / kPageTokens <= (int64_t)pages.shape(0), "pages end too soon");
  const int64_t piece = c.num_tokens * (c.heads / kv_heads) * partial_floats(head_dim);
  std::vector<float> partials(pieces ? segments * piece : 0);
  const auto& t = table(isa);
  unlocked([&] {
    for (c.kv_head = 0; c.kv_head < kv_heads; ++c.kv_head) {
      if (!pieces) t.attend(&c);
      // In runs of 1, 2, 3, ... segments, the last ones first.
      for (int64_t stop = segments, n = 1; pieces && stop > 0; stop -= n++)
        t.attend_segments(&c, stop > n ? stop - n : 0, stop, partials.data());
      if (pieces) t.attend_merge(&c, partials.data(), segments);
    }
  });
}

void bind_sampling(nb::module_& m) {
  m.def("argmax", [](const std::string& isa, Row x) { return table(isa).argmax(x.data(), (int64_t)x.shape(0)); });
  m.def("exp_sum", [](const std::string& isa, Row x, float maximum, float inverse_temperature, OutRow p) {
    need(x.shape(0) == p.shape(0), "x and p must have one length");
    return table(isa).exp_sum(x.data(), (int64_t)x.shape(0), maximum, inverse_temperature, p.data());
  });
  m.def("kth_largest", [](const std::string& isa, Row x, int64_t k) {
    need(k >= 1 && k <= (int64_t)x.shape(0), "k must lie in 1..n");
    return table(isa).kth_largest(x.data(), (int64_t)x.shape(0), k);
  });
  m.def("mass_threshold", [](const std::string& isa, Row p, double mass) {
    return table(isa).mass_threshold(p.data(), (int64_t)p.shape(0), mass);
  });
  m.def("sum_from", [](const std::string& isa, Row p, float threshold) {
    return table(isa).sum_from(p.data(), (int64_t)p.shape(0), threshold);
  });
  m.def("pick", [](const std::string& isa, Row p, float threshold, double target) {
    return table(isa).pick(p.data(), (int64_t)p.shape(0), threshold, target);
  });
}

void bind_limits(nb::module_& m) {
  m.def("crc32c", [](const std::string& isa, uint32_t crc, Bytes data) {
    const auto& t = table(isa);
    return unlocked([&] { return t.crc32c(crc, data.data(), data.shape(0)); });
  });
  m.def("read_loop", [](const std::string& isa, Bytes data) {
    const auto& t = table(isa);
    return unlocked([&] { return t.read_loop(data.data(), data.shape(0)); });
  });
  m.def("copy_loop", [](const std::string& isa, Array<uint8_t, 1> to, Bytes from) {
    need(to.shape(0) == from.shape(0) && to.shape(0) % 64 == 0, "equal sizes, a multiple of 64");
    const auto& t = table(isa);
    unlocked([&] { t.copy_loop(to.data(), from.data(), from.shape(0)); });
  });
  // Multiply-adds done; the caller holds the clock.
  m.def("int8_peak", [](const std::string& isa, uint64_t rounds) {
    const auto& t = table(isa);
    uint64_t operations = 0;
    unlocked([&] { return t.int8_peak(rounds, &operations); });
    return operations;
  });
  m.def("float_peak", [](const std::string& isa, uint64_t rounds) {
    const auto& t = table(isa);
    uint64_t operations = 0;
    unlocked([&] { return t.float_peak(rounds, &operations); });
    return operations;
  });
}

}  // namespace

void bind_kernels(nb::module_& parent) {
  nb::module_ m = parent.def_submodule("kernels", "The native kernels, one by one, on a named instruction set.");
  m.def("available", available_isas, "Instruction sets that can be used here, best first.");
  m.def("chosen", [] { return std::string(kernels().isa); }, "The one that runs: the best, or PINTPOT_ISA.");
  m.def("quantized_bytes", quantized_bytes, "k"_a, "planes"_a);
  m.def("strip_bytes", strip_bytes, "isa"_a, "format"_a, "k"_a);
  m.def("quantize", quantize, "isa"_a, "x"_a, "planes"_a, "first"_a, "last"_a, "out"_a);
  m.def("strips", strips, "isa"_a, "format"_a, "strips"_a, "k"_a, "x"_a.none(), "quantized"_a.none(), "planes"_a,
        "out"_a, "apart"_a.none() = nb::none());
  m.def("expand_row", expand_row, "isa"_a, "format"_a, "strips"_a, "row"_a, "out"_a);
  m.def("expand_strip", expand_strip, "isa"_a, "format"_a, "strip"_a, "out"_a);
  m.def("rmsnorm", rmsnorm, "isa"_a, "x"_a, "w"_a, "eps"_a, "y"_a);
  m.def("swiglu", swiglu, "isa"_a, "gate_up"_a, "y"_a);
  m.def("geglu", geglu, "isa"_a, "gate_up"_a, "y"_a);
  m.def("rotate", rotate, "isa"_a, "x"_a, "size"_a);
  m.def("add", add, "isa"_a, "x"_a, "y"_a);
  m.def("scale", scale, "isa"_a, "x"_a, "factor"_a, "y"_a);
  m.def("rope_store", rope_store, "isa"_a, "format"_a, "k"_a, "v"_a, "pages"_a, "kv_heads"_a, "head_dim"_a, "qkv"_a,
        "rope"_a, "interleaved"_a, "q_norm"_a.none(), "k_norm"_a.none(), "eps"_a, "position"_a, "q_out"_a);
  m.def("attend", attend, "isa"_a, "format"_a, "k"_a, "v"_a, "pages"_a, "kv_heads"_a, "head_dim"_a, "q"_a, "scale"_a,
        "window"_a, "sinks"_a, "position"_a, "pieces"_a, "rounded"_a, "out"_a);
  bind_sampling(m);
  bind_limits(m);
}

}  // namespace pintpot

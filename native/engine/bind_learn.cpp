// Rows of a step that learns, shared out among a pool's threads. Memory is the caller's, by its address: who calls checks sizes.

#include <algorithm>
#include <cstring>

#include "engine/bind.h"
#include "engine/errors.h"
#include "kernels/dispatch.h"

namespace pintpot {

namespace {

using Address = uintptr_t;
using Typed = std::pair<Address, bool>;  // and whether it is bfloat16

constexpr int64_t kColumns = 64, kValues = 1024;  // that a thread takes at least
constexpr int kChunks = 4;  // of a thread, so that one that was held up is helped

const LearnTable& table(const std::string& isa) { return (isa.empty() ? kernels() : kernels_of(isa)).learn; }

template <class T>
T* at(Address address) {
    return reinterpret_cast<T*>(address);
}
Values values(Typed given) { return {at<void>(given.first), given.second}; }

// To bfloat16, nearest even.
void round_to(const float* from, int64_t count, uint16_t* to) {
    for (int64_t i = 0; i < count; ++i) {
        uint32_t bits;
        std::memcpy(&bits, from + i, 4);
        to[i] = from[i] == from[i] ? uint16_t((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16) : uint16_t(0x7fc0);
    }
}

// [0, count) in parts of at least `least` each, every part but the last a multiple of it.
void shared(Pool& pool, int64_t count, int64_t least, const std::function<void(int, int64_t, int64_t, int64_t)>& work) {
    if (count <= 0) return;
    int64_t units = (count + least - 1) / least, parts = std::min<int64_t>(units, int64_t(pool.size()) * kChunks);
    pool.run(parts, [&](int thread, int64_t part) {
        work(thread, part, units * part / parts * least, std::min(count, units * (part + 1) / parts * least));
    });
}

void norm(Pool& pool, Typed x, Address w, Typed y, int64_t rows, int64_t n, float eps, const std::string& isa) {
    NormCall call = {values(x), values(y), at<const float>(w), n, eps, {}, nullptr};
    auto& kernel = table(isa).norm;
    shared(pool, rows, 1, [&](int, int64_t, int64_t first, int64_t last) { kernel(&call, first, last); });
}

void norm_back(Pool& pool, Typed x, Address w, Typed grad, Address by_x, Address by_w, int64_t rows, int64_t n, float eps,
               const std::string& isa) {
    NormCall call = {values(x), values(grad), at<const float>(w), n, eps, {at<void>(by_x), x.second}, nullptr};
    auto& kernel = table(isa).norm_back;
    std::vector<float> sums(by_w != 0 ? size_t(pool.size()) * kChunks * size_t(n) : 0);
    shared(pool, rows, 1, [&](int, int64_t part, int64_t first, int64_t last) {
        NormCall own = call;
        own.by_w = by_w != 0 ? &sums[size_t(part) * size_t(n)] : nullptr;
        kernel(&own, first, last);
    });
    if (by_w == 0) return;
    std::fill_n(at<float>(by_w), n, 0.0f);
    for (size_t part = 0; part < sums.size(); part += size_t(n))
        for (int64_t i = 0; i < n; ++i) at<float>(by_w)[i] += sums[part + size_t(i)];
}

void gate(Pool& pool, const std::string& kind, Address gate, Address up, Typed y, int64_t count, const std::string& isa) {
    bool brain = y.second;
    GateCall call = {kind == "geglu" ? kGeGlu : kSwiGlu, {at<void>(gate), brain}, {at<void>(up), brain}, values(y), {}, {}};
    auto& kernel = table(isa).gate;
    shared(pool, count, kValues, [&](int, int64_t, int64_t first, int64_t last) { kernel(&call, first, last); });
}

void gate_back(Pool& pool, const std::string& kind, Address gate, Address up, Typed grad, Address by_gate, Address by_up,
               int64_t count, const std::string& isa) {
    bool brain = grad.second;
    GateCall call = {kind == "geglu" ? kGeGlu : kSwiGlu, {at<void>(gate), brain}, {at<void>(up), brain}, values(grad),
                     {at<void>(by_gate), brain}, {at<void>(by_up), brain}};
    auto& kernel = table(isa).gate_back;
    shared(pool, count, kValues, [&](int, int64_t, int64_t first, int64_t last) { kernel(&call, first, last); });
}

void join(Pool& pool, Typed made, Address states, Address y, int64_t count, const std::string& isa) {
    JoinCall call = {values(made), at<const float>(states), at<float>(y)};
    auto& kernel = table(isa).join;
    shared(pool, count, kValues, [&](int, int64_t, int64_t first, int64_t last) { kernel(&call, first, last); });
}

ThinCall thin_call(Typed x, Address thin, Address inner, int64_t rows, int64_t n, int64_t r, float scale) {
    return {values(x), n, rows, r, at<const float>(thin), at<float>(inner), scale};
}

void thin_products(Pool& pool, Typed x, Address thin, Address inner, int64_t rows, int64_t n, int64_t r, float scale,
                   const std::string& isa) {
    ThinCall call = thin_call(x, thin, inner, rows, n, r, scale);
    auto& kernel = table(isa).thin_products;
    shared(pool, rows, 1, [&](int, int64_t, int64_t first, int64_t last) { kernel(&call, first, last); });
}

void thin_added(Pool& pool, Typed x, Address thin, Address inner, int64_t rows, int64_t n, int64_t r, float scale,
                const std::string& isa) {
    ThinCall call = thin_call(x, thin, inner, rows, n, r, scale);
    auto& kernel = table(isa).thin_added;
    shared(pool, rows, 1, [&](int, int64_t, int64_t first, int64_t last) { kernel(&call, first, last); });
}

void thin_sums(Pool& pool, Typed x, Address inner, Address thin, int64_t rows, int64_t n, int64_t r, float scale,
               const std::string& isa) {
    ThinCall call = thin_call(x, 0, inner, rows, n, r, scale);
    auto& kernel = table(isa).thin_sums;
    float* sums = at<float>(thin);
    shared(pool, n, kColumns, [&](int, int64_t, int64_t first, int64_t last) { kernel(&call, sums, first, last); });
}

// Rows [first, last) of strips as rows of `out`, by the thread that calls.
void expand(const std::string& format, Address strips, int64_t columns, int64_t first, int64_t last, Typed out,
            const std::string& isa) {
    const KernelTable& found = isa.empty() ? kernels() : kernels_of(isa);
    const PackedFormat packed = packed_format(format);
    need(packed.num_apart == 0, "strips with columns kept apart are not expanded");
    need(columns >= 1 && 0 <= first && first <= last, "rows of no kind");
    const int64_t bytes = packed.strip_bytes(found, columns);
    std::vector<float> rows(size_t(kStripRows * columns));
    for (int64_t row = first; row < last;) {
        int64_t strip = row / kStripRows, stop = std::min(last, (strip + 1) * kStripRows);
        found.expand_strip(packed.format, at<char>(strips) + strip * bytes, columns, rows.data());
        const float* from = rows.data() + (row - strip * kStripRows) * columns;
        int64_t count = (stop - row) * columns, to = (row - first) * columns;
        if (out.second) round_to(from, count, at<uint16_t>(out.first) + to);
        else std::copy_n(from, count, at<float>(out.first) + to);
        row = stop;
    }
}

struct Attention {
    AttentionCall call = {};
    Attention(int64_t sequences, int64_t length, int32_t heads, int32_t kv_heads, int32_t head_dim, int32_t rope_dim,
              bool interleaved, float scale) {
        need(sequences >= 1 && length >= 1 && kv_heads >= 1 && heads >= kv_heads && heads % kv_heads == 0, "heads of no kind");
        need(sequences <= INT32_MAX && length <= INT32_MAX, "more tokens than positions");
        need(head_dim >= 1 && head_dim <= kMaxHeadDim, text("head_dim is 1 to %d", int(kMaxHeadDim)));
        need(rope_dim >= 0 && rope_dim % 2 == 0 && rope_dim <= head_dim, "rope_dim is even, and head_dim at most");
        call.sequences = sequences, call.length = length, call.heads = heads, call.kv_heads = kv_heads;
        call.head_dim = head_dim, call.rope_dim = rope_dim, call.interleaved = interleaved, call.scale = scale;
    }
    int64_t scratch_bytes(const std::string& isa) const { return table(isa).attention_bytes(&call); }
    void read(Address q, Address k, Address v, Address angles, Address lowest) {
        call.q = at<void>(q), call.k = at<void>(k), call.v = at<void>(v);
        call.angles = at<const float>(angles), call.lowest = at<const int32_t>(lowest);
    }
    // `scratch` has scratch_bytes for each thread.
    void run(Pool& pool, bool back, Address scratch, const std::string& isa) const {
        const LearnTable& kernels = table(isa);
        auto& kernel = back ? kernels.attention_back : kernels.attention;
        int64_t bytes = kernels.attention_bytes(&call);
        pool.run(call.sequences * call.kv_heads, [&](int thread, int64_t head) {
            kernel(&call, head, head + 1, at<char>(scratch) + thread * bytes);
        });
    }
    void forward(Pool& pool, Address out, Address scratch, const std::string& isa) {
        call.out = at<void>(out);
        run(pool, false, scratch, isa);
    }
    void back(Pool& pool, Address grad, std::array<Address, 3> by, Address scratch, const std::string& isa) {
        call.grad = at<void>(grad), call.by_q = at<void>(by[0]), call.by_k = at<void>(by[1]), call.by_v = at<void>(by[2]);
        run(pool, true, scratch, isa);
    }
};

}  // namespace

void bind_learn(nb::module_& module) {
    nb::module_ learn = module.def_submodule("learn");
    using Free = nb::call_guard<nb::gil_scoped_release>;
    nb::arg_v isa = nb::arg("isa") = "";
    learn.def("norm", &norm, nb::arg("pool"), nb::arg("x"), nb::arg("w"), nb::arg("y"), nb::arg("rows"), nb::arg("n"),
              nb::arg("eps"), isa, Free());
    learn.def("norm_back", &norm_back, nb::arg("pool"), nb::arg("x"), nb::arg("w"), nb::arg("grad"), nb::arg("by_x"),
              nb::arg("by_w"), nb::arg("rows"), nb::arg("n"), nb::arg("eps"), isa, Free());
    learn.def("gate", &gate, nb::arg("pool"), nb::arg("kind"), nb::arg("gate"), nb::arg("up"), nb::arg("y"), nb::arg("count"),
              isa, Free());
    learn.def("gate_back", &gate_back, nb::arg("pool"), nb::arg("kind"), nb::arg("gate"), nb::arg("up"), nb::arg("grad"),
              nb::arg("by_gate"), nb::arg("by_up"), nb::arg("count"), isa, Free());
    learn.def("join", &join, nb::arg("pool"), nb::arg("made"), nb::arg("states"), nb::arg("y"), nb::arg("count"), isa, Free());
    for (auto [name, function] : {std::pair("thin_products", &thin_products), std::pair("thin_added", &thin_added)})
        learn.def(name, function, nb::arg("pool"), nb::arg("x"), nb::arg("thin"), nb::arg("inner"), nb::arg("rows"), nb::arg("n"),
                  nb::arg("r"), nb::arg("scale"), isa, Free());
    learn.def("thin_sums", &thin_sums, nb::arg("pool"), nb::arg("x"), nb::arg("inner"), nb::arg("thin"), nb::arg("rows"),
              nb::arg("n"), nb::arg("r"), nb::arg("scale"), isa, Free());
    learn.def("expand", &expand, nb::arg("format"), nb::arg("strips"), nb::arg("columns"), nb::arg("first"), nb::arg("last"),
              nb::arg("out"), isa, Free());
    nb::class_<Attention>(learn, "Attention")
        .def(nb::init<int64_t, int64_t, int32_t, int32_t, int32_t, int32_t, bool, float>(), nb::arg("sequences"),
             nb::arg("length"), nb::arg("heads"), nb::arg("kv_heads"), nb::arg("head_dim"), nb::arg("rope_dim"),
             nb::arg("interleaved"), nb::arg("scale"))
        .def("scratch_bytes", &Attention::scratch_bytes, isa)
        .def("read", &Attention::read, nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("angles"), nb::arg("lowest"))
        .def("forward", &Attention::forward, nb::arg("pool"), nb::arg("out"), nb::arg("scratch"), isa, Free())
        .def("back", &Attention::back, nb::arg("pool"), nb::arg("grad"), nb::arg("by"), nb::arg("scratch"), isa, Free());
}

}  // namespace pintpot

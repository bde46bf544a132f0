// Python's view of programs, calls and replays.

#include <optional>

#include "engine/bind.h"
#include "engine/errors.h"
#include "engine/replay.h"
#include "engine/ring_holder.h"
#include "kernels/dispatch.h"

namespace pintpot {

namespace {

template <class T>
T* pointer(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

const KernelTable& table_of(const std::string& isa) { return isa.empty() ? kernels() : kernels_of(isa); }

CacheFormat cache_format_of(const std::string& name) {
    need(name == "f16" || name == "f32" || name == "sym8c", "no cache format '" + name + "'");
    return name == "f16" ? kCacheF16 : name == "f32" ? kCacheF32 : kCacheSym8c;
}

// (slot, offset, first row, rows)
using PieceTuple = std::tuple<uint32_t, uint32_t, int64_t, int64_t>;

Weight to_weight(const std::string& format, int64_t rows, int64_t columns, uintptr_t address, int64_t resident_rows,
                 const std::vector<PieceTuple>& pieces, int64_t experts) {
    constexpr int64_t kMost = int64_t(1) << 31;
    need(rows > 0 && rows < kMost && columns > 0 && columns < kMost, "a weight has rows and columns, fewer than 2^31");
    auto whole = [&](int64_t row) { return row % kStripRows == 0 || row == rows; };
    need(resident_rows >= 0 && resident_rows <= rows && whole(resident_rows), "resident rows are whole strips");
    auto strips = [](int64_t count) { return (count + kStripRows - 1) / kStripRows; };
    Weight weight{};
    const PackedFormat found = packed_format(format);
    weight.format = found.format, weight.num_apart = found.num_apart;
    weight.rows = rows, weight.columns = columns, weight.experts = experts;
    weight.resident = pointer<const uint8_t>(address);
    weight.resident_strips = strips(resident_rows);
    for (const auto& [slot, offset, first, count] : pieces) {
        need(first >= 0 && count > 0 && count <= rows - first && first % kStripRows == 0 && whole(first + count),
             "the rows of a piece are whole strips");
        weight.pieces.push_back({slot, offset, first / kStripRows, strips(count)});
    }
    return weight;
}

// A program under construction; bound to memory it becomes a Replay and is used up.
struct Builder {
    Builder(int32_t tokens, int32_t rows, int32_t sequences, int32_t context, const std::string& isa)
        : kernels(table_of(isa)), list(std::make_unique<OpList>()) {
        list->bounds = {tokens, rows, sequences, context};
        Call(list->bounds, 0);  // checks the bounds
    }
    OpList& get() const {
        need(list != nullptr, "this program was bound already");
        return *list;
    }
    template <class T, class... Arguments>
    void add(Arguments&&... arguments) {
        get().ops.push_back(std::make_unique<T>(std::forward<Arguments>(arguments)...));
    }
    const KernelTable& kernels;
    std::unique_ptr<OpList> list;
};

Prologue prologue_of(const std::string& name) {
    if (name == "rmsnorm") return Prologue::kRmsNorm;
    if (name == "swiglu") return Prologue::kSwiGlu;
    if (name == "geglu") return Prologue::kGeGlu;
    need(name == "none", "no prologue '" + name + "'");
    return Prologue::kNone;
}

// (batch, batch stride, channels, channel stride), and of each axis its size, stride, places, kernel, step, zeros before
// the first, dilation
using GatherTuple = std::pair<std::array<int64_t, 4>, std::array<std::array<int64_t, 7>, kGatherAxes>>;

Gather to_gather(const GatherTuple& given) {
    Gather gather;
    gather.batch = given.first[0], gather.batch_stride = given.first[1];
    gather.channels = given.first[2], gather.channel_stride = given.first[3];
    for (size_t i = 0; i < given.second.size(); ++i) {
        const auto& [size, stride, places, kernel, step, before, dilation] = given.second[i];
        gather.axes[i] = {size, stride, places, kernel, step, before, dilation};
    }
    gather.check();
    return gather;
}

void add_linear(Builder& self, bool over_rows, bool selected, int64_t rows, uintptr_t x, uintptr_t out, const std::vector<Weight>& weights,
                const std::string& prologue, uintptr_t norm, float eps, int64_t rotate, int32_t planes,
                const std::vector<uintptr_t>& biases, uintptr_t post_norm, uintptr_t residual,
                const std::optional<GatherTuple>& gather, bool passes_on) {
    LinearRecord record{};
    record.over_rows = over_rows;
    record.selected = selected;
    record.rows = rows;
    record.x = pointer<const float>(x);
    record.out = pointer<float>(out);
    record.weights = weights;
    record.prologue = prologue_of(prologue);
    record.norm = pointer<const float>(norm);
    record.eps = eps;
    record.rotate = rotate;
    record.planes = planes;
    for (uintptr_t bias : biases) record.biases.push_back(pointer<const float>(bias));
    record.post_norm = pointer<const float>(post_norm);
    record.residual = pointer<const float>(residual);
    if (gather) record.gather = to_gather(*gather);
    record.passes_on = passes_on;
    self.add<Linear>(std::move(record), self.kernels);
}

void add_route(Builder& self, bool over_rows, int64_t experts, int64_t chosen, bool normed, uintptr_t scores, uintptr_t choice,
               uintptr_t shares) {
    self.add<Route>(RouteRecord{over_rows, experts, chosen, normed, pointer<const float>(scores), pointer<int32_t>(choice),
                                pointer<float>(shares)});
}

void add_experts(Builder& self, bool over_rows, int64_t experts, int64_t chosen, bool gathers, uintptr_t x, uintptr_t out,
                 const std::vector<Weight>& weights, const std::string& prologue, uintptr_t norm, float eps, int32_t planes,
                 uintptr_t choice, uintptr_t shares, uintptr_t residual, uintptr_t products) {
    ExpertsRecord record{over_rows, experts, chosen, gathers, pointer<const float>(x), prologue_of(prologue), pointer<const float>(norm),
                         eps, planes, weights, pointer<const int32_t>(choice), pointer<const float>(shares),
                         pointer<const float>(residual), pointer<float>(products), pointer<float>(out)};
    self.add<Experts>(std::move(record), self.kernels);
}

void add_attend(Builder& self, uintptr_t qkv, uintptr_t out, uintptr_t k, uintptr_t v, const std::string& cache_format,
                int32_t num_pages, uintptr_t table, uintptr_t given, int64_t num_given, int32_t rope_dim, const std::string& rope, uintptr_t q_norm,
                uintptr_t k_norm, float eps, int32_t heads, int32_t kv_heads, int32_t head_dim, float scale,
                int32_t window, int32_t sinks, int32_t rounded) {
    need(rope == "half" || rope == "interleaved", "no rope layout '" + rope + "'");
    AttendRecord record{};
    record.qkv = pointer<float>(qkv);
    record.out = pointer<float>(out);
    record.rope.cache = {pointer<void>(k), pointer<void>(v), cache_format_of(cache_format), kv_heads, head_dim};
    record.rope.heads = heads;
    record.rope.rope_dim = rope_dim;
    record.rope.interleaved = rope == "interleaved";
    record.rope.eps = eps;
    record.rope.q_norm = pointer<const float>(q_norm);
    record.rope.k_norm = pointer<const float>(k_norm);
    record.table = pointer<const float>(table);
    record.given = pointer<const float>(given);
    record.num_given = num_given;
    record.scale = scale;
    record.num_pages = num_pages;
    record.window = window;
    record.sinks = sinks;
    need(rounded >= kNotRounded && rounded <= kRoundedBrain, "attention rounds to nothing, integers or bfloat16");
    record.rounded = rounded;
    self.add<Attend>(record);
}

// A replay and everything it uses, so that nothing of it goes away first.
struct Bound final : Memory {
    Bound(Builder& builder, std::shared_ptr<Pool> pool_, std::shared_ptr<RingHolder> ring_,
          const std::vector<std::shared_ptr<Arena>>& arenas, uintptr_t scratch, size_t scratch_bytes,
          std::shared_ptr<CancelFlag> cancel_)
        : pool(std::move(pool_)), ring(std::move(ring_)), cancel(std::move(cancel_)) {
        for (const auto& arena : arenas) uses.emplace_back(arena);
        if (ring != nullptr) uses.emplace_back(ring->arena);
        builder.get();
        replay = std::make_unique<Replay>(std::move(builder.list), builder.kernels, *pool, ring ? &ring->ring : nullptr, *this,
                                          pointer<uint8_t>(scratch), scratch_bytes, *cancel);
    }
    void check(const void* address, int64_t bytes, size_t alignment, const char* what) const override {
        uintptr_t at = reinterpret_cast<uintptr_t>(address);
        need(bytes >= 0 && at % alignment == 0, text("%s does not lie at a multiple of %zu", what, alignment));
        for (const ArenaUse& arena : uses)
            if (arena->holds(at, size_t(bytes))) return;
        throw std::invalid_argument(text("%s, %lld bytes, lies in none of the arenas", what, (long long)bytes));
    }

    std::shared_ptr<Pool> pool;
    std::shared_ptr<RingHolder> ring;
    std::shared_ptr<CancelFlag> cancel;
    std::vector<ArenaUse> uses;
    std::unique_ptr<Replay> replay;
};

// False when cancelled. Python's own signal handlers run while it waits, and what they raise comes out of it.
bool run(Bound& self, Call& call, int first, std::optional<int> stop) {
    bool interrupted = false, whole;
    {
        nb::gil_scoped_release released;
        // Replays of one pool share their scratch.
        std::lock_guard<std::recursive_mutex> turn(self.pool->turn());
        whole = self.replay->run(call, first, stop.value_or(self.replay->num_ops()), [&interrupted] {
            nb::gil_scoped_acquire acquired;
            interrupted = PyErr_CheckSignals() != 0;
            return !interrupted;
        });
    }
    if (interrupted) throw nb::python_error();
    return whole;
}

nb::dict stats(const Bound& self) {
    nb::dict result;
    nb::list kinds, seconds;
    for (int op = 0; op < self.replay->num_ops(); ++op) {
        kinds.append(self.replay->kind(op));
        seconds.append(self.replay->seconds()[size_t(op)]);
    }
    result["calls"] = self.replay->calls();
    result["kinds"] = kinds;
    result["seconds"] = seconds;
    return result;
}

void bind_builder(nb::module_& module) {
    nb::class_<Weight>(module, "Weight")
        .def(
            "__init__",
            [](Weight* self, const std::string& format, int64_t rows, int64_t columns, uintptr_t address,
               int64_t resident_rows, const std::vector<PieceTuple>& pieces, int64_t experts) {
                new (self) Weight(to_weight(format, rows, columns, address, resident_rows, pieces, experts));
            },
            nb::arg("format"), nb::arg("rows"), nb::arg("columns"), nb::arg("address"), nb::arg("resident_rows"),
            nb::arg("pieces"), nb::arg("experts") = 1);
    nb::class_<Builder>(module, "Builder")
        .def(nb::init<int32_t, int32_t, int32_t, int32_t, const std::string&>(), nb::arg("tokens"), nb::arg("rows"),
             nb::arg("sequences"), nb::arg("context"), nb::arg("isa") = "")
        .def("scratch_bytes", [](const Builder& self, int threads) { return self.get().scratch_bytes(threads); },
             nb::arg("threads"))
        .def("elsewhere", [](Builder& self) { self.add<Elsewhere>(); })
        .def(
            "embed",
            [](Builder& self, const Weight& weight, float scale, uintptr_t out, uintptr_t ids, int64_t num_ids, uintptr_t given,
               int64_t num_given) {
                self.add<Embed>(EmbedRecord{weight, scale, pointer<float>(out), pointer<const int32_t>(ids), num_ids,
                                            pointer<const float>(given), num_given},
                                self.kernels);
            },
            nb::arg("weight"), nb::arg("scale"), nb::arg("out"), nb::arg("ids") = 0, nb::arg("num_ids") = 0,
            nb::arg("given") = 0, nb::arg("num_given") = 0)
        .def("linear", &add_linear, nb::arg("over_rows"), nb::arg("selected"), nb::arg("rows"), nb::arg("x"),
             nb::arg("out"), nb::arg("weights"), nb::arg("prologue"), nb::arg("norm"), nb::arg("eps"), nb::arg("rotate"), nb::arg("planes"), nb::arg("biases"),
             nb::arg("post_norm"), nb::arg("residual"), nb::arg("gather") = nb::none(), nb::arg("passes_on") = false)
        .def("route", &add_route, nb::arg("over_rows"), nb::arg("experts"), nb::arg("chosen"), nb::arg("normed"),
             nb::arg("scores"), nb::arg("choice"), nb::arg("shares"))
        .def("experts", &add_experts, nb::arg("over_rows"), nb::arg("experts"), nb::arg("chosen"), nb::arg("gathers"),
             nb::arg("x"), nb::arg("out"), nb::arg("weights"), nb::arg("prologue"), nb::arg("norm"), nb::arg("eps"),
             nb::arg("planes"), nb::arg("choice"), nb::arg("shares"), nb::arg("residual"), nb::arg("products"))
        .def("attend", &add_attend, nb::arg("qkv"), nb::arg("out"), nb::arg("k"), nb::arg("v"), nb::arg("cache_format"),
             nb::arg("num_pages"), nb::arg("table"), nb::arg("given"), nb::arg("num_given"), nb::arg("rope_dim"), nb::arg("rope"), nb::arg("q_norm"),
             nb::arg("k_norm"), nb::arg("eps"), nb::arg("heads"), nb::arg("kv_heads"), nb::arg("head_dim"),
             nb::arg("scale"), nb::arg("window"), nb::arg("sinks"), nb::arg("rounded"))
        .def(
            "give",
            [](Builder& self, uintptr_t x, int64_t columns, uintptr_t given, int64_t num_given) {
                self.add<Give>(GiveRecord{pointer<float>(x), columns, pointer<const float>(given), num_given});
            },
            nb::arg("x"), nb::arg("columns"), nb::arg("given"), nb::arg("num_given"))
        .def(
            "select",
            [](Builder& self, uintptr_t x, int64_t columns, uintptr_t out) {
                self.add<Select>(SelectRecord{pointer<const float>(x), columns, pointer<float>(out)});
            },
            nb::arg("x"), nb::arg("columns"), nb::arg("out"))
        .def(
            "sample",
            [](Builder& self, uintptr_t logits, int64_t vocabulary, uintptr_t next, uintptr_t logprob) {
                self.add<Sample>(SampleRecord{pointer<const float>(logits), vocabulary, pointer<int32_t>(next), pointer<float>(logprob)});
            },
            nb::arg("logits"), nb::arg("vocabulary"), nb::arg("next"), nb::arg("logprob") = 0);
}

}  // namespace

void bind_replay(nb::module_& module) {
    bind_builder(module);
    nb::class_<CancelFlag>(module, "CancelFlag")
        .def(nb::init<>())
        .def("set", [](CancelFlag& self) { self.set.store(true); })
        .def("clear", [](CancelFlag& self) { self.set.store(false); })
        .def_prop_ro("is_set", [](const CancelFlag& self) { return self.set.load(); });
    nb::class_<Bound>(module, "Replay")
        .def(nb::init<Builder&, std::shared_ptr<Pool>, std::shared_ptr<RingHolder>, const std::vector<std::shared_ptr<Arena>>&,
                      uintptr_t, size_t, std::shared_ptr<CancelFlag>>(),
             nb::arg("program"), nb::arg("pool"), nb::arg("ring").none(), nb::arg("arenas"), nb::arg("scratch"),
             nb::arg("scratch_bytes"), nb::arg("cancel"))
        .def("run", &run, nb::arg("call"), nb::arg("first") = 0, nb::arg("stop") = nb::none())
        .def("profile", [](Bound& self, bool on) { self.replay->profile(on); }, nb::arg("on"))
        .def("stats", &stats)
        .def_prop_ro("progress", [](const Bound& self) { return self.replay->progress(); })
        .def_prop_ro("num_ops", [](const Bound& self) { return self.replay->num_ops(); });
    module.def("uniform", &uniform, nb::arg("seed"), nb::arg("counter"));
}

}  // namespace pintpot

// Loops over one kernel at a time, run by a pool's threads as replays run them: what the probe times.
//
// Each call takes an arena whose bytes the caller has filled, works through it `rounds` times and gives the seconds.

#include "engine/attend.h"
#include "engine/bind.h"
#include "engine/clock.h"
#include "engine/errors.h"
#include "engine/linear.h"
#include "kernels/dispatch.h"

namespace pintpot {

namespace {

constexpr size_t kChunk = size_t(256) << 10;

using Work = std::function<void(int64_t)>;

// So many phases, the same ones over and over, as the ops of a replay follow each other.
struct Rounds final : Job {
    struct Phase {
        int64_t chunks;
        Work work;
    };
    Rounds(int64_t number, std::vector<Phase> phases_) : phases(std::move(phases_)), left(number) {}
    int64_t next() override {
        if (left-- == 0) return 0;
        current = (current + 1) % phases.size();
        return phases[current].chunks;
    }
    void work(int, int64_t chunk) override { phases[current].work(chunk); }
    std::vector<Phase> phases;
    int64_t left;
    size_t current = phases.size() - 1;
};

double seconds_of(Pool& pool, int64_t number, std::vector<Rounds::Phase> phases) {
    Rounds job(number, std::move(phases));
    int64_t start = now_ns();
    pool.run(job);
    return double(now_ns() - start) * 1e-9;
}

// rounds passes over the chunks, claimed one by one.
double claimed(Pool& pool, int rounds, int64_t chunks, const Work& work) { return seconds_of(pool, rounds, {{chunks, work}}); }

// Every thread does a part of its own `rounds` times.
double apart(Pool& pool, int rounds, const Work& work) {
    std::atomic<int> arrived{0};
    auto part = [&](int64_t mine) {
        // Nobody takes two parts while another thread is still asleep.
        for (++arrived; arrived < pool.size();) std::this_thread::yield();
        for (int round = 0; round < rounds; ++round) work(mine);
    };
    return seconds_of(pool, 1, {{pool.size(), part}});
}

double read_seconds(Pool& pool, Arena& arena, size_t bytes, int rounds) {
    need(bytes >= 1 && bytes <= arena.size(), "the arena is smaller than what would be read");
    std::atomic<uint64_t> sum{0};
    int64_t chunks = int64_t((bytes + kChunk - 1) / kChunk);
    return claimed(pool, rounds, chunks, [&](int64_t chunk) {
        size_t first = size_t(chunk) * kChunk;
        sum += kernels().read_loop(arena.data() + first, std::min(kChunk, bytes - first));
    });
}

// The first half of `bytes` over the second.
double copy_seconds(Pool& pool, Arena& arena, size_t bytes, int rounds) {
    size_t half = bytes / 2 / kChunk * kChunk;
    need(half >= kChunk && 2 * half <= arena.size(), "a copy takes 512 KiB or more, and an arena that holds them");
    return claimed(pool, rounds, int64_t(half / kChunk), [&](int64_t chunk) {
        uint8_t* from = arena.data() + size_t(chunk) * kChunk;
        kernels().copy_loop(from + half, from, kChunk);
    });
}

// (multiply-adds, seconds) of all threads.
std::pair<double, double> peak_seconds(Pool& pool, bool is_float, uint64_t rounds) {
    std::atomic<uint64_t> operations{0};
    double seconds = apart(pool, 1, [&](int64_t) {
        uint64_t mine = 0;
        volatile uint64_t kept = is_float ? kernels().float_peak(rounds, &mine) : kernels().int8_peak(rounds, &mine);
        (void)kept;
        operations += mine;
    });
    return {double(operations), seconds};
}

int32_t format_of(const std::string& name) {
    for (int32_t i = 0; i < kNumFormats; ++i)
        if (name == kFormatNames[i]) return i;
    throw std::invalid_argument("no packed format is called '" + name + "'");
}

// Runs of num_strips strips, one after the other through the arena, times `tokens` rows; planes 0 takes float32
// activations. `owned` gives each thread the same strips in every round, so that they stay in its caches; otherwise each
// round takes the next run, cut as a replay cuts its weights.
double strips_seconds(Pool& pool, Arena& arena, const std::string& format, int64_t k, int64_t num_strips, int tokens,
                      int planes, bool owned, int rounds) {
    StripsCall call = {};
    call.format = format_of(format), call.planes = planes, call.k = k;
    need(k >= 1 && tokens >= 1 && planes >= 0 && planes <= kBrainRows, "k and tokens are 1 or more, planes 0 to 3");
    need(planes == 0 || call.format >= kSym8, "float formats take float32 activations");
    int64_t bytes = kernels().strip_bytes(call.format, k);
    need(num_strips >= pool.size() && uint64_t(num_strips * bytes) <= arena.size(), "too few strips, or too many");
    // Rows of outputs that lie whole pages apart meet in the same sets of every cache, which costs products of many rows a sixth.
    // Few models have such widths everywhere, so here rows lie a line further apart.
    int64_t rows = kStripRows * num_strips, stride = rows + kStripRows;
    std::vector<float> x(size_t(tokens * k)), out(size_t(tokens * stride));
    for (size_t i = 0; i < x.size(); ++i) x[i] = float(int(i * 37 % 255) - 127) / 127.0f;
    std::vector<uint8_t> quantized(planes == 0 ? 0 : size_t(tokens * quantized_bytes(k, planes)));
    if (planes == 0) {
        call.x = x.data(), call.x_stride = k;
    } else {
        kernels().quantize(x.data(), k, k, planes, tokens, 0, tokens, quantized.data());
        call.quantized = quantized.data();
    }
    call.num_tokens = tokens, call.out_stride = stride;
    Cut cut = tokens <= kFewTokens ? kFewTokensCut : kManyTokensCut;
    int64_t parts = pool.size() * (owned ? 1 : cut.parts(num_strips * bytes / pool.size()));
    auto share = [&](int64_t run, int64_t index) {
        int64_t first = cut.begin(index, parts, num_strips), stop = cut.begin(index + 1, parts, num_strips);
        StripsCall mine = call;
        mine.strips = arena.data() + (run * num_strips + first) * bytes, mine.num_strips = stop - first;
        mine.out = out.data() + first * kStripRows, mine.num_rows = (stop - first) * kStripRows;
        kernels().strips(&mine);
    };
    if (owned) return apart(pool, rounds, [&](int64_t index) { share(0, index); });
    std::vector<Rounds::Phase> phases;
    for (int64_t run = 0; run < int64_t(arena.size()) / (num_strips * bytes); ++run)
        phases.push_back({parts, [&share, run](int64_t index) { share(run, index); }});
    return seconds_of(pool, rounds, std::move(phases));
}

// What a linear does to `tokens` rows of `columns` values before its product: "rmsnorm", "swiglu", "geglu", "rotate" in
// blocks of 64, or the rounding to "int8", "int8x2" or "bfloat16". Few rows are one thread's, many are shared in panels.
double prologue_seconds(Pool& pool, const std::string& what, int64_t columns, int tokens, int rounds) {
    need(columns >= 1 && tokens >= 1, "columns and tokens are 1 or more");
    bool norm = what == "rmsnorm", gelu = what == "geglu", gated = gelu || what == "swiglu", turned = what == "rotate";
    int planes = what == "int8" ? 1 : what == "bfloat16" ? kBrainRows : 2;
    need(!turned || columns % 64 == 0, "blocks of 64 are rotated");
    need(norm || gated || turned || what == "int8" || what == "int8x2" || what == "bfloat16", "no prologue is called '" + what + "'");
    std::vector<float> x(size_t(2 * tokens * columns), 0.5f), weight(size_t(columns), 1.0f), out(x.size());
    std::vector<uint8_t> quantized(size_t(tokens * quantized_bytes(columns, planes)));
    auto rows = [&](int64_t first, int64_t last) {
        if (!norm && !gated && !turned) {
            uint8_t* to = quantized.data() + first * quantized_bytes(columns, planes);
            kernels().quantize(x.data() + first * columns, columns, columns, planes, last - first, 0, last - first, to);
            return;
        }
        for (int64_t row = first; row < last; ++row) {
            float* to = out.data() + row * columns;
            if (norm) kernels().rmsnorm(x.data() + row * columns, weight.data(), columns, 1e-5f, to);
            else if (turned) kernels().rotate(to, columns, 64);
            else if (gelu) kernels().geglu(x.data() + row * 2 * columns, columns, to);
            else kernels().swiglu(x.data() + row * 2 * columns, columns, to);
        }
    };
    int64_t panel = tokens <= kFewTokens ? tokens : kPanelTokens, panels = (tokens + panel - 1) / panel;
    return claimed(pool, rounds, panels, [&](int64_t index) {
        rows(index * panel, std::min<int64_t>(tokens, (index + 1) * panel));
    });
}

// Attention ops one after the other, as a replay runs them.
struct Attends final : Job {
    Attends(std::vector<std::unique_ptr<Attend>>& ops_, Context& context_, int64_t number)
        : ops(ops_), context(context_), left(number) {}
    int64_t next() override {
        while (left > 0) {
            if (++phase == op().num_phases()) {
                ++done, --left, phase = -1;
                continue;
            }
            if (int64_t chunks = op().begin(context, phase); chunks > 0) return chunks;
        }
        return 0;
    }
    void work(int thread, int64_t chunk) override { op().work(context, phase, chunk, thread); }
    Attend& op() { return *ops[size_t(done) % ops.size()]; }
    std::vector<std::unique_ptr<Attend>>& ops;
    Context& context;
    int64_t left, done = 0;
    int phase = -1;
};

struct Anywhere final : Memory {
    void check(const void*, int64_t, size_t, const char*) const override {}
};

// Attention of `sequences` sequences, `tokens` new positions each after `context` - tokens cached ones, rotating and
// storing what is new. The arena holds as many layers as fit into it, which take turns by round; of each, k and then v.
double attend_seconds(Pool& pool, Arena& arena, const std::string& format, int heads, int kv_heads, int head_dim,
                      int tokens, int64_t context, int rounds, int sequences, int32_t rounded) {
    need(format == "f16" || format == "sym8c", "the cache is f16 or sym8c");
    need(kv_heads >= 1 && heads % kv_heads == 0 && head_dim % 32 == 0 && head_dim >= 32 && head_dim <= kMaxHeadDim,
         "heads are a multiple of kv_heads, head_dim a multiple of 32 up to 256");
    need(tokens >= 1 && context >= tokens && context <= INT32_MAX && sequences >= 1, "the context holds the new tokens");
    int64_t num_pages = sequences * ((context + kPageTokens - 1) / kPageTokens);
    int64_t page = kPageTokens * (format == "f16" ? 2 * head_dim : head_dim + head_dim / 32 * 2) * kv_heads;
    int64_t half = num_pages * page, layers = std::min<int64_t>(int64_t(arena.size()) / (2 * half), rounds);
    need(layers >= 1, "the arena is smaller than the cache");

    Bounds bounds{sequences * tokens, 1, sequences, int32_t(context)};
    Call call(bounds, 0);
    call.num_tokens = bounds.tokens, call.num_sequences = sequences;
    for (int32_t i = 0; i < bounds.tokens; ++i)
        call.sequence[size_t(i)] = i / tokens, call.positions[size_t(i)] = int32_t(context) - tokens + i % tokens;
    for (size_t i = 0; i < call.pages.size(); ++i) call.pages[i] = int32_t(i);
    call.prepare({1, 0, 0}, {{0, 0, int32_t(num_pages)}});

    std::vector<float> qkv(size_t(bounds.tokens) * size_t((heads + 2 * kv_heads) * head_dim), 0.01f);
    std::vector<float> out(size_t(bounds.tokens) * size_t(heads * head_dim)), table(size_t(context * head_dim), 0.7071f);
    std::vector<std::unique_ptr<Attend>> ops;
    size_t shared = 0;
    for (int64_t layer = 0; layer < layers; ++layer) {
        CacheView cache{arena.data() + 2 * layer * half, arena.data() + (2 * layer + 1) * half,
                        format == "f16" ? kCacheF16 : kCacheSym8c, kv_heads, head_dim};
        RopeCall rope{cache, heads, head_dim, 0, 0.0f, nullptr, nullptr};
        AttendRecord record{qkv.data(), out.data(), rope, table.data(), nullptr, 0, 0.1f, int32_t(num_pages), 0, 0, rounded};
        ops.push_back(std::make_unique<Attend>(record));
        ops.back()->bind(Anywhere(), bounds, nullptr, pool.size());
        shared = std::max(shared, ops.back()->scratch(bounds, pool.size()).shared);
    }
    std::vector<float> partials(shared / sizeof(float));
    Context around;
    around.kernels = &kernels(), around.pool = &pool, around.call = &call;
    around.shared = reinterpret_cast<uint8_t*>(partials.data());
    Attends job(ops, around, rounds);
    int64_t start = now_ns();
    pool.run(job);
    return double(now_ns() - start) * 1e-9;
}

}  // namespace

void bind_measure(nb::module_& parent) {
    nb::module_ module = parent.def_submodule("measure", "Timed loops over one kernel, run by a pool's threads.");
    using Released = nb::call_guard<nb::gil_scoped_release>;
    module.def("read", &read_seconds, nb::arg("pool"), nb::arg("arena"), nb::arg("num_bytes"), nb::arg("rounds"),
               Released());
    module.def("copy", &copy_seconds, nb::arg("pool"), nb::arg("arena"), nb::arg("num_bytes"), nb::arg("rounds"),
               Released());
    module.def("peak", &peak_seconds, nb::arg("pool"), nb::arg("is_float"), nb::arg("rounds"), Released());
    module.def("strips", &strips_seconds, nb::arg("pool"), nb::arg("arena"), nb::arg("format"), nb::arg("k"),
               nb::arg("num_strips"), nb::arg("tokens"), nb::arg("planes"), nb::arg("owned"), nb::arg("rounds"),
               Released());
    module.def("prologue", &prologue_seconds, nb::arg("pool"), nb::arg("what"), nb::arg("columns"), nb::arg("tokens"),
               nb::arg("rounds"), Released());
    module.def("attend", &attend_seconds, nb::arg("pool"), nb::arg("arena"), nb::arg("format"), nb::arg("heads"),
               nb::arg("kv_heads"), nb::arg("head_dim"), nb::arg("tokens"), nb::arg("context"), nb::arg("rounds"),
               nb::arg("sequences") = 1, nb::arg("rounded") = 0, Released());
}

}  // namespace pintpot

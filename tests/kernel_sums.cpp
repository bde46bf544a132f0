// Runs every kernel on drawn input and prints a checksum of what each wrote, one line each: two instruction sets, or two
// architectures, that print the same lines give the same bits.
//
//   kernel_sums libpintpot_portable.so     the kernels of a shared object
//   kernel_sums                            those linked in, where LINKED is defined
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include <cmath>
#include <string>
#include <vector>

#include "kernels/kernels.h"

#ifdef LINKED
extern "C" const pintpot::KernelTable* pintpot_kernels();
#endif

using namespace pintpot;

namespace {

using Bytes = std::vector<uint8_t>;
using Floats = std::vector<float>;

struct Random {
    uint64_t state;
    uint64_t next() {  // xorshift64*
        state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
        return state * 2685821657736338717ull;
    }
    float value() { return float(int32_t(next() >> 32)) / 2147483648.0f; }  // -1 to 1
    Floats floats(size_t count, float size = 1) {
        Floats found(count);
        for (float& x : found) x = value() * size;
        return found;
    }
    // No half, bfloat16 or float32 in it, wherever it begins, is larger than 2: in every second byte a bit is cleared.
    Bytes packed(size_t count) {
        Bytes found(count);
        for (size_t i = 0; i < count; ++i) found[i] = uint8_t(next() >> 56) & (i % 2 ? 0xbf : 0xff);
        return found;
    }
};

Random random_of(const std::string& name) {
    uint64_t seed = 88172645463325252ull;
    for (char letter : name) seed = (seed ^ uint8_t(letter)) * 1099511628211ull;
    return {seed | 1};
}

void tell(const std::string& name, const void* data, size_t bytes) {
    uint64_t sum = 14695981039346656037ull;  // FNV-1a
    for (size_t i = 0; i < bytes; ++i) sum = (sum ^ static_cast<const uint8_t*>(data)[i]) * 1099511628211ull;
    printf("%s %016llx\n", name.c_str(), (unsigned long long)sum);
}
void tell(const std::string& name, const Bytes& what) { tell(name, what.data(), what.size()); }
// What is no number is not the same everywhere, and nothing here should come to it.
void tell(const std::string& name, const Floats& what) {
    for (float x : what)
        if (!std::isfinite(x)) return (void)printf("%s is no number\n", name.c_str());
    tell(name, what.data(), what.size() * sizeof(float));
}
template <class T>
void tell_one(const std::string& name, T what) { tell(name, &what, sizeof what); }

// Of the two places of a four in a 2:4 format the first becomes 0 or 1 and the second 2 or 3.
void part_places(Bytes& packed, int32_t format, int64_t strips, int64_t columns) {
    int64_t groups = (columns + 31) / 32, codes = 32 * (format == kSym8x24 ? 8 : format == kSym6x24 ? 6 : 4);
    int64_t bytes = int64_t(packed.size()) / strips, planes = bytes - groups * (codes + 64);
    for (int64_t i = 0; i < strips * groups; ++i) {
        uint8_t* places = &packed[size_t(i / groups * bytes + planes + i % groups * (codes + 64) + codes)];
        for (int64_t j = 0; j < 64; ++j) places[j] = uint8_t(j % 2 ? places[j] | 0xaa : places[j] & 0x55);
    }
}

void products(const KernelTable& table, int32_t format, int64_t rows, int64_t columns, int64_t tokens) {
    std::string name = kFormatNames[format];
    Random random = random_of(name);
    int64_t strips = (rows + 15) / 16;
    int64_t bytes = table.strip_bytes(format, columns);
    Bytes packed = random.packed(size_t(strips * bytes));
    for (int64_t i = 0; format == kMXFP4 && i < strips * bytes; ++i)  // a byte alone is an exponent, below 1 here
        if (i % bytes < (columns + 31) / 32 * 16) packed[size_t(i)] &= 0x7f;
    if (format >= kSym8x24) part_places(packed, format, strips, columns);
    Floats x = random.floats(size_t(tokens * columns), 3);
    for (int32_t planes = 0; planes <= (format < kSym8 ? 0 : 2); ++planes) {
        Bytes quantized(size_t(tokens * quantized_bytes(columns, planes)));
        if (planes > 0) {
            table.quantize(x.data(), columns, columns, planes, tokens, 0, tokens, quantized.data());
            tell(name + " rounded " + std::to_string(planes), quantized);
        }
        Floats out(size_t(tokens * rows));
        StripsCall call{};
        call.format = format, call.planes = planes, call.strips = packed.data(), call.num_strips = strips;
        call.k = columns, call.x = planes == 0 ? x.data() : nullptr, call.x_stride = columns;
        call.quantized = planes == 0 ? nullptr : quantized.data(), call.num_tokens = tokens;
        call.out = out.data(), call.out_stride = rows, call.num_rows = rows;
        table.strips(&call);
        tell(name + " times " + std::to_string(planes), out);
    }
    Floats row(static_cast<size_t>(columns)), strip(size_t(16 * columns));
    table.expand_row(format, packed.data(), columns, rows - 1, row.data());
    table.expand_strip(format, packed.data(), columns, strip.data());
    tell(name + " row", row), tell(name + " strip", strip);
}

void vectors(const KernelTable& table) {
    Random random = random_of("vectors");
    for (int64_t n : {1, 15, 100, 576}) {
        std::string size = " " + std::to_string(n);
        Floats x = random.floats(size_t(n)), w = random.floats(size_t(n)), gates = random.floats(size_t(2 * n), 100);
        Floats y(static_cast<size_t>(n)), likely(static_cast<size_t>(n));
        table.rmsnorm(x.data(), w.data(), n, 1e-5f, y.data()), tell("rmsnorm" + size, y);
        table.swiglu(gates.data(), n, y.data()), tell("swiglu" + size, y);
        table.geglu(gates.data(), n, y.data()), tell("geglu" + size, y);
        table.add(x.data(), n, y.data()), tell("add" + size, y);
        table.scale(x.data(), n, 0.3f, y.data()), tell("scale" + size, y);
        float total = table.exp_sum(gates.data(), n, 100.0f, 0.7f, likely.data());
        tell("exp" + size, likely), tell_one("exp_sum" + size, total);
        tell_one("argmax" + size, table.argmax(x.data(), n));
        tell_one("kth_largest" + size, table.kth_largest(x.data(), n, n / 2 + 1));
        for (double mass : {0.1, 0.9, 2.0}) {
            float least = table.mass_threshold(likely.data(), n, mass * double(total));
            double kept = table.sum_from(likely.data(), n, least);
            tell_one("mass_threshold" + size, least), tell_one("sum_from" + size, kept);
            tell_one("pick" + size, table.pick(likely.data(), n, least, kept * 0.6));
        }
        tell_one("crc32c" + size, table.crc32c(7, gates.data(), size_t(n) * 8));
    }
}

struct Heads {
    int32_t heads, kv_heads, dim, rope_dim, interleaved, window, sinks;
    int64_t tokens;
    int32_t rounded = 0;
};

void attention(const KernelTable& table, const Heads& h, int32_t format) {
    std::string name = "attend " + std::to_string(format) + " " + std::to_string(h.dim) + (h.rounded ? " rounded" : "");
    Random random = random_of(name);
    int64_t pages = (h.tokens + 31) / 32, values = 32 * h.dim, width = (h.heads + 2 * h.kv_heads) * h.dim;
    int64_t bytes = format == kCacheF32 ? 4 * values : format == kCacheF16 ? 2 * values : values + values / 16;
    Bytes k(size_t(pages * h.kv_heads * bytes)), v = k;
    std::vector<int32_t> where;
    for (int64_t page = 0; page < pages; ++page) where.push_back(int32_t(pages - 1 - page));
    Floats qkv = random.floats(size_t(h.tokens * width)), angles = random.floats(size_t(h.tokens * h.rope_dim));
    Floats q_norm = random.floats(size_t(h.dim)), k_norm = random.floats(size_t(h.dim));
    int64_t q_width = h.heads * h.dim;
    Floats q(size_t(h.tokens * q_width)), out = q, merged = q;
    CacheView cache{k.data(), v.data(), format, h.kv_heads, h.dim};
    RopeCall rope{cache, h.heads, h.rope_dim, h.interleaved, 1e-6f, q_norm.data(), k_norm.data()};
    for (int64_t token = 0; token < h.tokens; ++token)
        table.rope_store(&rope, &angles[size_t(token * h.rope_dim)], &qkv[size_t(token * width)], token, where.data(),
                         &q[size_t(token * q_width)]);
    tell(name + " q", q), tell(name + " k", k), tell(name + " v", v);
    int64_t segments = num_segments(h.tokens), rows = h.tokens * (h.heads / h.kv_heads);
    Floats partials(size_t(segments * rows * partial_floats(h.dim)));
    for (int32_t head = 0; head < h.kv_heads; ++head) {
        AttendCall call{cache, h.heads, head, 0.125f, h.window, h.sinks, h.rounded, int32_t(h.tokens), 0, where.data(),
                        q.data(), q_width, out.data(), q_width};
        table.attend(&call);
        call.out = merged.data();
        table.attend_segments(&call, 0, segments, partials.data());
        table.attend_merge(&call, partials.data(), segments);
    }
    tell(name, out), tell(name + " merged", merged);
}

const KernelTable* open(int count, char** arguments) {
#ifdef LINKED
    (void)arguments;
    return count == 1 ? pintpot_kernels() : nullptr;
#else
    void* handle = count == 2 ? dlopen(arguments[1], RTLD_NOW) : nullptr;
    auto entry = handle == nullptr ? nullptr : (pintpot_kernels_fn)dlsym(handle, "pintpot_kernels");
    return entry == nullptr ? nullptr : entry();
#endif
}

}  // namespace

int main(int count, char** arguments) {
    const KernelTable* table = open(count, arguments);
    if (table == nullptr || table->abi != kAbiVersion) return fprintf(stderr, "no kernels of this version\n"), 1;
    for (int32_t format = 0; format < kNumFormats; ++format) {
        bool whole = format == kQ4K || format == kQ6K;
        products(*table, format, 37, whole ? 512 : 100, 11);
        products(*table, format, 16, whole ? 256 : 64, 1);
    }
    vectors(*table);
    for (int32_t format : {kCacheF16, kCacheSym8c, kCacheF32}) {
        attention(*table, {6, 2, 64, 64, 0, 0, 0, 70}, format);
        attention(*table, {6, 2, 64, 64, 0, 0, 0, 70, 1}, format);
        attention(*table, {4, 1, 96, 32, 1, 40, 4, 200}, format);
        attention(*table, {4, 1, 96, 32, 1, 40, 4, 200, 1}, format);
    }
    return 0;
}

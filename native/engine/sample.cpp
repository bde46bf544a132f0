// How one token is drawn from one row of logits.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "engine/rows.h"

namespace pintpot {

double uniform(uint64_t seed, uint64_t counter) {
    uint32_t c[4] = {uint32_t(counter), uint32_t(counter >> 32), 0, 0};
    uint32_t key[2] = {uint32_t(seed), uint32_t(seed >> 32)};
    for (int round = 0; round < 10; ++round) {
        uint64_t a = uint64_t(0xD2511F53) * c[0], b = uint64_t(0xCD9E8D57) * c[2];
        uint32_t next[4] = {uint32_t(b >> 32) ^ c[1] ^ key[0], uint32_t(b), uint32_t(a >> 32) ^ c[3] ^ key[1], uint32_t(a)};
        std::memcpy(c, next, sizeof c);
        key[0] += 0x9E3779B9, key[1] += 0xBB67AE85;
    }
    uint64_t bits = (uint64_t(c[0]) << 32 | c[1]) >> 11;
    return double(bits) * 0x1p-53;
}

namespace {

// Below this the likeliest token is drawn in any case, and its reciprocal stays finite.
constexpr float kLeastTemperature = 1e-6f;

// Several rows of one sequence each have a draw of their own.
uint64_t earlier_rows(const Call& call, int32_t row) {
    uint64_t count = 0;
    for (int32_t i = 0; i < row; ++i) count += call.sequence_of_row(i) == call.sequence_of_row(row);
    return count;
}

// As in the paper that brought it (Keskar et al. 2019), once for each token however often it came before.
void penalize(const Call& call, int32_t sequence, const float* logits, float* to) {
    const int32_t* past = call.history.data() + int64_t(sequence) * call.max_history;
    float penalty = call.penalty[size_t(sequence)];
    for (int32_t i = 0; i < call.history_length[size_t(sequence)]; ++i) {
        if (past[i] < 0) continue;  // no word
        float logit = logits[past[i]];
        to[past[i]] = logit > 0 ? logit / penalty : logit * penalty;
    }
}

// What others add to some logits, and then their word on which may come at all.
void obey(const Call& call, size_t sequence, int64_t n, float* to) {
    for (const Bias& one : call.bias[sequence]) to[one.token] += one.value;
    const std::vector<uint32_t>& allowed = call.allowed[sequence];
    if (allowed.empty()) return;
    for (int64_t i = 0; i < n; ++i)
        if ((allowed[size_t(i / 32)] >> (i % 32) & 1) == 0) to[i] = -std::numeric_limits<float>::infinity();
}

// Logits that top-k leaves out become -inf; `to` may be x. Equals of the last one that it keeps stay.
void keep_largest(const KernelTable& kernels, const float* x, int64_t n, int64_t k, float* to) {
    float least = kernels.kth_largest(x, n, k);
    for (int64_t i = 0; i < n; ++i) to[i] = x[i] >= least ? x[i] : -std::numeric_limits<float>::infinity();
}

// The probability below which nothing is drawn: the larger of what top-p and min-p ask for, and never 0. p holds
// unnormalized probabilities, 1 for the likeliest.
float threshold_of(const KernelTable& kernels, const Call& call, size_t sequence, const float* p, int64_t n) {
    float threshold = std::numeric_limits<float>::denorm_min();
    if (call.top_p[sequence] < 1)
        threshold = kernels.mass_threshold(p, n, double(call.top_p[sequence]) * kernels.sum_from(p, n, threshold));
    return std::fmax(threshold, call.min_p[sequence]);
}

}  // namespace

void Sample::choose(Context& context, int32_t row, float* own) const {
    const KernelTable& kernels = *context.kernels;
    const Call& call = *context.call;
    const int64_t n = record_.vocabulary;
    const float* logits = record_.logits + row * n;
    int32_t sequence = call.sequence_of_row(row);
    size_t s = size_t(sequence);
    const float* x = logits;
    if (call.penalty[s] != 1 || !call.bias[s].empty() || !call.allowed[s].empty()) {
        std::memcpy(own, logits, size_t(n) * sizeof(float));
        penalize(call, sequence, logits, own);
        obey(call, s, n, own);
        x = own;
    }
    // Logits that are all NaN have no largest.
    int64_t chosen = std::max<int64_t>(kernels.argmax(x, n), 0);
    if (call.temperature[s] > 0) {
        // Each step may take the place of the one before it: all go from first to last.
        float inverse = 1 / std::fmax(call.temperature[s], kLeastTemperature), likeliest = x[chosen];
        if (call.top_k[s] > 0 && call.top_k[s] < n) {
            keep_largest(kernels, x, n, call.top_k[s], own);
            x = own;
        }
        kernels.exp_sum(x, n, likeliest, inverse, own);
        float threshold = threshold_of(kernels, call, s, own, n);
        double target = uniform(call.seed[s], call.counter[s] + earlier_rows(call, row)) * kernels.sum_from(own, n, threshold);
        chosen = kernels.pick(own, n, threshold, target);
    }
    record_.next[row] = int32_t(chosen);
    if (record_.logprob == nullptr) return;
    float likeliest = logits[std::max<int64_t>(kernels.argmax(logits, n), 0)];
    float total = kernels.exp_sum(logits, n, likeliest, 1, own);
    record_.logprob[row] = float(double(logits[chosen] - likeliest) - std::log(double(total)));
}

}  // namespace pintpot

#include "engine/route.h"

#include <algorithm>

#include "engine/errors.h"

namespace pintpot {

Route::Route(const RouteRecord& record) : record_(record) {
    need(record.experts > 0 && record.chosen > 0 && record.chosen <= record.experts, "a token meets some of the experts");
}

ScratchNeed Route::scratch(const Bounds&, int) const {
    ScratchNeed need;
    need.per_thread = round_up(size_t(record_.experts) * sizeof(float), 64);
    return need;
}

void Route::bind(const Memory& memory, const Bounds& bounds, Ring*, int) {
    int64_t rows = record_.over_rows ? bounds.rows : bounds.tokens, width = int64_t(sizeof(float));
    memory.check(record_.scores, rows * record_.experts * width, sizeof(float), "the scores of a route");
    memory.check(record_.choice, rows * record_.chosen * width, sizeof(float), "the choice of a route");
    memory.check(record_.shares, rows * record_.chosen * width, sizeof(float), "the shares of a route");
}

// One thread alone: a token has no more scores than there are experts.
int64_t Route::begin(Context& context, int) {
    int64_t rows = record_.over_rows ? context.call->num_rows : context.call->num_tokens;
    for (int64_t row = 0; row < rows; ++row) choose(*context.kernels, row, reinterpret_cast<float*>(context.scratch_of(0)));
    for (Experts* experts : fed_) experts->decide(context);
    return 0;
}

void Route::choose(const KernelTable& kernels, int64_t row, float* own) const {
    const float* scores = record_.scores + row * record_.experts;
    int32_t* choice = record_.choice + row * record_.chosen;
    float* shares = record_.shares + row * record_.chosen;
    // No number is below everything, so that there are always as many as are wanted.
    auto above = [&](int64_t one, int64_t other) {
        return scores[one] > scores[other] || (scores[other] != scores[other] && scores[one] == scores[one]);
    };
    int64_t kept = 0;
    for (int64_t expert = 0; expert < record_.experts; ++expert) {
        int64_t at = kept;
        while (at > 0 && above(expert, choice[at - 1])) --at;
        if (at == record_.chosen) continue;
        kept = std::min(kept + 1, record_.chosen);
        std::copy_backward(choice + at, choice + kept - 1, choice + kept);
        choice[at] = int32_t(expert);
    }
    float whole = kernels.exp_sum(scores, record_.experts, scores[choice[0]], 1.0f, own);
    if (record_.normed) whole = 0.0f;
    for (int64_t j = 0; j < record_.chosen; ++j) {
        shares[j] = own[choice[j]];
        if (record_.normed) whole = whole + shares[j];
    }
    for (int64_t j = 0; j < record_.chosen; ++j) shares[j] = shares[j] / whole;
}

}  // namespace pintpot

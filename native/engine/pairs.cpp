#include "engine/pairs.h"

#include <algorithm>

#include "engine/errors.h"

namespace pintpot {

void Pairs::reserve(int64_t tokens) {
    counts_.assign(size_t(num_experts_), 0);
    next_.assign(size_t(num_experts_), 0);
    tokens_.resize(size_t(tokens * num_chosen_));
    places_.resize(size_t(tokens * num_chosen_));
    groups_.reserve(size_t(std::min(num_experts_, tokens * num_chosen_)));
}

void Pairs::group(const int32_t* choice, int64_t tokens) {
    std::fill(counts_.begin(), counts_.end(), 0);
    groups_.clear();
    for (int64_t i = 0; i < tokens * num_chosen_; ++i) {
        need(choice[i] >= 0 && choice[i] < num_experts_, text("expert %d of %lld", choice[i], (long long)num_experts_));
        ++counts_[size_t(choice[i])];
    }
    int64_t first = 0;
    for (int64_t expert = 0; expert < num_experts_; ++expert) {
        int64_t count = counts_[size_t(expert)];
        next_[size_t(expert)] = int32_t(first);
        if (count > 0) groups_.push_back({expert, first, count});
        first += count;
    }
    for (int64_t i = 0; i < tokens * num_chosen_; ++i) {
        int32_t place = next_[size_t(choice[i])]++;
        tokens_[size_t(place)] = int32_t(i / num_chosen_);
        places_[size_t(i)] = place;
    }
}

}  // namespace pintpot

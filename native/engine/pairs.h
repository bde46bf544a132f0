// Tokens and the experts that each meets, expert by expert.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace pintpot {

// Tokens and the experts that each meets make pairs; they lie expert by expert, the tokens of each in order.
class Pairs {
  public:
    struct Group {
        int64_t expert, first, count;  // pairs [first, first + count)
    };

    Pairs(int64_t experts, int64_t chosen) : num_experts_(experts), num_chosen_(chosen) {}
    void reserve(int64_t tokens);
    // From the experts of each token, [tokens][chosen]. Throws std::invalid_argument for one that is not there.
    void group(const int32_t* choice, int64_t tokens);
    const std::vector<Group>& groups() const { return groups_; }
    int64_t token_of(int64_t pair) const { return tokens_[size_t(pair)]; }
    int64_t place_of(int64_t token, int64_t index) const { return places_[size_t(token * num_chosen_ + index)]; }
    bool meets(int64_t expert) const { return counts_[size_t(expert)] > 0; }

  private:
    const int64_t num_experts_, num_chosen_;
    std::vector<int32_t> counts_, next_, tokens_, places_;
    std::vector<Group> groups_;
};

}  // namespace pintpot

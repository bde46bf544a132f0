#include "engine/foresight.h"

#include <algorithm>

namespace pintpot {

namespace {

constexpr size_t kMostKinds = 16;
constexpr uint32_t kManyTimes = 32;

}  // namespace

const std::vector<uint8_t>& Foresight::after(const std::vector<uint8_t>& needs) {
    size_t now = 0;
    while (now < kinds_.size() && kinds_[now].needs != needs) ++now;
    if (now == kMostKinds) {
        last_ = SIZE_MAX;
        return needs;
    }
    if (now == kinds_.size()) {
        kinds_.push_back({needs, {}});
        for (Kind& kind : kinds_) kind.followed.resize(kinds_.size(), 0);
    }
    if (last_ != SIZE_MAX && ++kinds_[last_].followed[now] == kManyTimes)
        for (uint32_t& times : kinds_[last_].followed) times /= 2;
    last_ = now;
    const std::vector<uint32_t>& followed = kinds_[now].followed;
    size_t likeliest = size_t(std::max_element(followed.begin(), followed.end()) - followed.begin());
    return kinds_[followed[likeliest] > followed[now] ? likeliest : now].needs;
}

}  // namespace pintpot

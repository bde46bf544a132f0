// route: which experts each token meets, and how much of each.
#pragma once

#include "engine/experts.h"

namespace pintpot {

struct RouteRecord {
    bool over_rows;
    int64_t experts, chosen;
    bool normed;          // shares of the chosen add up to 1
    const float* scores;  // [n][experts]
    int32_t* choice;      // [n][chosen], the largest score first, the lowest number where two are equal
    float* shares;        // [n][chosen]: the softmax of the scores
};

class Route final : public Op {
  public:
    explicit Route(const RouteRecord& record);
    const char* kind() const override { return "route"; }
    ScratchNeed scratch(const Bounds& bounds, int threads) const override;
    void bind(const Memory& memory, const Bounds& bounds, Ring* ring, int threads) override;
    int64_t begin(Context& context, int phase) override;
    const int32_t* choice() const { return record_.choice; }
    bool over_rows() const { return record_.over_rows; }
    // An op that goes by this choice.
    void feed(Experts* experts) { fed_.push_back(experts); }

  private:
    void choose(const KernelTable& kernels, int64_t row, float* own) const;

    RouteRecord record_;
    std::vector<Experts*> fed_;
};

}  // namespace pintpot

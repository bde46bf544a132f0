// What the next of many passes will need, told by what followed passes like the last one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace pintpot {

// Passes that need the same are of one kind; how often each kind followed each is counted, and what was long ago counts
// less and less.
class Foresight {
  public:
    // A pass of these needs begins: what the one after it will need. Where that was never seen, or there are too many
    // kinds, the same again.
    const std::vector<uint8_t>& after(const std::vector<uint8_t>& needs);

  private:
    struct Kind {
        std::vector<uint8_t> needs;
        std::vector<uint32_t> followed;
    };

    std::vector<Kind> kinds_;
    size_t last_ = SIZE_MAX;
};

}  // namespace pintpot

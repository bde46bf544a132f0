#include "engine/rope_table.h"

#include <cmath>

namespace pintpot {

void rope_table(float* out, int64_t positions, const std::vector<double>& frequencies, double gain) {
    const size_t half = frequencies.size();
    for (int64_t position = 0; position < positions; ++position, out += 2 * half)
        for (size_t i = 0; i < half; ++i) {
            double angle = double(position) * frequencies[i];
            out[i] = float(std::cos(angle) * gain);
            out[half + i] = float(std::sin(angle) * gain);
        }
}

}  // namespace pintpot

// Rotary angles as a table, filled once when a model is opened.
#pragma once

#include <cstdint>
#include <vector>

namespace pintpot {

// out [positions, 2 * frequencies]: gain * cos(position * frequency), then gain * sin of the same, float64 until stored.
void rope_table(float* out, int64_t positions, const std::vector<double>& frequencies, double gain);

}  // namespace pintpot

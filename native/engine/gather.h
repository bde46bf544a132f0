// The rows of a convolution: what each place of its output looks at, gathered where it lies, one value for each column.
#pragma once

#include <array>
#include <cstdint>

namespace pintpot {

constexpr int kGatherAxes = 3;

// x holds `batch` pictures of `channels` over up to three axes of space. Row ((b, o0, o1, o2)) has kernel[0] * kernel[1]
// * kernel[2] * channels columns, the channels side by side; places beyond the picture are zero.
struct Gather {
    struct Axis {
        int64_t size, stride;            // of x: places, and floats from one to the next
        int64_t places, kernel;          // of the output, and of the kernel
        int64_t step, before, dilation;  // from place to place, of zeros before the first, between the kernel's
    };
    int64_t batch = 0, batch_stride = 0, channels = 0, channel_stride = 0;
    std::array<Axis, kGatherAxes> axes{};

    int64_t columns() const { return channels * axes[0].kernel * axes[1].kernel * axes[2].kernel; }
    int64_t rows() const { return batch * axes[0].places * axes[1].places * axes[2].places; }
    // From the first value that may be looked at to behind the last.
    int64_t input_values() const;
    // Throws std::invalid_argument for one that cannot be.
    void check() const;
    void row(const float* x, int64_t row, float* to) const;
};

}  // namespace pintpot

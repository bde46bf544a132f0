#include "engine/gather.h"

#include <algorithm>

#include "engine/errors.h"

namespace pintpot {

namespace {

constexpr int64_t kMost = int64_t(1) << 31;

bool within(int64_t value, int64_t least) { return value >= least && value < kMost; }

}  // namespace

int64_t Gather::input_values() const {
    int64_t last = (batch - 1) * batch_stride + (channels - 1) * channel_stride;
    for (const Axis& axis : axes) last += (axis.size - 1) * axis.stride;
    return last + 1;
}

// No sum of addresses overflows: sizes are below 2^31, and what is looked at below 2^35 floats.
void Gather::check() const {
    bool good = within(batch, 1) && within(batch_stride, 0) && within(channels, 1) && within(channel_stride, 0);
    double last = double(batch) * double(batch_stride) + double(channels) * double(channel_stride);
    double rows = double(batch), columns = double(channels);
    for (const Axis& axis : axes) {
        good = good && within(axis.size, 1) && within(axis.stride, 0) && within(axis.places, 1) && within(axis.kernel, 1);
        good = good && within(axis.step, 1) && within(axis.before, 0) && within(axis.dilation, 1);
        last += double(axis.size) * double(axis.stride);
        rows *= double(axis.places), columns *= double(axis.kernel);
    }
    need(good && last < 16 * double(kMost) && rows < double(kMost) && columns < double(kMost), "a gather of sizes that cannot be");
}

void Gather::row(const float* x, int64_t row, float* to) const {
    int64_t at[kGatherAxes];
    for (int i = kGatherAxes - 1; i >= 0; --i) {
        at[i] = row % axes[i].places * axes[i].step - axes[i].before;
        row /= axes[i].places;
    }
    x += row * batch_stride;
    auto inside = [&](int i, int64_t k) {
        int64_t place = at[i] + k * axes[i].dilation;
        return place >= 0 && place < axes[i].size ? place * axes[i].stride : -1;
    };
    for (int64_t i = 0; i < axes[0].kernel; ++i) {
        int64_t first = inside(0, i);
        for (int64_t j = 0; j < axes[1].kernel; ++j) {
            int64_t second = inside(1, j);
            for (int64_t k = 0; k < axes[2].kernel; ++k, to += channels) {
                int64_t third = inside(2, k);
                if (first < 0 || second < 0 || third < 0) {
                    std::fill_n(to, channels, 0.0f);
                } else if (const float* from = x + first + second + third; channel_stride == 1) {
                    std::copy_n(from, channels, to);
                } else {
                    for (int64_t c = 0; c < channels; ++c) to[c] = from[c * channel_stride];
                }
            }
        }
    }
}

}  // namespace pintpot

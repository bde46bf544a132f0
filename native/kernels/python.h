// The kernels as the Python module pintpot._native.kernels, for tests, the packer and the probe.
#pragma once
#include <nanobind/nanobind.h>

namespace pintpot {
void bind_kernels(nanobind::module_& parent);
}

// Chooses, at run time, the shared object of kernels that fits this CPU, and loads it from beside the extension.
#pragma once
#include <string>
#include <vector>

#include "kernels.h"

namespace pintpot {

// Instruction sets that this CPU, its operating system and this installation have, best first.
std::vector<std::string> available_isas();

// A format by its name, and how many columns are kept apart: "sym4", or "sym4+8" with eight. Throws std::invalid_argument.
struct PackedFormat {
  int32_t format;
  int64_t num_apart;

  int64_t strip_bytes(const KernelTable& kernels, int64_t k) const {
    return kernels.strip_bytes(format, k) + apart_bytes(num_apart);
  }
};
PackedFormat packed_format(const std::string& name);

// The kernels of one instruction set. Throws std::runtime_error, saying why, where it cannot be had.
const KernelTable& kernels_of(const std::string& isa);

// The best available, or what the environment variable PINTPOT_ISA names; chosen once. Throws like kernels_of.
const KernelTable& kernels();

}  // namespace pintpot

// Entries of the superblock formats, q4_k and q6_k.
#include "strips_entry.h"

namespace pintpot {

const FormatEntry kBlockEntries[2] = {
    packed_entry<Q4K>(),
    packed_entry<Q6K>(),
};

}  // namespace pintpot

// Entries of the formats with a minimum, aff6 to aff2.
#include "strips_entry.h"

namespace pintpot {

const FormatEntry kAffineEntries[5] = {
    packed_entry<Group<6, true>>(),
    packed_entry<Group<5, true>>(),
    packed_entry<Group<4, true>>(),
    packed_entry<Group<3, true>>(),
    packed_entry<Group<2, true>>(),
};

}  // namespace pintpot

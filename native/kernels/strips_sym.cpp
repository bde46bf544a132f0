// Entries of the symmetric formats, sym8 to sym2.
#include "strips_entry.h"

namespace pintpot {

const FormatEntry kSymEntries[6] = {
    packed_entry<Group<8, false>>(),
    packed_entry<Group<6, false>>(),
    packed_entry<Group<5, false>>(),
    packed_entry<Group<4, false>>(),
    packed_entry<Group<3, false>>(),
    packed_entry<Group<2, false>>(),
};

}  // namespace pintpot

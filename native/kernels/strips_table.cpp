// Entries of the formats with a table of 16 values, nf4 to nvfp4.
#include "strips_entry.h"

namespace pintpot {

const FormatEntry kTableEntries[4] = {
    packed_entry<Table<NormalFloat, Shares<64>>>(),
    packed_entry<Table<NormalFloat, Shares<32>>>(),
    packed_entry<Table<E2M1, Exponents>>(),
    packed_entry<Table<E2M1, SmallFloats>>(),
};

}  // namespace pintpot

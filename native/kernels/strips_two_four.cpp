// Entries of the 2:4 formats, sym8_24 to sym4_24.
#include "strips_entry.h"

namespace pintpot {

const FormatEntry kTwoFourEntries[3] = {
    packed_entry<TwoFour<8>>(),
    packed_entry<TwoFour<6>>(),
    packed_entry<TwoFour<4>>(),
};

}  // namespace pintpot

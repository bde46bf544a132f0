#include "engine/weight.h"

#include <algorithm>

#include "engine/errors.h"

namespace pintpot {

void Weight::measure(const KernelTable& kernels) {
    need(num_apart >= 0 && num_apart <= columns, "more columns are kept apart than there are");
    strip_bytes = kernels.strip_bytes(format, columns) + apart_bytes(num_apart);
    need(strip_bytes > 0, "a strip of no bytes");
}

int64_t Weight::rows_of(int64_t first_strip, int64_t num_strips) const {
    return std::min(num_strips * kStripRows, rows - first_strip * kStripRows);
}

const Piece& Weight::piece_of(int64_t strip) const {
    auto after = std::upper_bound(pieces.begin(), pieces.end(), strip,
                                  [](int64_t wanted, const Piece& piece) { return wanted < piece.first_strip; });
    return *(after - 1);
}

std::pair<const Piece*, const Piece*> Weight::pieces_of(int64_t expert) const {
    auto begins = [this](int64_t strip) {
        auto before = [](const Piece& piece, int64_t wanted) { return piece.first_strip < wanted; };
        return pieces.data() + (std::lower_bound(pieces.begin(), pieces.end(), strip, before) - pieces.begin());
    };
    return {begins(expert * expert_strips()), begins((expert + 1) * expert_strips())};
}

void Weight::bind(const Memory& memory, const Ring* ring, bool in_pass) {
    bool divided = experts > 0 && rows % experts == 0 && (experts == 1 || rows / experts % kStripRows == 0);
    need(divided, "the rows of each expert are whole strips");
    need(resident_strips >= 0 && resident_strips <= expert_strips(), "a weight rests with more rows than it has");
    if (resident_strips > 0) memory.check(resident, experts * resident_strips * strip_bytes, 1, "a weight");
    // The next strip that does not rest in memory.
    auto settled = [this](int64_t strip) {
        while (strip < num_strips() && strip % expert_strips() < resident_strips) strip += resident_strips - strip % expert_strips();
        return strip;
    };
    int64_t next = settled(0);
    for (Piece& piece : pieces) {
        need(piece.first_strip == next && piece.num_strips > 0 && piece.num_strips <= expert_strips() - next % expert_strips(),
             text("a piece of a weight begins at strip %lld where %lld is next", (long long)piece.first_strip, (long long)next));
        next = settled(next + piece.num_strips);
        need(ring != nullptr, "a weight has rows on disk, and there is no ring");
        need(piece.slot < ring->slots().size(), text("there is no slot %u", piece.slot));
        uint32_t room = ring->slots()[piece.slot].bytes;
        need(piece.offset <= room && piece.num_strips <= int64_t(room - piece.offset) / strip_bytes,
             text("%lld strips do not fit into slot %u", (long long)piece.num_strips, piece.slot));
        if (!in_pass) continue;
        int64_t position = ring->position_of(piece.slot);
        need(position >= 0, text("slot %u is needed in a pass and not read in it", piece.slot));
        piece.position = uint32_t(position);
    }
    need(next == num_strips(), text("of %lld strips of a weight %lld are nowhere", (long long)num_strips(), (long long)(num_strips() - next)));
}

void Weight::read_strip(Ring& ring, int64_t strip, uint8_t* destination, Scratch scratch) const {
    const Piece& piece = piece_of(strip);
    uint32_t begin = piece.offset + uint32_t((strip - piece.first_strip) * strip_bytes);
    ring.read_piece(piece.slot, begin, uint32_t(strip_bytes), destination, scratch);
}

}  // namespace pintpot

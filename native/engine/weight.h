// A packed weight: rows that rest in memory, and the others in pieces of the streamed file.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "engine/op.h"

namespace pintpot {

// Strips [first_strip, first_strip + num_strips) lie at `offset` of a slot.
struct Piece {
    uint32_t slot;
    uint32_t offset;
    int64_t first_strip;
    int64_t num_strips;
    uint32_t position = 0;  // of the slot in the ring's order, where the op reads it through the ring
};

// The rows of `experts` matrices may lie one below the other, each of whole strips: then the first `resident_strips` of
// every one rest in memory, one after the other, and no piece is of two.
struct Weight {
    int32_t format;
    int64_t rows, columns;
    const uint8_t* resident;
    int64_t resident_strips;
    std::vector<Piece> pieces;
    int64_t num_apart = 0;  // columns kept apart, whose numbers every strip has behind its planes
    int64_t strip_bytes = 0;
    int64_t experts = 1;

    // Once `format`, `columns` and `num_apart` are there. Throws std::invalid_argument for a strip of no bytes.
    void measure(const KernelTable& kernels);
    // The numbers of the columns kept apart, out of one of the weight's strips.
    const uint8_t* apart_of(const uint8_t* strip) const { return strip + strip_bytes - apart_bytes(num_apart); }

    int64_t num_strips() const { return (rows + kStripRows - 1) / kStripRows; }
    // Rows of a run of strips that are not padding.
    int64_t rows_of(int64_t first_strip, int64_t num_strips) const;
    const Piece& piece_of(int64_t strip) const;
    bool rests_whole() const { return resident_strips == expert_strips(); }
    int64_t expert_strips() const { return num_strips() / experts; }
    int64_t expert_of_strip(int64_t strip) const { return strip / expert_strips(); }
    int64_t expert_of(const Piece& piece) const { return expert_of_strip(piece.first_strip); }
    const uint8_t* resident_of(int64_t expert) const { return resident + expert * resident_strips * strip_bytes; }
    // The pieces of one expert: from the first up to the second.
    std::pair<const Piece*, const Piece*> pieces_of(int64_t expert) const;
    // Reads one strip that does not rest in memory.
    void read_strip(Ring& ring, int64_t strip, uint8_t* destination, Scratch scratch) const;

    // Checks that memory and pieces hold all rows, and finds the pieces' positions in the order of the ring where
    // `in_pass`. Throws std::invalid_argument.
    void bind(const Memory& memory, const Ring* ring, bool in_pass);
};

}  // namespace pintpot

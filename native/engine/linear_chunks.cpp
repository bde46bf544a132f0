// How the work of a linear is cut into parts that threads take: strips of its weights, and rows of its input.
#include <algorithm>

#include "engine/linear.h"

namespace pintpot {

// What rests in memory first, then the pieces on disk as they come through the ring.
std::vector<Linear::Chunk> Linear::cut(Cut cut, int threads) const {
    std::vector<Chunk> resident, streamed, chunks;
    int64_t column = 0;
    for (size_t i = 0; i < record_.weights.size(); ++i) {
        const Weight& weight = record_.weights[i];
        const float* bias = record_.biases.empty() ? nullptr : record_.biases[i];
        if (weight.resident_strips > 0) resident.push_back({&weight, bias, nullptr, 0, weight.resident_strips, column});
        for (const Piece& piece : weight.pieces)
            streamed.push_back({&weight, bias, &piece, piece.first_strip, piece.num_strips, column + piece.first_strip * kStripRows});
        column += weight.rows;
    }
    std::stable_sort(streamed.begin(), streamed.end(),
                     [](const Chunk& a, const Chunk& b) { return a.piece->position < b.piece->position; });
    share_out(resident, cut, threads, chunks);
    // Each slot is shared by all threads, so that it is free again soon.
    for (const Chunk& piece : streamed) share_out({piece}, cut, threads, chunks);
    return chunks;
}

// Cuts runs of strips into one region for each thread and each region into equal parts, and hands out the first parts of
// all regions, then the second ones: threads that keep step each read one long stretch of memory.
void Linear::share_out(const std::vector<Chunk>& runs, Cut cut, int threads, std::vector<Chunk>& chunks) {
    int64_t strips = 0, bytes = 0;
    for (const Chunk& run : runs) strips += run.num_strips, bytes += run.num_strips * run.weight->strip_bytes;
    int64_t parts = cut.parts(bytes / threads), all = parts * threads;
    for (int64_t part = 0; part < parts; ++part) {
        for (int64_t thread = 0; thread < threads; ++thread) {
            int64_t index = thread * parts + part, first = cut.begin(index, all, strips), stop = cut.begin(index + 1, all, strips);
            for (const Chunk& run : runs) {
                int64_t begin = std::clamp<int64_t>(first, 0, run.num_strips), end = std::clamp<int64_t>(stop, 0, run.num_strips);
                first -= run.num_strips, stop -= run.num_strips;
                if (begin == end) continue;
                chunks.push_back(run);
                chunks.back().first_strip += begin;
                chunks.back().num_strips = end - begin;
                chunks.back().column += begin * kStripRows;
            }
        }
    }
}

// Where the rows are known and the weights rest in memory, parts have all strips of a weight, and some of the rows each:
// threads that write neighbouring columns of the same rows take the lines of the output from each other.
std::vector<Linear::Chunk> Linear::by_rows(std::vector<Chunk> chunks, int threads) const {
    int64_t strips = 0, parts = std::min<int64_t>(4, record_.rows / kRowsApart / threads) * threads;
    std::vector<Chunk> whole;
    for (const Chunk& chunk : chunks) {
        if (chunk.piece != nullptr) return chunks;
        strips += chunk.num_strips;
        if (chunk.first_strip != 0) continue;
        whole.push_back(chunk);
        whole.back().num_strips = chunk.weight->resident_strips;
    }
    if (threads == 1 || parts == 0 || strips >= kFewTiles * kTileStrips * threads) return chunks;
    chunks.clear();
    auto begin = [&](int64_t part) { return part == parts ? record_.rows : record_.rows * part / parts / kPanelTokens * kPanelTokens; };
    for (int64_t part = 0; part < parts; ++part) {
        for (Chunk chunk : whole) {
            chunk.first_row = begin(part), chunk.num_rows = begin(part + 1) - begin(part);
            chunks.push_back(chunk);
        }
    }
    return chunks;
}

}  // namespace pintpot

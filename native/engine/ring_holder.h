// A ring together with the arena whose memory it uses.
#pragma once

#include <optional>

#include "engine/bind.h"
#include "engine/errors.h"

namespace pintpot {

struct RingHolder {
    RingHolder(const std::string& path, std::vector<Slot> slots, std::vector<uint32_t> order,
               std::shared_ptr<Arena> arena_, size_t memory_offset, size_t memory_bytes, size_t slot_bytes,
               int in_flight, Ring::Checksum checksum)
        : arena(std::move(arena_)),
          use(arena),
          ring(path, std::move(slots), std::move(order), inside(*arena, memory_offset, memory_bytes), memory_bytes,
               slot_bytes, in_flight, checksum) {}

    static uint8_t* inside(const Arena& arena, size_t offset, size_t bytes) {
        need(offset <= arena.size() && bytes <= arena.size() - offset,
             text("a ring of %zu bytes at %zu lies outside its arena of %zu", bytes, offset, arena.size()));
        return arena.data() + offset;
    }

    // Ends the reading and lets go of the memory; replays that use the ring hold on to it for themselves.
    void close() {
        ring.close();
        use.reset();
    }

    std::shared_ptr<Arena> arena;
    std::optional<ArenaUse> use;
    std::vector<uint8_t> needed;
    Ring ring;
};

}  // namespace pintpot

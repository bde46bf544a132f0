// Slots of a file, read ahead of the computation into a ring of buffers, pass after pass.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "engine/file.h"
#include "engine/foresight.h"
#include "engine/thread.h"

namespace pintpot {

// Bytes [offset, offset + bytes) of the file, both multiples of kBlock, and their CRC-32C where `checked`.
struct Slot {
    uint64_t offset;
    uint32_t bytes;
    uint32_t crc;
    bool checked;
};

struct RingStats {
    int64_t bytes_read = 0;
    int64_t slots_read = 0;
    double waited_s = 0;        // compute threads, summed, for a slot that was not there yet
    double in_flight_s[3] = {}; // of replays: with 0, 1, and 2 or more reads in flight
};

// A pass takes the slots of `order` one after the other; the reader threads run ahead of it, also into the next pass,
// held back only by buffers not yet released. Positions are indices into `order`. Passes may need different slots: what
// the next one will need is told by what followed a pass like this one before, itself where that was never seen; what
// was read in vain for another is forgotten when that one begins.
//
// The consumer calls begin_pass, then wait(position) from any thread and release(position) once for each position that
// this pass needs. A pass that is left in the middle is thrown away when the next begins.
class Ring {
  public:
    using Checksum = uint32_t (*)(uint32_t crc, const void* data, size_t bytes);
    // Asked every few milliseconds while a thread waits; false means give up.
    using KeepWaiting = std::function<bool()>;

    // `memory` is aligned to kBlock and holds buffers of slot_bytes. Throws std::invalid_argument, SystemError.
    Ring(const std::string& path, std::vector<Slot> slots, std::vector<uint32_t> order, uint8_t* memory,
         size_t memory_bytes, size_t slot_bytes, int in_flight, Checksum checksum);
    ~Ring();
    Ring(const Ring&) = delete;
    Ring& operator=(const Ring&) = delete;

    // What a pass does with a position. An open one is read, and all that come after it, once it was decided.
    enum Need : uint8_t { kSkipped, kNeeded, kOpen };

    // Positions that passes begin with open: nothing is read ahead into them while no pass has decided.
    void open(uint32_t position);
    // Starts a pass with the needs of all positions (null: all are needed); what is skipped is not read, or forgotten
    // where it was, and what was passed over is gone back to.
    void begin_pass(const uint8_t* needs);
    // Whether open positions of this pass are needed.
    void decide(const std::vector<std::pair<uint32_t, bool>>& positions);
    // Where the slot of this position lies once it is there; null when keep_waiting said no. Throws SystemError or
    // SlotError, naming the slot, when it could not be read or is not what the pack says.
    const uint8_t* wait(uint32_t position, const KeepWaiting& keep_waiting);
    void release(uint32_t position);
    // Ends a pass; `whole` if every position was released.
    void end_pass(bool whole);
    // Stops reading ahead and forgets what was read; the next pass starts afresh.
    void rewind();
    void close();

    // Bytes [begin, begin + bytes) of a slot that is read by itself, not in a pass, through `scratch`. The first read of
    // a slot verifies all of it. Throws like wait().
    void read_piece(uint32_t slot, uint32_t begin, uint32_t bytes, uint8_t* destination, Scratch scratch);

    const std::vector<Slot>& slots() const { return slots_; }
    const std::vector<uint32_t>& order() const { return order_; }
    // Where a slot comes in the order; -1 where it does not.
    int64_t position_of(uint32_t slot) const { return positions_[slot]; }
    size_t slot_bytes() const { return slot_bytes_; }
    size_t num_buffers() const { return buffers_.size(); }
    bool direct() const { return file_.direct(); }
    RingStats stats() const;
    void reset_stats();

  private:
    void dismiss();
    enum class State : uint8_t { kFree, kReading, kReady, kUnwanted };
    struct Buffer {
        uint8_t* data;
        State state = State::kFree;
        uint64_t sequence = 0;           // what is being read into it, or is ready, where it is not free
        std::atomic<uint64_t> holds{0};  // 1 + the sequence number of what is ready in it, 0 for nothing
    };

    void reader();
    bool may_claim() const;
    Buffer* free_buffer();
    const uint8_t* ready(uint64_t sequence) const;
    void forget(uint64_t sequence);
    Need need_of(uint64_t sequence) const;
    void go_back();
    void read_slot(uint32_t slot, uint8_t* destination);
    void verify(uint32_t slot);
    void check(uint32_t slot, uint32_t crc, size_t bytes);
    void count_in_flight(int change);
    void rewind_locked(std::unique_lock<std::mutex>& lock);

    File file_;
    const std::vector<Slot> slots_;
    const std::vector<uint32_t> order_;
    std::vector<int64_t> positions_;
    const size_t slot_bytes_;
    const Checksum checksum_;
    std::vector<Buffer> buffers_;
    std::unique_ptr<std::atomic<bool>[]> verified_;

    mutable std::mutex mutex_;
    std::condition_variable readers_wake_, consumers_wake_;
    uint64_t next_ = 0;       // sequence number to read next
    uint64_t pass_base_ = 0;  // of position 0 of the current pass
    std::vector<uint8_t> needs_;     // of each position, in this pass
    std::vector<uint8_t> foreseen_;  // of each position, in the next one
    Foresight foresight_;
    bool in_pass_ = false;
    bool closing_ = false;
    bool paused_ = false;
    int reading_ = 0;
    std::exception_ptr error_;

    RingStats stats_;
    std::atomic<int64_t> waited_ns_{0};
    int64_t last_change_ns_ = 0;
    Crew crew_;
};

}  // namespace pintpot

#include "engine/ring.h"

#include <algorithm>
#include <chrono>

#include "engine/clock.h"
#include "engine/errors.h"

namespace pintpot {

namespace {

constexpr auto kLook = std::chrono::milliseconds(5);
constexpr int kMostReaders = 256;

void check_table(const File& file, const std::vector<Slot>& slots, const std::vector<uint32_t>& order, size_t slot_bytes) {
    for (size_t i = 0; i < slots.size(); ++i) {
        const Slot& slot = slots[i];
        need(slot.offset % kBlock == 0 && slot.bytes % kBlock == 0 && slot.bytes > 0,
             text("slot %zu: offset %llu and size %u are not multiples of %zu", i, (unsigned long long)slot.offset,
                  slot.bytes, kBlock));
        need(slot.offset <= file.size() && slot.bytes <= file.size() - slot.offset,
             text("slot %zu ends at %llu, %s has %zu bytes", i, (unsigned long long)slot.offset + slot.bytes,
                  file.path().c_str(), file.size()));
    }
    for (uint32_t slot : order) {
        need(slot < slots.size(), text("the order names slot %u of %zu", slot, slots.size()));
        need(slots[slot].bytes <= slot_bytes, text("slot %u has %u bytes, a buffer %zu", slot, slots[slot].bytes, slot_bytes));
    }
}

}  // namespace

Ring::Ring(const std::string& path, std::vector<Slot> slots, std::vector<uint32_t> order, uint8_t* memory,
           size_t memory_bytes, size_t slot_bytes, int in_flight, Checksum checksum)
    : file_(path), slots_(std::move(slots)), order_(std::move(order)), slot_bytes_(slot_bytes), checksum_(checksum),
      buffers_(slot_bytes > 0 ? memory_bytes / slot_bytes : 0), verified_(new std::atomic<bool>[slots_.size()]()) {
    check_table(file_, slots_, order_, slot_bytes);
    need(in_flight >= 1 && in_flight <= kMostReaders, text("%d reads in flight; 1 to %d will do", in_flight, kMostReaders));
    need(slot_bytes % kBlock == 0, text("buffers of %zu bytes are not multiples of %zu", slot_bytes, kBlock));
    need(reinterpret_cast<uintptr_t>(memory) % kBlock == 0, "the ring's memory is not aligned");
    // One slot may be needed by two ops in turn while the one after it is needed by the second.
    need(order_.empty() || buffers_.size() >= 2, text("a ring of %zu buffers; 2 or more will do", buffers_.size()));
    for (size_t i = 0; i < buffers_.size(); ++i) buffers_[i].data = memory + i * slot_bytes;
    positions_.assign(slots_.size(), -1);
    for (size_t i = order_.size(); i-- > 0;) positions_[order_[i]] = int64_t(i);
    foreseen_.assign(order_.size(), kNeeded);
    needs_ = foreseen_;
    if (order_.empty()) return;
    for (int i = 0; i < in_flight; ++i) crew_.start([this] { reader(); }, [this] { dismiss(); });
}

Ring::~Ring() { close(); }

void Ring::dismiss() {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        closing_ = true;
    }
    readers_wake_.notify_all();
    consumers_wake_.notify_all();
}

void Ring::close() {
    dismiss();
    crew_.join();
}

// Of passes after the next one nothing is known.
Ring::Need Ring::need_of(uint64_t sequence) const {
    uint64_t position = sequence - pass_base_;
    if (in_pass_ && position < order_.size()) return Need(needs_[position]);
    if (in_pass_) position -= order_.size();
    return position < order_.size() ? Need(foreseen_[position]) : kOpen;
}

Ring::Buffer* Ring::free_buffer() {
    auto found = std::find_if(buffers_.begin(), buffers_.end(), [](const Buffer& one) { return one.state == State::kFree; });
    return found == buffers_.end() ? nullptr : &*found;
}

// Slots are claimed in their order, so that the buffers never hold later ones only while an earlier one is waited for.
bool Ring::may_claim() const {
    if (paused_ || error_ != nullptr) return false;
    Need need = need_of(next_);
    if (need != kNeeded) return need == kSkipped;
    return std::any_of(buffers_.begin(), buffers_.end(), [](const Buffer& buffer) { return buffer.state == State::kFree; });
}

void Ring::reader() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
        readers_wake_.wait(lock, [this] { return closing_ || may_claim(); });
        if (closing_) return;
        uint64_t sequence = next_++;
        if (need_of(sequence) == kSkipped) continue;
        Buffer& buffer = *free_buffer();
        buffer.state = State::kReading;
        buffer.sequence = sequence;
        ++reading_;
        count_in_flight(+1);
        // Another reader may start on the next slot at once.
        readers_wake_.notify_one();
        lock.unlock();
        std::exception_ptr error;
        uint32_t slot = order_[sequence % order_.size()];
        try {
            read_slot(slot, buffer.data);
        } catch (...) {
            error = std::current_exception();
        }
        lock.lock();
        --reading_;
        count_in_flight(-1);
        bool wanted = buffer.state == State::kReading && error == nullptr;
        buffer.state = wanted ? State::kReady : State::kFree;
        if (wanted) buffer.holds.store(sequence + 1, std::memory_order_release);
        if (error == nullptr) stats_.bytes_read += slots_[slot].bytes, ++stats_.slots_read;
        if (error != nullptr && error_ == nullptr) error_ = error;
        consumers_wake_.notify_all();
    }
}

void Ring::read_slot(uint32_t slot, uint8_t* destination) {
    const Slot& wanted = slots_[slot];
    size_t got = file_.read(destination, wanted.bytes, wanted.offset);
    if (got == wanted.bytes && (!wanted.checked || verified_[slot].load(std::memory_order_relaxed))) return;
    check(slot, got == wanted.bytes ? checksum_(0, destination, wanted.bytes) : 0, got);
}

void Ring::check(uint32_t slot, uint32_t crc, size_t bytes) {
    const Slot& wanted = slots_[slot];
    if (bytes != wanted.bytes)
        throw SlotError(text("slot %u of %s ended after %zu of %u bytes", slot, file_.path().c_str(), bytes, wanted.bytes));
    if (crc != wanted.crc)
        throw SlotError(text("slot %u of %s (at byte %llu) has checksum %08x where the pack says %08x", slot,
                             file_.path().c_str(), (unsigned long long)wanted.offset, crc, wanted.crc));
    verified_[slot].store(true, std::memory_order_relaxed);
}

void Ring::open(uint32_t position) {
    std::lock_guard<std::mutex> lock(mutex_);
    foreseen_[position] = kOpen;
}

// Under the mutex: what was read, or is being read, is not wanted.
void Ring::forget(uint64_t sequence) {
    for (Buffer& buffer : buffers_) {
        if (buffer.state == State::kFree || buffer.sequence != sequence) continue;
        buffer.state = buffer.state == State::kReady ? State::kFree : State::kUnwanted;
        buffer.holds.store(0, std::memory_order_relaxed);
    }
}

void Ring::begin_pass(const uint8_t* needs) {
    if (order_.empty()) return;
    std::unique_lock<std::mutex> lock(mutex_);
    if (in_pass_ || error_ != nullptr) rewind_locked(lock);
    in_pass_ = true;
    last_change_ns_ = now_ns();
    needs == nullptr ? needs_.assign(order_.size(), kNeeded) : needs_.assign(needs, needs + order_.size());
    for (uint64_t sequence = pass_base_; sequence < next_; ++sequence)
        if (need_of(sequence) == kSkipped) forget(sequence);
    go_back();
    foreseen_ = foresight_.after(needs_);
    lock.unlock();
    readers_wake_.notify_all();
}

// Under the mutex: slots are claimed in order, so all that comes after one passed over in error is read again.
void Ring::go_back() {
    uint64_t first = pass_base_;
    while (first < next_ && (needs_[first - pass_base_] == kSkipped || foreseen_[first - pass_base_] != kSkipped)) ++first;
    for (uint64_t sequence = first; sequence < next_; ++sequence) forget(sequence);
    next_ = std::min(next_, first);
}

void Ring::decide(const std::vector<std::pair<uint32_t, bool>>& positions) {
    std::unique_lock<std::mutex> lock(mutex_);
    for (auto [position, needed] : positions) {
        needs_[position] = needed ? kNeeded : kSkipped;
        if (!needed && pass_base_ + position < next_) forget(pass_base_ + position);
    }
    lock.unlock();
    readers_wake_.notify_all();
}

const uint8_t* Ring::ready(uint64_t sequence) const {
    for (const Buffer& buffer : buffers_)
        if (buffer.holds.load(std::memory_order_acquire) == sequence + 1) return buffer.data;
    return nullptr;
}

const uint8_t* Ring::wait(uint32_t position, const KeepWaiting& keep_waiting) {
    uint64_t sequence = pass_base_ + position;
    if (const uint8_t* there = ready(sequence)) return there;
    int64_t start = now_ns();
    Asleep asleep;
    const uint8_t* found = nullptr;
    std::unique_lock<std::mutex> lock(mutex_);
    while ((found = ready(sequence)) == nullptr) {
        if (error_ != nullptr) std::rethrow_exception(error_);
        if (closing_) throw SlotError("the ring was closed while a replay waited for it");
        lock.unlock();
        bool go_on = keep_waiting();
        lock.lock();
        if (!go_on) break;
        if (ready(sequence) == nullptr && error_ == nullptr)
            consumers_wake_.wait_for(lock, kLook);
    }
    waited_ns_.fetch_add(now_ns() - start, std::memory_order_relaxed);
    return found;
}

void Ring::release(uint32_t position) {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        forget(pass_base_ + position);
    }
    readers_wake_.notify_one();
}

void Ring::end_pass(bool whole) {
    if (order_.empty()) return;
    std::unique_lock<std::mutex> lock(mutex_);
    count_in_flight(0);
    if (!whole) {
        rewind_locked(lock);
    } else {
        pass_base_ += order_.size();
        // What was skipped at the end of this pass may not have been passed over yet.
        next_ = std::max(next_, pass_base_);
        in_pass_ = false;
    }
    lock.unlock();
    readers_wake_.notify_all();
}

void Ring::rewind() {
    std::unique_lock<std::mutex> lock(mutex_);
    rewind_locked(lock);
    lock.unlock();
    readers_wake_.notify_all();
}

// Waits for the reads under way, which cannot be recalled.
void Ring::rewind_locked(std::unique_lock<std::mutex>& lock) {
    paused_ = true;
    consumers_wake_.wait(lock, [this] { return reading_ == 0; });
    for (Buffer& buffer : buffers_) {
        buffer.state = State::kFree;
        buffer.holds.store(0);
    }
    next_ = pass_base_ = 0;
    error_ = nullptr;
    in_pass_ = false;
    paused_ = false;
}

void Ring::read_piece(uint32_t slot, uint32_t begin, uint32_t bytes, uint8_t* destination, Scratch scratch) {
    const Slot& whole = slots_.at(slot);
    need(begin <= whole.bytes && bytes <= whole.bytes - begin, text("slot %u has no bytes %u..%u", slot, begin, begin + bytes));
    if (whole.checked && !verified_[slot].load(std::memory_order_relaxed)) {
        uint32_t crc = 0;
        size_t done = 0;
        need(scratch.bytes >= kBlock, "a scratch buffer of less than one block");
        while (done < whole.bytes) {
            size_t got = file_.read(scratch.data, std::min(scratch.bytes, whole.bytes - done), whole.offset + done);
            crc = checksum_(crc, scratch.data, got);
            if (got == 0) break;
            done += got;
        }
        check(slot, crc, done);
    }
    if (!file_.read_any(destination, bytes, whole.offset + begin, scratch)) check(slot, 0, 0);
}

// Under the mutex: adds the time since the last change to the bucket of reads that were in flight.
void Ring::count_in_flight(int change) {
    if (!in_pass_) return;
    int64_t now = now_ns();
    int before = std::max(reading_ - change, 0);
    stats_.in_flight_s[std::min(before, 2)] += double(now - last_change_ns_) * 1e-9;
    last_change_ns_ = now;
}

RingStats Ring::stats() const {
    std::lock_guard<std::mutex> lock(mutex_);
    RingStats stats = stats_;
    stats.waited_s = double(waited_ns_.load()) * 1e-9;
    return stats;
}

void Ring::reset_stats() {
    std::lock_guard<std::mutex> lock(mutex_);
    stats_ = RingStats();
    waited_ns_.store(0);
}

}  // namespace pintpot

// One mapped region that buffers are laid out in: aligned, faulted in ahead of time, given back when closed.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace pintpot {

class Arena {
  public:
    static constexpr size_t kAlignment = size_t(2) << 20;

    // Maps `bytes`, rounded up to 4 KiB and no further, at a 2 MiB boundary. `huge` asks for huge pages where whole ones
    // fit: a direct read into them is one piece for the disk instead of hundreds. `prefault` touches every page, so that
    // a plan that started never runs out. Throws std::bad_alloc when the kernel refuses.
    Arena(size_t bytes, bool huge, bool prefault);
    ~Arena();
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;

    // Touches the pages of a part that was not touched. Throws std::bad_alloc when the machine has none left.
    void touch(size_t offset, size_t bytes);

    uint8_t* data() const { return data_; }
    size_t size() const { return bytes_; }
    uintptr_t address() const { return reinterpret_cast<uintptr_t>(data_); }
    bool is_open() const { return data_ != nullptr; }
    bool holds(uintptr_t address, size_t bytes) const;

    // Users of the memory (views, rings, replays): while there are any, close() is refused.
    void pin() { users_.fetch_add(1); }
    void unpin() { users_.fetch_sub(1); }
    int users() const { return users_.load(); }

    // Gives the memory back now; false while someone uses it.
    bool close();

  private:
    uint8_t* data_ = nullptr;
    size_t bytes_ = 0;
    std::atomic<int> users_{0};
};

}  // namespace pintpot

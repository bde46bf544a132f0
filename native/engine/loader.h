// A region of a file on its way into an arena: read, touched and verified by threads of its own from the first moment on.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <vector>

#include "engine/file.h"
#include "engine/thread.h"

namespace pintpot {

// What the bytes must be: one CRC-32C for each run of `run_bytes`, the last one shorter.
struct Checksums {
    using Function = uint32_t (*)(uint32_t crc, const void* data, size_t bytes);
    std::vector<uint32_t> crcs;
    size_t run_bytes;
    Function function;
};

class Loader {
  public:
    static constexpr size_t kBlockBytes = size_t(4) << 20;

    // Starts to fill arena[0, bytes) from `offset` of the file, as far as is allowed: at first nothing. Offset and bytes
    // are multiples of kBlock, runs of 2^n bytes. Throws SystemError, std::invalid_argument.
    Loader(const std::string& path, uint64_t offset, Arena& arena, size_t bytes, Checksums checksums, int in_flight);
    ~Loader();
    Loader(const Loader&) = delete;
    Loader& operator=(const Loader&) = delete;

    // The first `bytes` may be touched and read from now on.
    void allow(size_t bytes);
    // Waits until all that is allowed is there, or for so long. Returns the bytes that are there and sound. Throws
    // SystemError, SlotError where the file ends early, std::bad_alloc where the machine gives no memory.
    size_t wait(double timeout_s);
    // The first run that is not what its checksum says, found so far; -1 for none. Nothing is read after it was found.
    int64_t changed() const;
    bool direct() const { return file_.direct(); }

    // Calls look(bytes touched so far) while no more are touched.
    void still(const std::function<void(size_t)>& look);
    // Ends the reading wherever it is.
    void close();

  private:
    void dismiss();
    void work();
    bool take(size_t& first, size_t& last);
    void fill(size_t first, size_t last);
    int64_t wrong_run(size_t first, size_t last) const;

    File file_;
    const uint64_t offset_;
    Arena& arena_;
    const size_t bytes_;
    const Checksums checksums_;

    mutable std::mutex mutex_;
    std::condition_variable may_read_, has_read_;
    size_t allowed_ = 0, taken_ = 0, done_ = 0;
    int64_t changed_ = -1;
    bool closed_ = false;
    std::exception_ptr error_;

    std::shared_mutex touching_;
    std::atomic<size_t> touched_{0};
    Crew crew_;
};

}  // namespace pintpot

// Whole transfers between a file and memory: loading, measuring a disk, writing a pack.
#pragma once

#include <cstdint>
#include <string>

#include "engine/file.h"

namespace pintpot {

struct Transfer {
    int64_t bytes;
    double seconds;
    bool direct;
};

// Fills destination[0, bytes) from `offset` of the file, `in_flight` reads of `block` bytes at a time. Nothing but
// in_flight * 256 KiB is needed beside it, and only where destination and offset do not run parallel. Throws
// SystemError, or SlotError when the file ends early.
Transfer read_into(const std::string& path, uint64_t offset, uint8_t* destination, size_t bytes, int in_flight, size_t block);

// Reads [offset, offset + bytes) over and over, block by block, for about `seconds`, and throws the bytes away.
Transfer disk_rate(const std::string& path, uint64_t offset, size_t bytes, int in_flight, size_t block, double seconds);

// Appends to a new file past the page cache. Throws SystemError.
class Writer {
  public:
    Writer(const std::string& path, size_t block);
    ~Writer();
    Writer(const Writer&) = delete;
    Writer& operator=(const Writer&) = delete;

    void write(const uint8_t* data, size_t bytes);
    // Writes what is left, cuts the file to its length and waits until it rests on the disk.
    void finish();
    // Closes without finishing.
    void abandon();
    uint64_t position() const { return written_ + filled_; }
    bool direct() const { return direct_; }

  private:
    void put(const uint8_t* data, size_t bytes);
    [[noreturn]] void fail_writing() const;

    std::string path_;
    int fd_ = -1;
    bool direct_ = false;
    AlignedBuffer buffer_;
    size_t filled_ = 0;
    uint64_t written_ = 0;
};

}  // namespace pintpot

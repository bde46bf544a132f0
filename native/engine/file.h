// A file read past the page cache where the filesystem allows it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "engine/arena.h"

namespace pintpot {

constexpr size_t kBlock = 4096;

// Borrowed memory, its address and size multiples of kBlock.
struct Scratch {
    uint8_t* data;
    size_t bytes;
};

// Memory that direct reads may go to; freed with the object. Throws std::bad_alloc.
class AlignedBuffer {
  public:
    explicit AlignedBuffer(size_t bytes) : arena_(bytes, true, true) {}
    uint8_t* data() const { return arena_.data(); }
    size_t size() const { return arena_.size(); }
    Scratch scratch() const { return {data(), size()}; }

  private:
    Arena arena_;
};

class File {
  public:
    // Opens for reading, with O_DIRECT unless the filesystem refuses or PINTPOT_NO_DIRECT=1 says that it does.
    // Throws SystemError.
    explicit File(const std::string& path);
    ~File();
    File(const File&) = delete;
    File& operator=(const File&) = delete;

    const std::string& path() const { return path_; }
    bool direct() const { return direct_; }
    size_t size() const { return size_; }

    // Fills destination[0, bytes) from `offset`. All three are multiples of kBlock, but the file may end inside the last
    // block; returns the bytes there were. Throws SystemError. Buffered reads leave no pages behind.
    size_t read(uint8_t* destination, size_t bytes, uint64_t offset) const;

    // As `read`, for any offset and length, through `scratch` where alignment asks for it. False if the file ends early.
    bool read_any(uint8_t* destination, size_t bytes, uint64_t offset, Scratch scratch) const;

  private:
    std::string path_;
    int fd_ = -1;
    bool direct_ = false;
    size_t size_ = 0;
};

// True if the environment says that filesystems refuse direct access (a test injects it).
bool direct_refused_by_environment();

}  // namespace pintpot

#include "engine/file.h"

#include <algorithm>
#include <cstdlib>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/errors.h"

namespace pintpot {

namespace {

[[noreturn]] void fail(const std::string& what) {
    int number = errno;
    throw SystemError(number, what + ": " + std::strerror(number));
}

// Some filesystems take the flag and refuse the first read.
bool direct_read_works(int fd) {
    AlignedBuffer block(kBlock);
    return pread(fd, block.data(), kBlock, 0) >= 0;
}

}  // namespace

bool direct_refused_by_environment() {
    const char* value = std::getenv("PINTPOT_NO_DIRECT");
    return value != nullptr && std::strcmp(value, "1") == 0;
}

File::File(const std::string& path) : path_(path) {
    if (!direct_refused_by_environment()) {
        fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
        direct_ = fd_ >= 0 && direct_read_works(fd_);
        if (fd_ >= 0 && !direct_) close(fd_);
    }
    if (!direct_) fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd_ < 0) fail("cannot open " + path);
    struct stat status;
    if (fstat(fd_, &status) != 0 || !S_ISREG(status.st_mode)) {
        if (S_ISDIR(status.st_mode)) errno = EISDIR;
        else if (errno == 0) errno = EINVAL;
        int number = errno;
        close(fd_);
        errno = number;
        fail("cannot read " + path);
    }
    size_ = size_t(status.st_size);
}

File::~File() { close(fd_); }

size_t File::read(uint8_t* destination, size_t bytes, uint64_t offset) const {
    size_t done = 0;
    while (done < bytes) {
        ssize_t got = pread(fd_, destination + done, bytes - done, off_t(offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) fail("cannot read " + path_);
        done += size_t(got);
        // A direct read that ends inside a block has met the end of the file.
        if (got == 0 || done % kBlock != 0) break;
    }
    if (!direct_) posix_fadvise(fd_, off_t(offset), off_t(bytes), POSIX_FADV_DONTNEED);
    return done;
}

bool File::read_any(uint8_t* destination, size_t bytes, uint64_t offset, Scratch scratch) const {
    need(scratch.bytes >= kBlock, "a scratch buffer of less than one block");
    while (bytes > 0) {
        size_t skip = offset % kBlock;
        bool aligned = skip == 0 && reinterpret_cast<uintptr_t>(destination) % kBlock == 0 && bytes >= kBlock;
        size_t part;
        if (aligned) {
            part = bytes / kBlock * kBlock;
            if (read(destination, part, offset) < part) return false;
        } else {
            // One block brings a destination that runs parallel to the file back to a boundary.
            bool parallel = skip == reinterpret_cast<uintptr_t>(destination) % kBlock;
            part = std::min(bytes, (parallel ? kBlock : scratch.bytes) - skip);
            size_t window = (skip + part + kBlock - 1) / kBlock * kBlock;
            if (read(scratch.data, window, offset - skip) < skip + part) return false;
            std::memcpy(destination, scratch.data + skip, part);
        }
        destination += part, offset += part, bytes -= part;
    }
    return true;
}

}  // namespace pintpot

#include "engine/transfer.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <fcntl.h>
#include <functional>
#include <mutex>
#include <unistd.h>
#include <vector>

#include "engine/clock.h"
#include "engine/errors.h"
#include "engine/thread.h"

namespace pintpot {

namespace {

constexpr size_t kBounce = size_t(256) << 10;
constexpr size_t kLongestBlock = size_t(1) << 30;

void check_request(int in_flight, size_t block) {
    need(in_flight >= 1 && in_flight <= 256, text("%d reads in flight; 1 to 256 will do", in_flight));
    need(block > 0 && block % kBlock == 0 && block <= kLongestBlock,
         text("a block of %zu bytes; multiples of %zu up to 1 GiB will do", block, kBlock));
}

// Runs body() on this many threads and rethrows the first exception.
void side_by_side(int threads, const std::function<void()>& body) {
    std::mutex mutex;
    std::exception_ptr error;
    auto guarded = [&] {
        try {
            body();
        } catch (...) {
            std::lock_guard<std::mutex> lock(mutex);
            if (error == nullptr) error = std::current_exception();
        }
    };
    Crew others;
    for (int i = 1; i < threads; ++i) others.start(guarded, [] {});
    guarded();
    others.join();
    if (error != nullptr) std::rethrow_exception(error);
}

}  // namespace

Transfer read_into(const std::string& path, uint64_t offset, uint8_t* destination, size_t bytes, int in_flight, size_t block) {
    check_request(in_flight, block);
    int64_t start = now_ns();
    File file(path);
    // Blocks end at block boundaries of the file, so that all but the ends are aligned.
    uint64_t first = offset / block, stop = bytes == 0 ? first : (offset + bytes - 1) / block + 1;
    std::atomic<uint64_t> next{first};
    std::atomic<bool> failed{false};
    side_by_side(int(std::min<uint64_t>(uint64_t(in_flight), std::max<uint64_t>(stop - first, 1))), [&] {
        AlignedBuffer scratch(kBounce);
        for (uint64_t i = next++; i < stop && !failed; i = next++) {
            uint64_t begin = std::max(offset, i * block), end = std::min(offset + bytes, (i + 1) * block);
            try {
                if (!file.read_any(destination + (begin - offset), end - begin, begin, scratch.scratch()))
                    throw SlotError(text("%s ends before byte %llu", path.c_str(), (unsigned long long)end));
            } catch (...) {
                failed = true;
                throw;
            }
        }
    });
    return {int64_t(bytes), double(now_ns() - start) * 1e-9, file.direct()};
}

Transfer disk_rate(const std::string& path, uint64_t offset, size_t bytes, int in_flight, size_t block, double seconds) {
    check_request(in_flight, block);
    File file(path);
    need(offset % kBlock == 0, text("offset %llu is not a multiple of %zu", (unsigned long long)offset, kBlock));
    need(offset <= file.size() && bytes <= file.size() - offset && bytes >= block,
         text("%s has no region of %zu bytes at %llu, or it is shorter than a block", path.c_str(), bytes,
              (unsigned long long)offset));
    const uint64_t num_blocks = bytes / block;
    std::atomic<uint64_t> next{0};
    std::atomic<int64_t> total{0};
    std::atomic<size_t> place{0};
    // One region for all, as the ring has it: smaller ones would have no huge pages.
    AlignedBuffer buffers(size_t(in_flight) * block);
    int64_t start = now_ns(), stop = start + int64_t(seconds * 1e9);
    side_by_side(in_flight, [&] {
        uint8_t* mine = buffers.data() + place++ * block;
        while (now_ns() < stop) {
            uint64_t at = offset + next++ % num_blocks * block;
            if (file.read(mine, block, at) < block)
                throw SlotError(text("%s ends before byte %llu", path.c_str(), (unsigned long long)(at + block)));
            total += int64_t(block);
        }
    });
    return {total.load(), double(now_ns() - start) * 1e-9, file.direct()};
}

Writer::Writer(const std::string& path, size_t block) : path_(path), buffer_(block) {
    check_request(1, block);
    const int flags = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC;
    if (!direct_refused_by_environment()) fd_ = open(path.c_str(), flags | O_DIRECT, 0666);
    direct_ = fd_ >= 0;
    if (fd_ < 0) fd_ = open(path.c_str(), flags, 0666);
    if (fd_ < 0) {
        int number = errno;
        throw SystemError(number, "cannot write " + path + ": " + std::strerror(number));
    }
}

Writer::~Writer() { abandon(); }

void Writer::abandon() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
}

void Writer::fail_writing() const {
    int number = errno;
    throw SystemError(number, "cannot write " + path_ + ": " + std::strerror(number));
}

void Writer::put(const uint8_t* data, size_t bytes) {
    for (size_t done = 0; done < bytes;) {
        ssize_t count = ::write(fd_, data + done, bytes - done);
        if (count >= 0) {
            done += size_t(count);
            // A short direct write leaves an odd position; the rest goes through the page cache.
            if (!direct_ || done % kBlock == 0) continue;
        } else if (errno == EINTR) {
            continue;
        } else if (!(errno == EINVAL && direct_)) {
            fail_writing();
        }
        fcntl(fd_, F_SETFL, fcntl(fd_, F_GETFL) & ~O_DIRECT);
        direct_ = false;
    }
    written_ += bytes;
    if (!direct_) {
        // Only clean pages can be dropped.
        if (fdatasync(fd_) != 0) fail_writing();
        posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED);
    }
}

void Writer::write(const uint8_t* data, size_t bytes) {
    need(fd_ >= 0, "this writer is closed");
    while (bytes > 0) {
        size_t part = std::min(bytes, buffer_.size() - filled_);
        std::memcpy(buffer_.data() + filled_, data, part);
        filled_ += part, data += part, bytes -= part;
        if (filled_ < buffer_.size()) continue;
        filled_ = 0;
        put(buffer_.data(), buffer_.size());
    }
}

void Writer::finish() {
    need(fd_ >= 0, "this writer is closed");
    uint64_t length = position();
    size_t padded = (filled_ + kBlock - 1) / kBlock * kBlock;
    std::memset(buffer_.data() + filled_, 0, padded - filled_);
    filled_ = 0;
    if (padded > 0) put(buffer_.data(), padded);
    written_ = length;
    if (ftruncate(fd_, off_t(length)) != 0 || fsync(fd_) != 0) {
        int number = errno;
        throw SystemError(number, "cannot finish " + path_ + ": " + std::strerror(number));
    }
    abandon();
}

}  // namespace pintpot

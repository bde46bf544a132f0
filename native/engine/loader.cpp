#include "engine/loader.h"

#include <algorithm>
#include <chrono>

#include "engine/errors.h"
#include "engine/thread.h"

namespace pintpot {

Loader::Loader(const std::string& path, uint64_t offset, Arena& arena, size_t bytes, Checksums checksums, int in_flight)
    : file_(path), offset_(offset), arena_(arena), bytes_(bytes), checksums_(std::move(checksums)) {
    const size_t run = checksums_.run_bytes;
    need(offset % kBlock == 0 && bytes % kBlock == 0, "a region that is loaded begins and ends at whole blocks");
    need(bytes <= arena.size(), text("%zu bytes do not fit an arena of %zu", bytes, arena.size()));
    need(offset <= file_.size() && bytes <= file_.size() - offset,
         text("%s ends before byte %llu", path.c_str(), (unsigned long long)(offset + bytes)));
    need(run > 0 && kBlockBytes % run == 0, text("checksums of runs of %zu bytes; a power of two will do", run));
    need(checksums_.crcs.size() == (bytes + run - 1) / run,
         text("%zu checksums for %zu bytes", checksums_.crcs.size(), bytes));
    need(in_flight >= 1 && in_flight <= 256, text("%d reads in flight; 1 to 256 will do", in_flight));
    for (int i = 0; i < in_flight; ++i) crew_.start([this] { work(); }, [this] { dismiss(); });
}

Loader::~Loader() { close(); }

void Loader::dismiss() {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        closed_ = true;
    }
    may_read_.notify_all();
    has_read_.notify_all();
}

void Loader::close() {
    dismiss();
    crew_.join();
}

void Loader::allow(size_t bytes) {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        // Whole blocks, so that every run of a checksum lies in one.
        allowed_ = std::max(allowed_, bytes >= bytes_ ? bytes_ : bytes / kBlockBytes * kBlockBytes);
    }
    may_read_.notify_all();
}

size_t Loader::wait(double timeout_s) {
    std::unique_lock<std::mutex> lock(mutex_);
    auto over = [this] { return done_ == allowed_ || changed_ >= 0 || error_ != nullptr || closed_; };
    has_read_.wait_for(lock, std::chrono::duration<double>(timeout_s), over);
    if (error_ != nullptr) std::rethrow_exception(error_);
    return done_;
}

int64_t Loader::changed() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return changed_;
}

void Loader::still(const std::function<void(size_t)>& look) {
    std::unique_lock<std::shared_mutex> lock(touching_);
    look(touched_);
}

// The next block that is allowed; false when there is nothing more to do.
bool Loader::take(size_t& first, size_t& last) {
    std::unique_lock<std::mutex> lock(mutex_);
    auto over = [this] { return closed_ || changed_ >= 0 || error_ != nullptr || taken_ == bytes_; };
    may_read_.wait(lock, [&] { return over() || taken_ < allowed_; });
    if (over()) return false;
    first = taken_, last = taken_ = std::min(bytes_, first + kBlockBytes);
    return true;
}

void Loader::fill(size_t first, size_t last) {
    {
        std::shared_lock<std::shared_mutex> lock(touching_);
        arena_.touch(first, last - first);
        touched_ += last - first;
    }
    if (file_.read(arena_.data() + first, last - first, offset_ + first) < last - first)
        throw SlotError(text("%s ends before byte %llu", file_.path().c_str(), (unsigned long long)(offset_ + last)));
}

int64_t Loader::wrong_run(size_t first, size_t last) const {
    const size_t run = checksums_.run_bytes;
    for (size_t at = first; at < last; at += run)
        if (checksums_.function(0, arena_.data() + at, std::min(run, last - at)) != checksums_.crcs[at / run])
            return int64_t(at / run);
    return -1;
}

void Loader::work() {
    for (size_t first, last; take(first, last);) {
        int64_t wrong = -1;
        std::exception_ptr error;
        try {
            fill(first, last);
            wrong = wrong_run(first, last);
        } catch (...) {
            error = std::current_exception();
        }
        {
            std::lock_guard<std::mutex> lock(mutex_);
            if (error != nullptr && error_ == nullptr) error_ = error;
            if (wrong >= 0 && (changed_ < 0 || wrong < changed_)) changed_ = wrong;
            if (error == nullptr && wrong < 0) done_ += last - first;
        }
        has_read_.notify_all();
        if (error != nullptr || wrong >= 0) may_read_.notify_all();
    }
}

}  // namespace pintpot

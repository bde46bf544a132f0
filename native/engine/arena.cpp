#include "engine/arena.h"

#include <new>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/errors.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace pintpot {

namespace {

constexpr size_t kPage = 4096;

size_t round_up(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

size_t physical_bytes() { return size_t(sysconf(_SC_PHYS_PAGES)) * size_t(sysconf(_SC_PAGESIZE)); }

// What lies around the aligned part is given back, so that no huge page reaches beyond it.
uint8_t* map_aligned(size_t bytes, int flags) {
    size_t mapped = bytes + Arena::kAlignment;
    void* mapping = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    if (mapping == MAP_FAILED) throw std::bad_alloc();
    auto* start = static_cast<uint8_t*>(mapping);
    size_t before = round_up(reinterpret_cast<uintptr_t>(start), Arena::kAlignment) - reinterpret_cast<uintptr_t>(start);
    if (before > 0) munmap(start, before);
    if (before < Arena::kAlignment) munmap(start + before + bytes, Arena::kAlignment - before);
    return start + before;
}

// Kernels before 5.14 do not know MADV_POPULATE_WRITE: there the pages are touched one by one.
void touch_pages(uint8_t* data, size_t bytes) {
    if (madvise(data, bytes, MADV_POPULATE_WRITE) == 0) return;
    if (errno == ENOMEM || errno == EFAULT) throw std::bad_alloc();
    for (size_t offset = 0; offset < bytes; offset += kPage) static_cast<volatile uint8_t*>(data)[offset] = 0;
}

}  // namespace

Arena::Arena(size_t bytes, bool huge, bool prefault) : bytes_(round_up(bytes, kPage)) {
    need(bytes > 0, "an arena of 0 bytes");
    // A kernel that overcommits would give it, and kill somebody while it is touched.
    if (bytes_ < bytes || bytes_ > physical_bytes()) throw std::bad_alloc();
    data_ = map_aligned(bytes_, prefault ? 0 : MAP_NORESERVE);
    // Where huge pages are on for everybody, an arena that is touched little by little would grow by whole ones.
    madvise(data_, bytes_, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    if (!prefault) return;
    try {
        touch_pages(data_, bytes_);
    } catch (...) {
        munmap(data_, bytes_);
        throw;
    }
}

void Arena::touch(size_t offset, size_t bytes) {
    need(offset % kPage == 0 && offset <= bytes_ && bytes <= bytes_ - offset, "a part of the arena, from a page on");
    if (bytes > 0) touch_pages(data_ + offset, round_up(bytes, kPage));
}

Arena::~Arena() {
    if (data_ != nullptr) munmap(data_, bytes_);
}

bool Arena::holds(uintptr_t address, size_t bytes) const {
    if (data_ == nullptr || address < this->address()) return false;
    size_t offset = address - this->address();
    return offset <= bytes_ && bytes <= bytes_ - offset;
}

bool Arena::close() {
    if (users_.load() > 0) return false;
    if (data_ != nullptr) munmap(data_, bytes_);
    data_ = nullptr;
    return true;
}

}  // namespace pintpot

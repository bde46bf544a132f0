// What the binding files share. Each bind_* adds its classes and functions to the module.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <string>

#include "engine/arena.h"
#include "engine/pool.h"
#include "engine/ring.h"

namespace pintpot {

namespace nb = nanobind;

void bind_memory(nb::module_& module);
void bind_stream(nb::module_& module);
void bind_call(nb::module_& module);
void bind_replay(nb::module_& module);
void bind_measure(nb::module_& module);
void bind_learn(nb::module_& module);

// A contiguous view of a Python buffer for as long as this lives; needs the GIL to come and go.
class BufferView {
  public:
    BufferView(nb::handle object, bool writable) {
        if (PyObject_GetBuffer(object.ptr(), &view_, writable ? PyBUF_WRITABLE : PyBUF_SIMPLE) != 0)
            throw nb::python_error();
    }
    ~BufferView() { PyBuffer_Release(&view_); }
    BufferView(const BufferView&) = delete;
    BufferView& operator=(const BufferView&) = delete;
    uint8_t* data() const { return static_cast<uint8_t*>(view_.buf); }
    size_t size() const { return size_t(view_.len); }

  private:
    Py_buffer view_;
};

// Keeps an arena open for as long as this lives.
class ArenaUse {
  public:
    explicit ArenaUse(std::shared_ptr<Arena> arena) : arena_(std::move(arena)) { arena_->pin(); }
    ~ArenaUse() {
        if (arena_ != nullptr) arena_->unpin();
    }
    ArenaUse(ArenaUse&& other) noexcept : arena_(std::move(other.arena_)) {}
    ArenaUse(const ArenaUse&) = delete;
    ArenaUse& operator=(const ArenaUse&) = delete;
    Arena& operator*() const { return *arena_; }
    Arena* operator->() const { return arena_.get(); }

  private:
    std::shared_ptr<Arena> arena_;
};

}  // namespace pintpot

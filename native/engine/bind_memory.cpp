// Python's view of arenas and pools.

#include "engine/bind.h"
#include "engine/clock.h"
#include "engine/errors.h"

namespace pintpot {

namespace {

// memoryview(arena) and numpy.frombuffer(arena, ...): the arena stays open while there is a view of it.
int get_buffer(PyObject* self, Py_buffer* view, int flags) {
    Arena* arena = nb::inst_ptr<Arena>(self);
    view->obj = nullptr;
    if (!arena->is_open()) {
        PyErr_SetString(PyExc_BufferError, "the arena is closed");
        return -1;
    }
    int result = PyBuffer_FillInfo(view, self, arena->data(), Py_ssize_t(arena->size()), 0, flags);
    if (result == 0) arena->pin();
    return result;
}

void release_buffer(PyObject* self, Py_buffer*) { nb::inst_ptr<Arena>(self)->unpin(); }

PyType_Slot arena_slots[] = {
    {Py_bf_getbuffer, reinterpret_cast<void*>(get_buffer)},
    {Py_bf_releasebuffer, reinterpret_cast<void*>(release_buffer)},
    {0, nullptr},
};

double barrier_seconds(Pool& pool, int rounds) {
    int64_t start = now_ns();
    pool.run([&](int thread) {
        for (int i = 0; i < rounds; ++i) pool.barrier(thread);
    });
    return double(now_ns() - start) * 1e-9 / rounds;
}

double run_seconds(Pool& pool, int rounds) {
    int64_t start = now_ns();
    for (int i = 0; i < rounds; ++i) pool.run([](int) {});
    return double(now_ns() - start) * 1e-9 / rounds;
}

// Every chunk of every phase is claimed once, and no phase starts before the last has ended.
bool check_phases(Pool& pool, int phases, int chunks) {
    std::vector<std::atomic<int>> claimed(static_cast<size_t>(chunks));
    std::atomic<int> wrong{0};
    pool.run([&](int thread) {
        for (int phase = 0; phase < phases; ++phase) {
            bool go_on = pool.phase(thread, chunks, [&](int64_t chunk) {
                if (claimed[size_t(chunk)].fetch_add(1) != phase) ++wrong;
            });
            if (!go_on) return;
        }
    });
    for (std::atomic<int>& count : claimed) wrong += count != phases;
    return wrong == 0;
}

}  // namespace

void bind_memory(nb::module_& module) {
    nb::class_<Arena>(module, "Arena", nb::type_slots(arena_slots))
        .def(
            "__init__",
            [](Arena* self, size_t bytes, bool huge, bool prefault) {
                nb::gil_scoped_release released;
                new (self) Arena(bytes, huge, prefault);
            },
            nb::arg("num_bytes"), nb::arg("huge") = false, nb::arg("prefault") = true)
        .def_prop_ro("address", &Arena::address)
        .def_prop_ro("nbytes", &Arena::size)
        .def_prop_ro("is_open", &Arena::is_open)
        .def("close", [](Arena& self) {
            if (!self.close()) throw nb::buffer_error("the arena is in use");
        });

    nb::class_<Pool>(module, "Pool")
        .def(nb::init<int, const std::vector<int>&>(), nb::arg("threads"), nb::arg("cpus") = std::vector<int>())
        .def_prop_ro("size", &Pool::size)
        .def("barrier_seconds", &barrier_seconds, nb::arg("rounds"), nb::call_guard<nb::gil_scoped_release>())
        .def("run_seconds", &run_seconds, nb::arg("rounds"), nb::call_guard<nb::gil_scoped_release>())
        .def("check_phases", &check_phases, nb::arg("phases"), nb::arg("chunks"),
             nb::call_guard<nb::gil_scoped_release>());
    module.def("nothing", [] {});
}

}  // namespace pintpot

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

// Phases of as many chunks each, all told apart; `wrong` counts what was claimed twice, left out, or taken too early.
struct Phases final : Job {
    Phases(int phases_, int chunks_) : left(phases_), chunks(chunks_), claimed(size_t(chunks_)) {}
    int64_t next() override {
        for (std::atomic<int>& count : claimed) wrong += count != begun;
        return left-- > 0 ? (++begun, chunks) : 0;
    }
    void work(int, int64_t chunk) override {
        if (claimed[size_t(chunk)].fetch_add(1) != begun - 1) ++wrong;
    }
    int left, chunks, begun = 0;
    std::vector<std::atomic<int>> claimed;
    std::atomic<int> wrong{0};
};

bool check_phases(Pool& pool, int phases, int chunks) {
    need(phases >= 0 && chunks > 0, "phases have chunks");
    Phases job(phases, chunks);
    pool.run(job);
    return job.wrong == 0 && job.begun == phases;
}

// Of a phase with one empty chunk for each thread.
double phase_seconds(Pool& pool, int rounds) {
    struct Empty final : Job {
        int64_t next() override { return left-- > 0 ? chunks : 0; }
        void work(int, int64_t) override {}
        int left = 0, chunks = 0;
    } job;
    need(rounds > 0, "one round or more");
    job.left = rounds, job.chunks = pool.size();
    int64_t start = now_ns();
    pool.run(job);
    return double(now_ns() - start) * 1e-9 / rounds;
}

// Of a job of one phase, started and ended.
double run_seconds(Pool& pool, int rounds) {
    need(rounds > 0, "one round or more");
    int64_t start = now_ns();
    for (int i = 0; i < rounds; ++i) pool.run(pool.size(), [](int, int64_t) {});
    return double(now_ns() - start) * 1e-9 / rounds;
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
            nb::arg("num_bytes"), nb::arg("huge") = true, nb::arg("prefault") = true)
        .def_prop_ro("address", &Arena::address)
        .def_prop_ro("nbytes", &Arena::size)
        .def_prop_ro("is_open", &Arena::is_open)
        .def("close", [](Arena& self) {
            if (!self.close()) throw nb::buffer_error("the arena is in use");
        });

    nb::class_<Pool>(module, "Pool")
        .def(
            "__init__",
            [](Pool* self, int threads, const std::vector<int>& cpus, uintptr_t fork) {
                new (self) Pool(threads, cpus, reinterpret_cast<Pool::Fork>(fork));
            },
            nb::arg("threads"), nb::arg("cpus") = std::vector<int>(), nb::arg("fork") = 0)
        .def_prop_ro("size", &Pool::size)
        .def("barrier_seconds", &phase_seconds, nb::arg("rounds"), nb::call_guard<nb::gil_scoped_release>())
        .def("run_seconds", &run_seconds, nb::arg("rounds"), nb::call_guard<nb::gil_scoped_release>())
        .def("check_phases", &check_phases, nb::arg("phases"), nb::arg("chunks"),
             nb::call_guard<nb::gil_scoped_release>());
    module.def("nothing", [] {});
}

}  // namespace pintpot

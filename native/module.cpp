// The extension module pintpot._native.

#include <nanobind/nanobind.h>

#include "engine/bind.h"
#include "engine/errors.h"
#include "kernels/dispatch.h"
#include "kernels/python.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

namespace nb = nanobind;

namespace {

void translate(const std::exception_ptr& error, void*) {
    try {
        std::rethrow_exception(error);
    } catch (const pintpot::SystemError& failure) {
        PyErr_SetObject(PyExc_OSError, nb::make_tuple(failure.number, failure.what()).ptr());
    }
}

}  // namespace

NB_MODULE(_native, module) {
    nb::register_exception_translator(translate);
    nb::exception<pintpot::SlotError>(module, "SlotError");
    pintpot::bind_memory(module);
    pintpot::bind_stream(module);
    pintpot::bind_measure(module);
    pintpot::bind_learn(module);
    pintpot::bind_call(module);
    pintpot::bind_replay(module);
    pintpot::bind_kernels(module);
    module.def("available_isas", &pintpot::available_isas);
}

// Python's view of rings and transfers.

#include "engine/bind.h"
#include "engine/clock.h"
#include "engine/errors.h"
#include "engine/loader.h"
#include "engine/ring_holder.h"
#include "engine/transfer.h"
#include "kernels/dispatch.h"

namespace pintpot {

namespace {

using SlotTuple = std::tuple<uint64_t, uint32_t, std::optional<uint32_t>>;
using TransferTuple = std::tuple<int64_t, double, bool>;

TransferTuple as_tuple(const Transfer& transfer) { return {transfer.bytes, transfer.seconds, transfer.direct}; }

std::vector<Slot> to_slots(const std::vector<SlotTuple>& tuples) {
    std::vector<Slot> slots;
    slots.reserve(tuples.size());
    for (const auto& [offset, bytes, crc] : tuples) slots.push_back({offset, bytes, crc.value_or(0), crc.has_value()});
    return slots;
}

nb::dict to_dict(const RingStats& stats) {
    nb::dict result;
    result["bytes_read"] = stats.bytes_read;
    result["slots_read"] = stats.slots_read;
    result["waited_s"] = stats.waited_s;
    result["idle_s"] = stats.in_flight_s[0];
    result["one_in_flight_s"] = stats.in_flight_s[1];
    result["more_in_flight_s"] = stats.in_flight_s[2];
    return result;
}

// Where the slot of this position lies in the arena, or -1 after timeout_s.
int64_t wait_for(RingHolder& self, uint32_t position, double timeout_s) {
    need(position < self.ring.order().size() && self.use.has_value(), "no such position, or the ring is closed");
    int64_t stop = now_ns() + int64_t(timeout_s * 1e9);
    const uint8_t* data = self.ring.wait(position, [stop] { return now_ns() < stop; });
    return data == nullptr ? -1 : data - self.arena->data();
}

void bind_ring(nb::module_& module) {
    nb::class_<RingHolder>(module, "Ring")
        .def(
            "__init__",
            [](RingHolder* self, const std::string& path, const std::vector<SlotTuple>& slots,
               std::vector<uint32_t> order, std::shared_ptr<Arena> arena, size_t memory_offset, size_t memory_bytes,
               size_t slot_bytes, int in_flight) {
                new (self) RingHolder(path, to_slots(slots), std::move(order), std::move(arena), memory_offset,
                                      memory_bytes, slot_bytes, in_flight, kernels().crc32c);
            },
            nb::arg("path"), nb::arg("slots"), nb::arg("order"), nb::arg("arena"), nb::arg("memory_offset"),
            nb::arg("memory_bytes"), nb::arg("slot_bytes"), nb::arg("in_flight"))
        .def_prop_ro("direct", [](const RingHolder& self) { return self.ring.direct(); })
        .def_prop_ro("num_buffers", [](const RingHolder& self) { return self.ring.num_buffers(); })
        .def("stats", [](const RingHolder& self) { return to_dict(self.ring.stats()); })
        .def("reset_stats", [](RingHolder& self) { self.ring.reset_stats(); })
        .def(
            "begin_pass",
            [](RingHolder& self, std::vector<uint8_t> needed) {
                need(needed.empty() || needed.size() == self.ring.order().size(), "needed has one entry per position");
                // The last pass still looks at its own list until this one has begun.
                std::swap(needed, self.needed);
                self.ring.begin_pass(self.needed.empty() ? nullptr : self.needed.data());
            },
            nb::arg("needed") = std::vector<uint8_t>(), nb::call_guard<nb::gil_scoped_release>())
        .def("wait", &wait_for, nb::arg("position"), nb::arg("timeout_s"), nb::call_guard<nb::gil_scoped_release>())
        .def(
            "release",
            [](RingHolder& self, uint32_t position) {
                need(position < self.ring.order().size(), "no such position");
                self.ring.release(position);
            },
            nb::arg("position"), nb::call_guard<nb::gil_scoped_release>())
        .def(
            "end_pass", [](RingHolder& self, bool whole) { self.ring.end_pass(whole); }, nb::arg("whole"),
            nb::call_guard<nb::gil_scoped_release>())
        .def("rewind", [](RingHolder& self) { self.ring.rewind(); }, nb::call_guard<nb::gil_scoped_release>())
        .def("close", [](RingHolder& self) { self.close(); }, nb::call_guard<nb::gil_scoped_release>());
}

// A loader together with the arena that it fills.
struct LoaderHolder {
    LoaderHolder(const std::string& path, uint64_t offset, std::shared_ptr<Arena> arena_, size_t bytes,
                 std::vector<uint32_t> crcs, size_t run_bytes, int in_flight)
        : arena(std::move(arena_)),
          use(arena),
          loader(path, offset, *arena, bytes, {std::move(crcs), run_bytes, kernels().crc32c}, in_flight) {}

    void close() {
        loader.close();
        use.reset();
    }

    std::shared_ptr<Arena> arena;
    std::optional<ArenaUse> use;
    Loader loader;
};

// What look() gives, less the bytes that are touched, while no more are touched.
int64_t beside(LoaderHolder& self, const nb::callable& look) {
    int64_t result = 0;
    nb::gil_scoped_release released;
    self.loader.still([&](size_t touched) {
        nb::gil_scoped_acquire acquired;
        result = nb::cast<int64_t>(look()) - int64_t(touched);
    });
    return result;
}

void bind_loader(nb::module_& module) {
    nb::class_<LoaderHolder>(module, "Loader")
        .def(nb::init<const std::string&, uint64_t, std::shared_ptr<Arena>, size_t, std::vector<uint32_t>, size_t, int>(),
             nb::arg("path"), nb::arg("offset"), nb::arg("arena"), nb::arg("num_bytes"), nb::arg("crcs"),
             nb::arg("run_bytes"), nb::arg("in_flight"))
        .def("allow", [](LoaderHolder& self, size_t bytes) { self.loader.allow(bytes); }, nb::arg("num_bytes"))
        .def("wait", [](LoaderHolder& self, double timeout_s) { return self.loader.wait(timeout_s); },
             nb::arg("timeout_s"), nb::call_guard<nb::gil_scoped_release>())
        .def_prop_ro("changed", [](const LoaderHolder& self) -> std::optional<int64_t> {
            int64_t run = self.loader.changed();
            return run < 0 ? std::nullopt : std::optional<int64_t>(run);
        })
        .def_prop_ro("direct", [](const LoaderHolder& self) { return self.loader.direct(); })
        .def("beside", &beside, nb::arg("look"))
        .def("close", [](LoaderHolder& self) { self.close(); }, nb::call_guard<nb::gil_scoped_release>());
}

void bind_writer(nb::module_& module) {
    nb::class_<Writer>(module, "Writer")
        .def(nb::init<const std::string&, size_t>(), nb::arg("path"), nb::arg("block"))
        .def(
            "write",
            [](Writer& self, nb::handle data) {
                BufferView view(data, false);
                nb::gil_scoped_release released;
                self.write(view.data(), view.size());
            },
            nb::arg("data"))
        .def("finish", &Writer::finish, nb::call_guard<nb::gil_scoped_release>())
        .def("abandon", &Writer::abandon)
        .def_prop_ro("position", &Writer::position)
        .def_prop_ro("direct", &Writer::direct);
}

}  // namespace

void bind_stream(nb::module_& module) {
    bind_ring(module);
    bind_loader(module);
    bind_writer(module);
    module.def(
        "read_into",
        [](const std::string& path, uint64_t offset, nb::handle destination, int in_flight, size_t block) {
            BufferView view(destination, true);
            nb::gil_scoped_release released;
            return as_tuple(read_into(path, offset, view.data(), view.size(), in_flight, block));
        },
        nb::arg("path"), nb::arg("offset"), nb::arg("destination"), nb::arg("in_flight"), nb::arg("block"));
    module.def(
        "disk_rate",
        [](const std::string& path, uint64_t offset, size_t bytes, int in_flight, size_t block, double seconds) {
            return as_tuple(disk_rate(path, offset, bytes, in_flight, block, seconds));
        },
        nb::arg("path"), nb::arg("offset"), nb::arg("num_bytes"), nb::arg("in_flight"), nb::arg("block"),
        nb::arg("seconds"), nb::call_guard<nb::gil_scoped_release>());
    module.def(
        "crc32c",
        [](nb::handle data, uint32_t crc) {
            BufferView view(data, false);
            nb::gil_scoped_release released;
            return kernels().crc32c(crc, view.data(), view.size());
        },
        nb::arg("data"), nb::arg("crc") = 0);
}

}  // namespace pintpot

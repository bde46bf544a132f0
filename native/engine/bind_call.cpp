// Python's view of a replay's arguments: put in by the run of a model, seen as arrays by tests.

#include <nanobind/ndarray.h>

#include <algorithm>

#include "engine/bind.h"
#include "engine/call.h"
#include "engine/errors.h"
#include "engine/rope_table.h"

namespace pintpot {

namespace {

// A contiguous buffer of int32.
class Words {
  public:
    explicit Words(nb::handle object) : view_(object, false) {
        need(view_.size() % sizeof(int32_t) == 0, "a buffer of whole int32 numbers");
    }
    const int32_t* begin() const { return reinterpret_cast<const int32_t*>(view_.data()); }
    const int32_t* end() const { return begin() + size(); }
    size_t size() const { return view_.size() / sizeof(int32_t); }

  private:
    BufferView view_;
};

size_t seat_of(const Call& call, int32_t seat) {
    need(seat >= 0 && seat < call.bounds.sequences, text("no sequence %d", seat));
    return size_t(seat);
}

// Tokens of a sequence from a position on, as the new tokens `at` and on.
void put(Call& self, size_t at, int32_t seat, int32_t position, nb::handle tokens) {
    Words words(tokens);
    seat_of(self, seat);
    need(at <= self.tokens.size() && words.size() <= self.tokens.size() - at,
         text("%zu tokens at %zu where %zu were recorded", words.size(), at, self.tokens.size()));
    std::copy(words.begin(), words.end(), self.tokens.begin() + ptrdiff_t(at));
    for (size_t i = 0; i < words.size(); ++i) {
        self.positions[at + i] = self.turns[at + i] = position + int32_t(i);
        self.sequence[at + i] = seat;
    }
}

// The angles by which the tokens `at` and on turn, where they are not those of their positions.
void put_turns(Call& self, size_t at, nb::handle turns) {
    Words words(turns);
    need(at <= self.turns.size() && words.size() <= self.turns.size() - at,
         text("%zu turns at %zu where %zu tokens were recorded", words.size(), at, self.turns.size()));
    std::copy(words.begin(), words.end(), self.turns.begin() + ptrdiff_t(at));
}

void put_pages(Call& self, int32_t seat, const std::vector<int32_t>& pages) {
    need(pages.size() <= size_t(self.max_pages), text("%zu pages where %d were recorded", pages.size(), self.max_pages));
    std::copy(pages.begin(), pages.end(), self.pages.begin() + ptrdiff_t(seat_of(self, seat)) * self.max_pages);
}

void put_sampling(Call& self, int32_t seat, float temperature, int32_t top_k, float top_p, float min_p, float penalty,
                  uint64_t seed) {
    size_t i = seat_of(self, seat);
    self.temperature[i] = temperature, self.top_k[i] = top_k, self.top_p[i] = top_p;
    self.min_p[i] = min_p, self.penalty[i] = penalty, self.seed[i] = seed;
}

// The number of the next random draw, and the tokens that the penalty is for.
void put_history(Call& self, int32_t seat, uint64_t counter, nb::handle tokens) {
    Words words(tokens);
    size_t i = seat_of(self, seat);
    need(words.size() <= size_t(self.max_history), text("%zu tokens of history where %d have room", words.size(), self.max_history));
    self.counter[i] = counter;
    std::copy(words.begin(), words.end(), self.history.begin() + ptrdiff_t(i) * self.max_history);
    self.history_length[i] = int32_t(words.size());
}

// The words that may come next, a bit for each; an empty buffer allows all.
void put_allowed(Call& self, int32_t seat, nb::handle mask) {
    Words words(mask);
    self.allowed[seat_of(self, seat)].assign(words.begin(), words.end());
}

void put_bias(Call& self, int32_t seat, const std::vector<std::pair<int32_t, float>>& bias) {
    std::vector<Bias>& mine = self.bias[seat_of(self, seat)];
    mine.clear();
    for (const auto& [token, value] : bias) mine.push_back({token, value});
}

void put_row(Call& self, size_t row, int32_t token) {
    need(row < self.rows.size(), text("no row %zu", row));
    self.rows[row] = token;
}

template <class T>
auto vector_view(std::vector<T> Call::*member) {
    return [member](nb::handle_t<Call> self) {
        std::vector<T>& values = nb::cast<Call&>(self).*member;
        return nb::ndarray<nb::numpy, T, nb::ndim<1>>(values.data(), {values.size()}, self);
    };
}

auto matrix_view(std::vector<int32_t> Call::*member, const int32_t Call::*width) {
    return [member, width](nb::handle_t<Call> self) {
        Call& call = nb::cast<Call&>(self);
        size_t columns = size_t(call.*width), rows = size_t(call.bounds.sequences);
        return nb::ndarray<nb::numpy, int32_t, nb::ndim<2>>((call.*member).data(), {rows, columns}, self);
    };
}

}  // namespace

void bind_call(nb::module_& module) {
    nb::class_<Call>(module, "Call")
        .def(
            "__init__",
            [](Call* self, int32_t tokens, int32_t rows, int32_t sequences, int32_t context, int32_t history) {
                new (self) Call({tokens, rows, sequences, context}, history);
            },
            nb::arg("tokens"), nb::arg("rows"), nb::arg("sequences"), nb::arg("context"), nb::arg("history") = 0)
        .def("put", &put, nb::arg("at"), nb::arg("sequence"), nb::arg("position"), nb::arg("tokens"))
        .def("put_turns", &put_turns, nb::arg("at"), nb::arg("turns"))
        .def("put_pages", &put_pages, nb::arg("sequence"), nb::arg("pages"))
        .def("put_sampling", &put_sampling, nb::arg("sequence"), nb::arg("temperature"), nb::arg("top_k"),
             nb::arg("top_p"), nb::arg("min_p"), nb::arg("penalty"), nb::arg("seed"))
        .def("put_history", &put_history, nb::arg("sequence"), nb::arg("counter"), nb::arg("tokens"))
        .def("put_allowed", &put_allowed, nb::arg("sequence"), nb::arg("mask"))
        .def("put_bias", &put_bias, nb::arg("sequence"), nb::arg("bias"))
        .def("put_row", &put_row, nb::arg("row"), nb::arg("token"))
        .def_rw("num_tokens", &Call::num_tokens)
        .def_rw("num_rows", &Call::num_rows)
        .def_rw("num_sequences", &Call::num_sequences)
        .def_prop_ro("tokens", vector_view(&Call::tokens))
        .def_prop_ro("positions", vector_view(&Call::positions))
        .def_prop_ro("sequence", vector_view(&Call::sequence))
        .def_prop_ro("turns", vector_view(&Call::turns))
        .def_prop_ro("rows", vector_view(&Call::rows))
        .def_prop_ro("pages", matrix_view(&Call::pages, &Call::max_pages))
        .def_prop_ro("temperature", vector_view(&Call::temperature))
        .def_prop_ro("top_k", vector_view(&Call::top_k))
        .def_prop_ro("top_p", vector_view(&Call::top_p))
        .def_prop_ro("min_p", vector_view(&Call::min_p))
        .def_prop_ro("penalty", vector_view(&Call::penalty))
        .def_prop_ro("seed", vector_view(&Call::seed))
        .def_prop_ro("counter", vector_view(&Call::counter))
        .def_prop_ro("history", matrix_view(&Call::history, &Call::max_history))
        .def_prop_ro("history_length", vector_view(&Call::history_length));
    module.def(
        "rope_table",
        [](nb::handle out, int64_t positions, const std::vector<double>& frequencies, double gain) {
            BufferView view(out, true);
            size_t line = 2 * sizeof(float) * frequencies.size();
            need(positions >= 0 && line > 0 && size_t(positions) <= view.size() / line,
                 text("a table of %lld positions in %zu bytes", (long long)positions, view.size()));
            nb::gil_scoped_release released;
            rope_table(reinterpret_cast<float*>(view.data()), positions, frequencies, gain);
        },
        nb::arg("out"), nb::arg("positions"), nb::arg("frequencies"), nb::arg("gain"));
}

}  // namespace pintpot

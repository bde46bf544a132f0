"""The arguments of a stage's replays: kept from one to the next, so that only what has changed is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pintpot.kernels.native.bind import Replay as BoundReplay
from pintpot.runtime.request import Sampling
from pintpot.runtime.scheduler import Answer, Part
from pintpot.runtime.sequence import Sequence

if TYPE_CHECKING:
    from numpy import int32
    from numpy.typing import NDArray


class Arguments:
    """A native call and views of its arrays."""

    def __init__(self, bound: BoundReplay, context: int) -> None:
        self.call = call = bound.call(context)
        self._context = context
        self._tokens, self._positions, self._sequence = call.tokens, call.positions, call.sequence
        self._rows, self._pages = call.rows, call.pages
        self._counter, self._temperature = call.counter, call.temperature
        self._top_k, self._top_p, self._min_p = call.top_k, call.top_p, call.min_p
        self._penalty, self._seed = call.penalty, call.seed
        self._history, self._history_length = call.history, call.history_length
        self._written: dict[int, list[int]] = {}
        self._sampling: dict[int, Sampling] = {}
        self.call.num_sequences = len(self._seed)

    def fill(self, parts: tuple[Part, ...]) -> int:
        """The parts of a replay, whose pages are there already. Returns how many next tokens are wanted."""
        at = num_rows = 0
        for part in parts:
            at = self._put(at, part.answer.sequence, part.first, part.stop)
            if part.last:
                self._rows[num_rows] = at - 1
                num_rows += 1
                self._sample(part.answer)
        self.call.num_tokens, self.call.num_rows = at, num_rows
        return num_rows

    def _put(self, at: int, sequence: Sequence, first: int, stop: int) -> int:
        """Positions [first, stop) of a sequence as tokens `at` and on. Returns where the next ones go."""
        seat, end = sequence.seat, at + stop - first
        self._tokens[at:end] = sequence.tokens[first:stop]
        self._positions[at:end] = range(first, stop)
        self._sequence[at:end] = seat
        pages = sequence.table.pages
        if self._written.get(seat) != pages:
            self._pages[seat, : len(pages)] = pages
            self._written[seat] = list(pages)
        return end

    def _sample(self, answer: Answer) -> None:
        sequence, how = answer.sequence, answer.sampling
        seat, known = sequence.seat, sequence.num_known
        if self._sampling.get(seat) != how:
            self._temperature[seat], self._top_k[seat], self._top_p[seat] = how.temperature, how.top_k, how.top_p
            self._min_p[seat], self._penalty[seat], self._seed[seat] = how.min_p, how.repetition_penalty, how.seed
            self._sampling[seat] = how
        self._counter[seat] = known
        recent: NDArray[int32] = sequence.tokens[max(0, known - self._context) : known]
        length = len(recent) if how.repetition_penalty != 1.0 else 0
        self._history[seat, :length] = recent[:length]
        self._history_length[seat] = length

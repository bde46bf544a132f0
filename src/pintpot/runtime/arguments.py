"""The arguments of a stage's replays: kept from one to the next, so that only what has changed is written."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import TYPE_CHECKING

from pintpot.kernels.native.bind import Replay as BoundReplay
from pintpot.runtime.request import Sampling
from pintpot.runtime.scheduler import Answer, Part
from pintpot.runtime.sequence import Sequence

if TYPE_CHECKING:
    from typing_extensions import Buffer

_ALL = array("i")
"""The mask that allows every token."""


class Arguments:
    """A native call, and what it was told last."""

    def __init__(self, bound: BoundReplay, context: int) -> None:
        self.call = bound.call(context)
        self._context = context
        self._written: dict[int, list[int]] = {}
        self._sampling: dict[int, Sampling] = {}
        self._bias: dict[int, tuple[tuple[int, float], ...]] = {}
        self._guided: set[int] = set()
        self.call.num_sequences = bound.program.bound("sequences")

    def fill(self, parts: tuple[Part, ...]) -> int:
        """The parts of a replay, whose pages are there already. Returns how many next tokens are wanted."""
        at = num_rows = 0
        for part in parts:
            at = self._put(at, part.answer.sequence, part.first, part.stop)
            if part.num_rows:
                for token in range(at - part.num_rows, at):
                    self.call.put_row(num_rows, token)
                    num_rows += 1
                self._sample(part.answer, part.told)
        self.call.num_tokens, self.call.num_rows = at, num_rows
        return num_rows

    def _put(self, at: int, sequence: Sequence, first: int, stop: int) -> int:
        """Positions [first, stop) of a sequence as tokens `at` and on. Returns where the next ones go."""
        seat, pages = sequence.seat, sequence.table.pages
        tokens: Buffer = sequence.tokens[first:stop]
        if sequence.placed.pictures:
            tokens = sequence.placed.placed(sequence.tokens[first:stop], sequence.first_row)
        self.call.put(at, seat, first, tokens)
        turns = sequence.turns(first, stop)
        if turns is not None:
            self.call.put_turns(at, turns)
        if self._written.get(seat) != pages:
            self.call.put_pages(seat, pages)
            self._written[seat] = list(pages)
        return at + stop - first

    def _sample(self, answer: Answer, told: int) -> None:
        """How the next token is drawn, by the random number that `told` rows come before."""
        sequence, how = answer.sequence, answer.sampling
        seat, known, penalty = sequence.seat, sequence.num_known, how.repetition_penalty
        if self._sampling.get(seat) != how:
            self.call.put_sampling(seat, how.temperature, how.top_k, how.top_p, how.min_p, penalty, how.seed)
            self._sampling[seat] = how
        first = known if penalty == 1.0 else max(0, known - self._context)
        self.call.put_history(seat, known - told, sequence.tokens[first:known])
        self._wish(seat, answer)

    def _wish(self, seat: int, answer: Answer) -> None:
        """What others have to say about the next token."""
        bias, guide = _bias_of(answer), answer.request.guide
        if self._bias.get(seat, ()) != bias:
            self.call.put_bias(seat, bias)
            self._bias[seat] = bias
        if guide is not None:
            self.call.put_allowed(seat, guide.allowed())
            self._guided.add(seat)
        elif seat in self._guided:
            self.call.put_allowed(seat, _ALL)
            self._guided.remove(seat)


def _bias_of(answer: Answer) -> tuple[tuple[int, float], ...]:
    """What is added to the logits of some tokens: what was asked for, and the penalties of words that are there."""
    how, asked = answer.sampling, answer.request.bias
    if how.presence_penalty == how.frequency_penalty == 0.0:
        return asked
    sequence = answer.sequence
    counts = Counter(sequence.tokens[answer.num_prompt : sequence.num_known].tolist())
    taken = [(word, -how.presence_penalty - how.frequency_penalty * count) for word, count in counts.items()]
    return (*asked, *taken)

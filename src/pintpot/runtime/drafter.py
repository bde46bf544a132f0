"""A smaller model that guesses the next words of a larger one's answers, in its own cache.

Speculative decoding (Leviathan et al. 2023, arXiv:2211.17192). The draft takes its likeliest words; the model checks
them as it checks all guesses, by what it would have drawn itself, so answers stay those of the model alone.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Sequence as Items
from typing import TYPE_CHECKING

from pintpot.planner.guessing import ANYTHING, best
from pintpot.planner.plan import Plan
from pintpot.runtime.request import Request, Sampling
from pintpot.runtime.scheduler import Answer, Part

if TYPE_CHECKING:
    from pintpot.runtime.engine import Engine

_FADING = 0.9


class Drafter:
    """Guesses by a second open pack. Each sequence of the model has the draft's of the same seat, if there is one."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.round_s = 0.0

    def gain(self, plan: Plan) -> float:
        """The most that it could bring to the words a second of a plan, were it right as often as good drafts are.

        Where it does not pay nothing is guessed, so it brings no less than 1.
        """
        guessing, step = plan.cost.guessing, plan.cost.stage("decode").each_s.mid
        if guessing is None or not step:
            return 1.0
        batch, guesses = plan.budget.workload.batch, plan.budget.workload.guesses
        making = self._engine.plan.cost.stage("decode").each_s.mid / step
        return best(ANYTHING[1], 1.0, guessing.token_share * batch, max(1, guesses // batch), making)

    def propose(self, wished: Items[tuple[Answer, int]]) -> list[tuple[int, ...]]:
        """Up to so many next words of each answer; none where the draft has still to read, or has no place."""
        wishes = {index: self._follow(answer, most) for index, (answer, most) in enumerate(wished)}
        drafting = {index: one for index, one in wishes.items() if one is not None}
        self._read([answer for answer, _ in drafting.values()])
        ready = {index: one for index, one in drafting.items() if _num_unread(one[0]) == 1}
        for number in range(max((most for _, most in ready.values()), default=0)):
            parts = tuple(answer.part(1) for answer, most in ready.values() if most > number)
            if not self._step(parts):
                return [()] * len(wished)
        return [self._said(wished[index][0], ready.get(index)) for index in range(len(wished))]

    def _follow(self, answer: Answer, most: int) -> tuple[Answer, int] | None:
        """The draft's own sequence with what is known of an answer, and how many words it may guess."""
        known, seats = answer.sequence.num_known, self._engine.sequences
        most = min(most, self._engine.context - known)
        if most <= 0 or answer.sequence.seat >= len(seats):
            return None
        tokens = array("i", answer.sequence.tokens[:known])
        own = seats[answer.sequence.seat]
        own.begin(tokens)
        return Answer(answer.index, own, Request((0,), 1, Sampling(temperature=0.0)), known, frozenset()), most

    def _read(self, answers: list[Answer]) -> None:
        """One chunk of what the draft has not read: a long prompt is followed over several steps."""
        parts, room = [], self._engine.plan.form.chunk
        for answer in answers:
            unread = min(_num_unread(answer) - 1, room)
            if unread > 0:
                first = answer.sequence.num_cached
                parts.append(Part(answer, first, first + unread, last=False))
                room -= unread
        if parts:
            self._engine.replay("prefill", tuple(parts))

    def _step(self, parts: tuple[Part, ...]) -> bool:
        started = time.perf_counter()
        tokens = self._engine.replay("decode", parts)
        if tokens is None:
            return False
        seconds = time.perf_counter() - started
        self.round_s = seconds if self.round_s == 0 else _FADING * self.round_s + (1 - _FADING) * seconds
        for part, token in zip(parts, tokens, strict=True):
            part.answer.sequence.append(token)
        return True

    def _said(self, answer: Answer, drafted: tuple[Answer, int] | None) -> tuple[int, ...]:
        if drafted is None:
            return ()
        own = drafted[0].sequence
        return tuple(own.tokens[answer.sequence.num_known : own.num_known])


def _num_unread(answer: Answer) -> int:
    return answer.sequence.num_known - answer.sequence.num_cached

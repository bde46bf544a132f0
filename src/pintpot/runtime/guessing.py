"""Steps with guesses: words that were looked up or drafted go along with the words that a step computes anyway."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from pintpot.planner.plan import Plan
from pintpot.runtime.guesses import Pace, looked_up, may_guess
from pintpot.runtime.scheduler import Answer, Part


class Guesser(Protocol):
    """Makes guesses; `round_s` is what one word of each answer takes."""

    round_s: float

    def gain(self, plan: Plan) -> float:
        """The most that its guesses could bring to a plan's words a second."""

    def propose(self, wished: Sequence[tuple[Answer, int]]) -> list[tuple[int, ...]]:
        """Up to so many next words of each answer."""


class Guessing:
    """Fills steps that have room for `step_tokens` tokens in all: by looking up, then by a `drafter`, if any."""

    def __init__(self, pace: Pace, step_tokens: int, context: int, drafter: Guesser | None = None) -> None:
        self._pace, self._step_tokens, self._context, self._drafter = pace, step_tokens, context, drafter

    def fill(self, steps: tuple[Part, ...]) -> tuple[Part, ...]:
        """A step of each answer, with guesses where they pay."""
        parts = list(steps)
        room = self._step_tokens - sum(part.stop - part.first for part in steps)
        for place, part in enumerate(steps):
            sequence, luck = part.answer.sequence, part.answer.luck
            most = self._most(part.answer, room)
            most = min(most, self._pace.most(luck, len(parts))) if most > 0 else 0
            found = looked_up(sequence.tokens[: sequence.num_known], most) if most > 0 else ()
            self._pace.tried(bool(found))
            parts[place] = _with_guesses(part, found)
            room -= len(found)
        if self._drafter is not None and room > 0:
            self._draft(parts, room, self._drafter)
        return tuple(parts)

    def learn(self, part: Part, num_right: int) -> None:
        """So many of a part's guesses were right."""
        luck = part.answer.draft_luck if part.drafted else part.answer.luck
        self._pace.learn(luck, num_right, len(part.guessed), part.drafted)

    def _draft(self, parts: list[Part], room: int, drafter: Guesser) -> None:
        """Let the draft guess where nothing was looked up; of pictures it knows nothing."""
        wished: dict[int, tuple[Answer, int]] = {}
        making = drafter.round_s / max(self._pace.step_s, 1e-9) / max(1, len(parts))
        for place, part in enumerate(parts):
            most = 0 if part.guessed or part.answer.request.pictures else self._most(part.answer, room)
            most = min(most, self._pace.most(part.answer.draft_luck, len(parts), making)) if most > 0 else 0
            if most > 0:
                wished[place] = part.answer, most
                room -= most
        for place, found in zip(wished, drafter.propose(list(wished.values())) if wished else (), strict=True):
            parts[place] = _with_guesses(parts[place], found, drafted=True)

    def _most(self, answer: Answer, room: int) -> int:
        """Guesses that there is room for in a step and in the answer."""
        sequence = answer.sequence
        if not may_guess(answer.request) or sequence.num_cached != sequence.num_known - 1:
            return 0
        left = answer.request.max_tokens - answer.num_drawn - 1
        return max(0, min(room, left, self._context - sequence.num_known))


def pace_of(plan: Plan) -> Pace:
    """What guesses cost by a plan's own figures."""
    gain = plan.cost.guessing
    return Pace() if gain is None else Pace(gain.token_share, plan.budget.workload.batch)


def _with_guesses(part: Part, guessed: tuple[int, ...], drafted: bool = False) -> Part:
    """A step that also checks guesses, which are written behind what is known."""
    if not guessed:
        return part
    sequence = part.answer.sequence
    sequence.tokens[sequence.num_known : sequence.num_known + len(guessed)] = array("i", guessed)
    return replace(part, stop=part.stop + len(guessed), guessed=guessed, drafted=drafted)

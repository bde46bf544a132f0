"""Guessed words that one step checks: what followed the last words when they came before is tried again.

Prompt lookup (Saxena 2023) for speculative decoding (Leviathan et al. 2023, arXiv:2211.17192). A step computes the next
word after each guess from the same logits, and with the same random number, as if there were no guesses; those up to
the first wrong guess are the answer. So guesses change no word, whatever the sampling, and only take or save time.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from math import log

from pintpot.runtime.request import Request

LONGEST, SHORTEST = 3, 2
"""Words that must have come before in the same order."""
LEAST_JUDGED = 64
"""Guesses from which on their share of right ones is worth to be known."""
_FADING, _RATE = 0.98, 0.1
_PROBE_EVERY = 50
_SIZE = 4


def looked_up(tokens: memoryview[int], most: int) -> tuple[int, ...]:
    """What came after the last words when they were there before, at most so many; the latest place counts."""
    data = tokens.tobytes()
    for number in range(min(LONGEST, len(tokens) - 1), SHORTEST - 1, -1):
        wanted = data[-_SIZE * number :]
        at, stop = len(data), len(data) - 1
        while at >= 0:
            at = data.rfind(wanted, 0, stop)
            if at >= 0 and at % _SIZE == 0:
                first = at // _SIZE + number
                return tuple(takewhile(_is_word, tokens[first : first + most]))
            stop = at + len(wanted) - 1
    return ()


def _is_word(token: int) -> bool:
    """And no row of a picture."""
    return token >= 0


def may_guess(request: Request) -> bool:
    """Whether the words of an answer can be checked side by side: not where one changes what the next may be."""
    how = request.sampling
    alone = how.repetition_penalty == 1.0 and how.presence_penalty == how.frequency_penalty == 0.0
    return request.guide is None and alone


@dataclass(slots=True)
class Luck:
    """How often the guesses of one answer were right, the latest counting most."""

    share: float = 0.6
    num_steps: int = 0

    def learn(self, num_right: int, num_guessed: int) -> None:
        """So many guesses were right, up to the first wrong one."""
        for _ in range(num_right):
            self.share += _RATE * (1 - self.share)
        if num_right < num_guessed:
            self.share -= _RATE * self.share


class Pace:
    """How many guesses pay, from what steps take with more tokens and with fewer: seconds = fixed + each * tokens.

    Until steps of several widths were taken, one more token takes `token_share` of a step of `batch` tokens.
    """

    def __init__(self, token_share: float = 0.15, batch: int = 1) -> None:
        self.num_guessed = self.num_right = 0
        self.num_tried = self.num_found = 0
        self._looked_up = [0, 0]
        self._planned = token_share / max(1e-9, 1 - min(token_share * batch, 1.0)) if token_share * batch < 1 else 1e9
        self._weight = self._tokens = self._squares = self._seconds = self._products = 0.0

    def took(self, num_tokens: int, seconds: float) -> None:
        """A step of so many tokens took so long."""
        for name, value in (
            ("_weight", 1.0), ("_tokens", num_tokens), ("_squares", num_tokens**2), ("_seconds", seconds),
            ("_products", num_tokens * seconds),
        ):  # fmt: skip
            setattr(self, name, getattr(self, name) * _FADING + value)

    @property
    def step_s(self) -> float:
        """Seconds of a step in the mean of the latest; 0 before any."""
        return self._seconds / self._weight if self._weight else 0.0

    def share_of_token(self, num_sequences: int) -> float:
        """What one more token costs beside a whole step of so many sequences, by what was measured lately."""
        spread = self._weight * self._squares - self._tokens**2
        if spread <= 1e-6 * self._squares:
            return self._planned / (1 + self._planned * num_sequences)
        each = max(0.0, (self._weight * self._products - self._tokens * self._seconds) / spread)
        fixed = max(0.0, (self._seconds - each * self._tokens) / self._weight)
        whole = fixed + each * num_sequences
        return each / whole if whole > 0 else 0.15

    def most(self, luck: Luck, num_sequences: int, making: float = 0.0) -> int:
        """Guesses that pay: one more does while it is likelier to be right than its share of the time is large.

        All sequences together give their words in one step, so what a guess costs counts as often. `making` is what
        it takes to make one, beside a whole step.
        """
        luck.num_steps += 1
        limit, share = (self.share_of_token(num_sequences) + making) * num_sequences, min(luck.share, 0.99)
        if share <= limit:
            return int(luck.num_steps % _PROBE_EVERY == 0)
        return 64 if limit <= 0 else int(log(limit) / log(share))

    def learn(self, luck: Luck, num_right: int, num_guessed: int, drafted: bool = False) -> None:
        """What became of guesses."""
        luck.learn(num_right, num_guessed)
        self.num_guessed += num_guessed
        self.num_right += num_right
        if not drafted:
            self._looked_up[0] += num_right
            self._looked_up[1] += num_right + (num_right < num_guessed)

    def tried(self, found: bool) -> None:
        """A step of an answer, with guesses that were looked up or without."""
        self.num_tried += 1
        self.num_found += found

    @property
    def shares(self) -> tuple[float, float] | None:
        """Of words looked up, each after right ones, how many were right; of the steps of answers, how many had any.

        None where too few say so.
        """
        right, judged = self._looked_up
        return (right / judged, self.num_found / self.num_tried) if judged >= LEAST_JUDGED else None

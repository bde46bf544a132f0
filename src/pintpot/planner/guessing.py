"""What guessed words bring: how many more words a second, from what a step takes with more tokens in it.

Speculative decoding (Leviathan et al. 2023, arXiv:2211.17192): of guesses that are each right with probability a, k in
a row give (1 - a^(k+1)) / (1 - a) words in the mean, the one behind them among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pintpot.planner.cost import Gain
from pintpot.planner.draft import Priced
from pintpot.planner.price import price_stage

OFFERED = 8
"""Guesses of a step that are priced where a plan has no room for any yet."""
ANYTHING = (0.0, 0.93)
"""How often guesses are right where nobody measured it: never, or as often as a good draft's on easy text."""


def gain_of(priced: Priced, seen: Sequence[tuple[float, float]]) -> Gain | None:
    """What looking words up would bring to the words a second of a plan, low..high.

    `seen` are pairs of shares from runs of this model: of guesses that were right, and of steps that had any. Without
    them anything may be; what does not pay is not done, so less than 1 it is not. None for what writes no words.
    """
    if priced.draft.work.stages[-1].name != "decode" or priced.budget.workload.task != "chat":
        return None
    workload, share = priced.budget.workload, share_of_token(priced)
    most = max(1, (workload.guesses or OFFERED) // workload.batch)
    pairs = seen or ((ANYTHING[0], 1.0), (ANYTHING[1], 1.0))
    gains = [best(right, covered, share * workload.batch, most) for right, covered in pairs]
    return Gain(min(gains), max(gains), share, bool(seen))


def best(right: float, covered: float, share: float, most: int, making: float = 0.0) -> float:
    """Words a second over those without guesses, by the number of guesses that gives most, none among them.

    A guess in each sequence takes `share` of a step, and `making` of one to make; `covered` is the share of steps in
    which there is anything to guess.
    """
    found = 1.0
    for number in range(1, most + 1):
        words = (1 - right ** (number + 1)) / (1 - right) if right < 1 else number + 1
        steps = 1 - covered + covered * (1 + number * (share + making))
        found = max(found, (1 - covered + covered * words) / steps)
    return found


def share_of_token(priced: Priced) -> float:
    """What one more token takes in a step of all answers, over the whole step, at the middle of the range."""
    made, place = priced.draft, priced.place
    stage = made.work.stages[-1]
    program, ((extent, _), *_) = stage.widest, stage.extents
    more = made.budget.workload.guesses or OFFERED
    wider = replace(extent, tokens=extent.tokens + more, rows=extent.rows + more)
    split = None if place is None else place.split(made.form.weights)
    ring = None if split is None else split.ring
    fetches = () if place is None or split is None else place.fetches(program, split)
    one, other = (price_stage(program, made.prices, ((at, 1),), ring, 0, fetches).seconds.mid for at in (extent, wider))
    return max(0.0, (other - one) / more / one) if one else 0.0

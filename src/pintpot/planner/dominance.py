"""Formats that another one beats in everything: no plan with them can be the best, whatever the other choices are.

A plan only gets better with fewer bytes, faster rates and less degradation. So a format that has more bytes of
every weight, no faster a kernel and no better a prior need not be searched; it is still priced for the reasons.

Fewer bits pay in fewer bytes or in less time. Where there is memory enough for the next larger format, one whose kernel
is no faster and whose prior is worse loses by its price; `outpaced` gives the figures for that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from pintpot.contract.form import Form
from pintpot.contract.step import Step
from pintpot.formats import encoding
from pintpot.machine.spec import MATMUL_ROWS, WORKING_SETS
from pintpot.planner.gentle import Ways
from pintpot.planner.question import Question
from pintpot.planner.rates import CACHED, Rates, Speed
from pintpot.program.ops.linear import SUFFIXES
from pintpot.units import format_bytes, format_seconds

Kind = tuple[str, bool, int]
"""How a matrix is kept: its format, whether it is packed, and its columns."""
_AMPLE = 0.4
"""Of the memory left for weights: where blocks and vocabulary take no more each, a fifth is for everything else."""


def undominated(question: Question, options: Sequence[Step], ways: Ways = ((),)) -> list[Step | None]:
    """The options but those that another one beats however is rounded; of two equal in everything, the first stays."""
    kinds = _kinds([question.expects.promised(option) for option in options])
    rates = _rates(question)
    beaten: set[int] = set()
    for worse, option in enumerate(options):
        if _is_measured(question, option):
            continue
        for better, other in enumerate(options):
            if better == worse or better in beaten or not _is_as_good(question, other, option, ways):
                continue
            if _is_as_small_and_fast(rates, {(kind[better], kind[worse]) for kind in kinds}):
                beaten.add(worse)
                break
    return [option for index, option in enumerate(options) if index not in beaten]


def outpaced(question: Question, options: Sequence[Step | None], ways: Ways = ((),)) -> dict[Step, str]:
    """The formats that fewer bytes make no faster, where bytes are no matter, each with the figures against it.

    Only rates that were measured count: what nobody measured is taken from its like, which says nothing about itself.
    """
    if question.budget.prefer == "memory":
        return {}
    room = question.budget.memory_bytes - question.machine.process_bytes
    source = question.expects.source
    forms = {option: question.expects.promised(option) for option in options if option is not None}
    num_bytes = {option: _changed_bytes(source, form) for option, form in forms.items()}
    found: dict[Step, str] = {}
    for option in forms:
        larger = [other for other in forms if num_bytes[other] > num_bytes[option]]
        other = min(larger, key=lambda one: num_bytes[one], default=None)
        if other is None or _is_measured(question, option) or not _is_better(question, other, option, ways):
            continue
        if num_bytes[other] > room * _AMPLE:
            continue
        mine, theirs = (_reading_s(question, source, forms[one]) for one in (option, other))
        if mine is not None and theirs is not None and mine >= theirs:
            sizes = [format_bytes(num_bytes[one]) for one in (option, other)]
            times = [format_seconds(seconds) for seconds in (mine, theirs)]
            found[option] = f"its {sizes[0]} take {times[0]} a step, the {sizes[1]} of {other} {times[1]}"
    return found


def _reading_s(question: Question, source: Form, form: Form) -> float | None:
    """Seconds to multiply every weight that a form changes with one row; None where that was not measured."""
    rates = Rates(question.machine, question.threads, WORKING_SETS[-1])
    known = {rate.what for rate in question.machine.rates}
    total = 0.0
    for name, values in _changed(source, form).items():
        speed = rates.speed(f"matvec/{name}", rates.footprint) if f"matvec/{name}" in known else None
        if speed is None:
            return None
        total += values / speed.mid
    return total


def _changed(source: Form, form: Form) -> dict[str, int]:
    """Values of the matrices that a form changes, by format."""
    values: Counter[str] = Counter()
    for before, after in zip(source.weights, form.weights, strict=True):
        if before != after and after.is_matrix:
            values[after.format] += after.shape[0] * after.shape[1]
    return values


def _changed_bytes(source: Form, form: Form) -> int:
    return sum(b.num_bytes for a, b in zip(source.weights, form.weights, strict=True) if a != b)


def _rates(question: Question) -> list[Rates]:
    """One for each working set at which the machine's RAM was measured."""
    return [Rates(question.machine, question.threads, size) for size in question.machine.sizes("read") or [0]]


def _is_as_good(question: Question, step: Step, other: Step, ways: Ways) -> bool:
    spans = [(question.expects.of(step, way), question.expects.of(other, way)) for way in ways]
    return all(mine[0] <= theirs[0] and mine[1] <= theirs[1] for mine, theirs in spans)


def _is_better(question: Question, step: Step, other: Step, ways: Ways) -> bool:
    return _is_as_good(question, step, other, ways) and question.priors.of(step.key) != question.priors.of(other.key)


def _kinds(forms: Sequence[Form]) -> set[tuple[Kind, ...]]:
    """How these forms keep the matrices; most are kept alike."""
    columns = zip(*(form.weights for form in forms), strict=True)
    return {tuple([(w.format, w.packed, w.shape[1]) for w in weights]) for weights in columns if weights[0].is_matrix}


def _is_as_small_and_fast(rates: list[Rates], kinds: set[tuple[Kind, Kind]]) -> bool:
    changed = [(one, other) for one, other in kinds if one != other]
    if any(encoding(a).strip_bytes(n) > encoding(b).strip_bytes(n) for (a, _, n), (b, _, _) in changed):
        return False
    # Fewer bytes may lie nearer, which must not be slower either.
    reading = [item.speed("read", item.footprint) for item in rates]
    if any(not _at_least(near, far) for near, far in pairwise(reading)):
        return False
    return all(_is_as_fast(item, a, b) for a, b in {(one[0], other[0]) for one, other in changed} for item in rates)


def _is_as_fast(rates: Rates, name: str, other: str) -> bool:
    """Whether every kernel of a format is as fast as the other's, near and far, at every width."""
    for rows in SUFFIXES:
        one, two = f"{name}{rows}", f"{other}{rows}"
        for size in (rates.footprint, CACHED):
            if not _at_least(rates.speed(f"matvec/{one}", size), rates.speed(f"matvec/{two}", size)):
                return False
        for width in MATMUL_ROWS:
            if not _at_least(rates.product(one, width), rates.product(two, width)):
                return False
    return True


def _at_least(one: Speed | None, other: Speed | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.low >= other.low and one.mid >= other.mid and one.high >= other.high


def _is_measured(question: Question, step: Step) -> bool:
    return any(str(step) in key.split("; ") for key in question.measured)

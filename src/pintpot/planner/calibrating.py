"""What calibration takes before a plan can be packed: memory, which the budget must have, and seconds.

Texts go through the network in float32, block by block; what meets each weight is summed up, and the weight is rounded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from pintpot.contract.form import Form, WeightForm, matches
from pintpot.contract.statistics import CROSSED, GRADIENTS, MOMENTS, SCALES
from pintpot.contract.step import CALIBRATED, TRANSFORMS, Facet, Step
from pintpot.errors import DoesNotFit, NotApplicable, need
from pintpot.formats import is_lossless
from pintpot.model.adapted import was_run
from pintpot.planner.cost import ZERO, Span
from pintpot.planner.question import Question
from pintpot.planner.rates import Rates
from pintpot.units import format_bytes

TOKENS = 32768
"""Of the texts that weights are calibrated on."""
LENGTH = 512
"""Of one text, in tokens."""
BASE_BYTES = 110_000_000
"""An interpreter with numpy, what its products need, and a tokenizer that was there."""
TRANSFORMING = 3
"""Of a block: what was read, what is made of it, and what is being made."""
MOMENTS_AT_ONCE = 10
"""Float32 matrices [K, K] alive while the factor of a moment is made; it is made in float64."""
SENSED_TOKENS = 4096
"""Of prompts with pictures whose gradients are looked at."""
WORDS_BESIDE = 64
"""Tokens of a prompt beside a picture, where the picture alone is as long as a text."""
SENSING_ROWS, SENSING_SCORES, SENSING_STATES = 12, 4, 5
"""Alive going back: rows of the widest input that a thread has of one text, arrays of its attention's scores, and
states of all texts at the head."""
LEAST_HEAD = 32
"""Columns of the stream for each head of attention, at least."""
PASSING_ROWS = 6
"""Rows of the widest input that a thread has of one text at once."""

SHARING = ("k", "v", "up")
"""Roles whose inputs are another one's too."""
FACTOR = 4.0
"""Multiply-adds of float32 that the inverse factor of a moment [K, K] takes, in K^3."""
PASSES = 4.5
"""Roundings to nearest that one visit of a weight takes as long as."""
FUSED = (0.5, 2.0)
"""Of the peak without fused operations, what large products reach with them, and with a busy neighbour."""
SPREAD = 1.3


@dataclass(frozen=True)
class Sizes:
    """Of a network's blocks: values of the largest one, columns of the widest input, and those of the stream."""

    block_values: int
    widest: int
    hidden: int

    @classmethod
    def of(cls, form: Form) -> Sizes:
        values: dict[str, int] = defaultdict(int)
        widest = hidden = 0
        for weight in form.weights:
            if weight.is_matrix and not matches("vocabulary", weight.name):
                values[weight.name.rpartition(".")[0]] += weight.shape[0] * weight.shape[1]
                widest = max(widest, weight.shape[1])
            elif weight.is_matrix:
                hidden = weight.shape[1]
        return cls(max(values.values(), default=0), max(widest, hidden), hidden)


def calibrating_s(form: Form, steps: Iterable[Step], rates: Rates, tokens: int = TOKENS) -> Span:
    """Seconds to calibrate for these steps, on all threads; none where nothing asks for it.

    Products run at the float peak, fused or not; a visit of a weight's values is some passes of rounding them. It is
    long work, in which rates come to their middle.
    """
    gentle = tuple(step for step in steps if step.facet in CALIBRATED)
    if not gentle:
        return ZERO
    walks = 1 + any(step.facet in TRANSFORMS for step in gentle) + _wanted(CROSSED, gentle)
    products, converting = 0.0, ZERO
    hidden = Sizes.of(form).hidden
    for weight in form.weights:
        if not weight.is_matrix or weight.name in form.weights.looked_up:
            continue
        rows, columns = weight.shape
        if not matches("vocabulary", weight.name):
            products += walks * tokens * rows * columns
        visits = sum(step.visits for step in gentle if _rounds(step, weight))
        if visits and weight.role not in SHARING:
            products += tokens * columns**2 / 2 + FACTOR * columns**3
        if any(_rounds(step, weight) for step in gentle):
            passes = rows * columns * (1 + PASSES * visits)
            converting += Span.exactly(rates.converting(weight.format, passes).mid / rates.threads)
        if weight.role == "q":
            products += walks * tokens * LENGTH * hidden
    peak = rates.speed("float_peak", 0)
    if peak is None:
        return converting
    work = products / peak.mid
    return (Span(work / FUSED[1], work, work / FUSED[0]) + converting).widened(SPREAD)


def _rounds(step: Step, weight: WeightForm) -> bool:
    lossless = is_lossless(weight.source, weight.format)
    return step.facet == Facet.ROUNDING and matches(step.target, weight.name) and not lossless


def least_bytes(form: Form, steps: Iterable[Step], threads: int, longest: int = LENGTH) -> int:
    """The memory in which calibration of these steps can be done with texts of so many tokens, one beside the other."""
    steps, sizes = tuple(steps), Sizes.of(form)
    if not any(step.wants for step in steps):
        # A block is read and transformed, and no text goes through it.
        return BASE_BYTES + 4 * TRANSFORMING * sizes.block_values
    moments = (MOMENTS_AT_ONCE + _wanted(CROSSED, steps)) * sizes.widest**2 if _wanted(MOMENTS, steps) else 0
    passing = threads * longest * (PASSING_ROWS * sizes.widest + sizes.hidden)
    sensing = _sensing(sizes, threads, longest) if _wanted(GRADIENTS, steps) else 0
    return BASE_BYTES + 4 * (2 * sizes.block_values + max(moments + passing, sensing))


def _sensing(sizes: Sizes, threads: int, longest: int) -> int:
    """Values alive while gradients of prompts with pictures are looked at."""
    scores = SENSING_SCORES * longest**2 * max(1, sizes.hidden // LEAST_HEAD)
    one = longest * (SENSING_ROWS * sizes.widest + sizes.hidden) + scores
    return threads * one + SENSING_STATES * SENSED_TOKENS * sizes.hidden


def spacious_bytes(form: Form, steps: Iterable[Step], threads: int, lengths: list[int]) -> int:
    """The memory in which the rows of all texts need not go through a file."""
    steps, sizes = tuple(steps), Sizes.of(form)
    rows = sum(lengths) * (1 + _wanted(CROSSED, steps))
    return least_bytes(form, steps, threads, max(lengths)) + 4 * rows * (2 * sizes.hidden + sizes.widest)


def calibrating_bytes(question: Question, steps: Iterable[Step]) -> int:
    """The memory that it takes, 0 where nothing asks for it. Raises NotApplicable where the budget rules it out."""
    gentle = tuple(step for step in steps if step.facet in CALIBRATED)
    if not gentle:
        return 0
    if question.model.language is None:
        _need_seen(question, gentle)
        return 0
    allowed = not question.budget.uncalibrated
    need(allowed, "looking at texts before packing was ruled out by --no-calibrate", NotApplicable)
    work = question.budget.workload
    pictured = work.given * work.batch // work.pictures + WORDS_BESIDE if work.pictures else 0
    longest = min(max(LENGTH, pictured), question.model.context)
    return least_bytes(question.expects.source, gentle, question.threads, longest)


def _need_seen(question: Question, steps: Iterable[Step]) -> None:
    """Raises NotApplicable where these steps want to know more of what meets a module's weights than was kept."""
    ran = "the module was recorded without being run, so what meets its weights is not known"
    need(was_run(question.model), ran, NotApplicable)
    beyond = any(step.facet in TRANSFORMS or step.wants - {SCALES} for step in steps)
    need(not beyond, "of a module it is known how large each column is that meets a weight, and no more", NotApplicable)


def need_room(
    form: Form, steps: Iterable[Step], threads: int, memory_bytes: int, longest: int = LENGTH, beside: int = 0
) -> None:
    """Raises DoesNotFit where a budget has no room to calibrate these steps, `beside` so many bytes."""
    least = least_bytes(form, steps, threads, longest) + beside
    need(least <= memory_bytes, no_room(least, memory_bytes), DoesNotFit)


def no_room(least: int, memory_bytes: int) -> str:
    """Why nothing is calibrated in so much memory."""
    return f"calibrating needs {format_bytes(least)} of memory, the budget is {format_bytes(memory_bytes)}"


def _wanted(what: str, steps: Iterable[Step]) -> bool:
    return any(what in step.wants for step in steps if step.facet in CALIBRATED)

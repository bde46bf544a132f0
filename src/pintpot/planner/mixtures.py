"""Mixed formats as the planner offers them: a few points where a byte buys as much in every weight.

For a model with a table of sensitivities all weights are decided together, so that the vocabulary and each matrix of
the blocks compete for the same bytes. A point is refined for the budget once it has won (`refine`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from pintpot.contract.form import ActivationForm, WeightForm, matches
from pintpot.contract.step import Facet, Step
from pintpot.formats import DENSE_FORMATS, encoding
from pintpot.nets._extents import lengths
from pintpot.planner.bits import Choices, Kept, frontier
from pintpot.planner.question import Question
from pintpot.planner.rates import Rates
from pintpot.program.ops.linear import PLANES, suffix
from pintpot.techniques.quantize.mixed import Mixed, write_formats

SHARES = (1.0, 0.8, 0.6, 0.4, 0.2, 0.05)
"""Of the budget's degradation, what the offered points spend on formats."""
PAYS = 0.97
"""Of the next larger format's speed, what a kernel must reach to be worth its smaller size."""
USUAL = ActivationForm("int8", "int8x2")
CHUNK = 256
GROUPED = ("blocks", "vocabulary")


@dataclass(frozen=True)
class Work:
    """What each weight has to do for a workload: rows of prompts and replays of steps, at the machine's rates."""

    rates: Rates
    activation: ActivationForm
    prompt_rows: int
    replays: int
    batch: int

    def seconds(self, weight: WeightForm, kept: str) -> tuple[float, float]:
        """Mid seconds of one step, and of all prompts. Shares of ops that weights have together are left out."""
        values = float(weight.shape[0] * weight.shape[1])
        decode, prefill = (self._name(kept, rows) for rows in (self.activation.decode, self.activation.prefill))
        what = "matvec" if self.batch == 1 else "matmul"
        step = self.rates.work(f"{what}/{decode}", self.batch * values, self.batch).mid
        step = max(step, self.rates.ram(encoding(kept).packed_bytes(*weight.shape)).mid)
        rows = 0 if weight.role in ("head", "embed") else self.prompt_rows
        return step, self.rates.work(f"matmul/{prefill}", rows * values, min(CHUNK, max(rows, 1))).mid

    def _name(self, kept: str, rounding: str) -> str:
        return f"{kept}{suffix(kept, PLANES[rounding])}"


def whole(question: Question, steps: Iterable[Step]) -> tuple[Step, ...]:
    """Offers as they are; where weights are decided together, formats for blocks or vocabulary alone become for all."""
    if question.sensitivities is None:
        return tuple(steps)
    joined = (replace(s, target="all") if s.facet == Facet.FORMAT and s.target in GROUPED else s for s in steps)
    return tuple(dict.fromkeys(joined))


def mixtures(question: Question, gentle: tuple[Step, ...] = ()) -> tuple[Mixed, ...]:
    """Points of the frontier of nats against bytes and seconds, from the budget's degradation down to a trace of it.

    `gentle` are the steps that will round.
    """
    found = choices(question, usual_work(question), gentle)
    if not found:
        return ()
    num_bytes = sum(max(one.num_bytes for one in kept) for kept in found.values())
    seconds = sum(max(one.seconds for one in kept) for kept in found.values()) or 1.0
    limits = [part * question.budget.degradation for part in SHARES]
    points = frontier(found, lambda one: one.num_bytes / num_bytes + one.seconds / seconds, limits)
    steps = [mixed({name: one.format for name, one in point.items()}) for point in points]
    return tuple(dict.fromkeys(steps))


def mixed(formats: dict[str, str]) -> Mixed:
    return Mixed("all", write_formats(formats))


def usual_work(question: Question) -> Work:
    """With activations as they mostly are, and weights that no cache holds."""
    sizes = question.machine.sizes("read") or [0]
    return work_of(question, Rates(question.machine, question.threads, sizes[-1]), USUAL)


def work_of(question: Question, rates: Rates, activation: ActivationForm) -> Work:
    workload = question.budget.workload
    prompt, output = lengths(workload)
    return Work(rates, activation, prompt * workload.batch, output, workload.batch)


def choices(question: Question, work: Work, gentle: tuple[Step, ...] = ()) -> Choices:
    """Of each matrix the formats that it was measured in, and its own, at the high end; {} without a table.

    What each costs in quality is what the steps of `gentle` leave.
    """
    table = question.sensitivities
    if table is None:
        return {}
    paying, known = paying_formats(work), dict[tuple[object, ...], tuple[float, float]]()
    looked_up = "embed" if any(w.name == "head" for w in question.expects.source.weights) else ""
    found: dict[str, list[Kept]] = {}
    for weight in question.expects.source.weights:
        if not weight.is_matrix or not matches("all", weight.name):
            continue
        own = encoding(weight.source).packed_as
        for kept in dict.fromkeys((own, *paying)):
            span = table.of(weight, kept)
            if span is None or not encoding(kept).fits(weight.shape[1]):
                continue
            key = (weight.shape, weight.name == looked_up, kept)
            if key not in known:
                known[key] = (0.0, 0.0) if weight.name == looked_up else work.seconds(weight, kept)
            step, prompts = known[key]
            num_bytes = encoding(kept).packed_bytes(*weight.shape)
            high = question.expects.of_weight(weight, kept, span, gentle)[1]
            found.setdefault(weight.name, []).append(Kept(kept, high, num_bytes, step * work.replays + prompts, step))
        if weight.name not in found:
            return {}
    return found


def paying_formats(work: Work) -> tuple[str, ...]:
    """Formats whose kernel is no slower here than that of the next larger one that is worth having."""
    worth: list[str] = []
    fastest = 0.0
    for kept in sorted(DENSE_FORMATS, key=lambda name: (-encoding(name).bits, name)):
        speed = _speed(work, kept)
        if not worth or speed >= PAYS * fastest:
            worth.append(kept)
            fastest = speed
    return tuple(worth)


def _speed(work: Work, kept: str) -> float:
    """Values a second in a step of answers, of weights that lie in RAM."""
    weight = WeightForm("", (4096, 4096), "f32", kept, 0)
    step, _ = work.seconds(weight, kept)
    return weight.shape[0] * weight.shape[1] / step if step else 0.0

"""Of how many blocks the inside stays in memory until the way back: of as many as the budget has room for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from pintpot.contract.form import Form
from pintpot.contract.step import Step
from pintpot.contract.training import TrainingForm, block_of
from pintpot.planner.candidate import Candidate
from pintpot.techniques.train.recompute import Recompute

Price = Callable[[tuple[Step, ...], Form], Candidate]


def staying(plain: Candidate, price: Price, source: Form, memory_bytes: int) -> Iterator[Candidate]:
    """A candidate that computes blocks again, with the inside of as many kept as fit, if any does."""
    how = plain.form.training
    recomputes = any(isinstance(step, Recompute) for step in plain.steps)
    if not recomputes or how is None or how.routing is not None:
        return
    free, most = memory_bytes - plain.cost.memory_high, _gone_back_through(plain.form, how)
    if free <= 0 or most == 0:
        return
    tried = _with(plain, most, price, source)
    each = max(1, tried.cost.memory_high - plain.cost.memory_high) / most
    count = min(most, int(free / each))
    while count and tried.cost.memory_high > memory_bytes:
        tried = _with(plain, count, price, source)
        count -= 1
    if tried.cost.memory_high <= memory_bytes:
        yield tried


def _with(plain: Candidate, count: int, price: Price, source: Form) -> Candidate:
    form, steps = source, list[Step]()
    for step in plain.steps:
        steps.append(replace(step, stays=count) if isinstance(step, Recompute) else step)
        form = steps[-1].promise(form)
    return price(tuple(steps), form)


def _gone_back_through(form: Form, how: TrainingForm) -> int:
    """The blocks from the first one on in which something learns; all where what is looked up does."""
    names = dict.fromkeys(block_of(weight.name) for weight in form.weights if weight.is_matrix)
    learning = {block_of(weight.name) for weight in form.weights if weight.is_matrix and how.trained(weight)}
    blocks = [name for name in names if "." in name]
    if any("." not in name for name in learning):
        return len(blocks)
    return len(blocks) - next((at for at, name in enumerate(blocks) if name in learning), len(blocks))

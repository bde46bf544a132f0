"""The cost of a workload: a prompt in, an answer out, the opening of the pack, and its making."""

from __future__ import annotations

from pintpot.contract.form import Form
from pintpot.planner.cost import Cost, Holder, Span
from pintpot.planner.price import Prices, price_stage
from pintpot.planner.question import Question
from pintpot.program.spec import Extent, Work

STARTING_S = Span(0.15, 0.25, 0.5)
"""From the start of a process to the first read of a pack: interpreter, libraries, tokenizer."""


def price_workload(question: Question, form: Form, work: Work, holders: tuple[Holder, ...]) -> Cost:
    """Prefill over the prompt's chunks, decode at the middle of the answer, for the budget's workload."""
    workload, ring = question.budget.workload, form.ring
    ring_knobs = (ring.slot_bytes, ring.in_flight) if ring else (4 << 20, 4)
    prices = Prices(question.machine, question.threads, form.ram_bytes, *ring_knobs)
    chunks = _chunks(min(workload.prompt, workload.context), form.chunk)
    middle = min(workload.context, workload.prompt + workload.output // 2)
    step = Extent(workload.batch, workload.batch, workload.batch, middle)
    prefill = price_stage(work.stage("prefill").program(form.chunk), prices, chunks)
    decode = price_stage(work.stage("decode").program(workload.batch), prices, ((step, workload.output),))
    opening = prices.disk(form.ram_bytes) + STARTING_S
    moved = prices.disk(form.weight_bytes + question.model.num_bytes)
    return Cost(holders, (prefill, decode), opening, moved + _converting(prices, form), pack_bytes(form))


def pack_bytes(form: Form) -> int:
    """Disk that a pack takes: weights, their padding to whole reads, and a manifest with a tokenizer beside them."""
    return round(form.weight_bytes * 1.002) + 8_000_000


def _chunks(prompt: int, chunk: int) -> tuple[tuple[Extent, int], ...]:
    full, rest = divmod(prompt, chunk)
    # Attention's cost is linear in the context, so whole chunks are priced at their mean.
    whole = ((Extent(chunk, context=chunk * (full - 1) // 2), full),) if full else ()
    return whole + (((Extent(rest, context=chunk * full), 1),) if rest else ())


def _converting(prices: Prices, form: Form) -> Span:
    values: dict[str, int] = {}
    for weight in form.weights:
        if weight.is_matrix:
            values[weight.format] = values.get(weight.format, 0) + weight.shape[0] * weight.shape[1]
    seconds = Span.exactly(0.0)
    for name, count in values.items():
        seconds = seconds + prices.converting(name, count)
    return seconds

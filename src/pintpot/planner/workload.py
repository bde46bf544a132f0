"""The cost of a workload: prompts in, answers out, the opening of the pack, and its making."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

from pintpot.budget import Workload
from pintpot.contract.form import Form
from pintpot.planner.cost import ZERO, Cost, Holder, Span, StageCost
from pintpot.planner.price import NO_RING, Prices, price_stage
from pintpot.program.spec import Extent, Work

STARTING_S = Span(0.15, 0.25, 0.5)
"""From the start of a process to the first read of a pack: interpreter, libraries, tokenizer."""


def lengths(workload: Workload) -> tuple[int, int]:
    """Tokens of the prompt and of the answer that are priced: both fit the context, the answer goes first."""
    output = min(workload.output, max(1, workload.context // 2))
    return min(workload.prompt, workload.context - output), output


def price_stages(workload: Workload, form: Form, work: Work, prices: Prices) -> tuple[StageCost, StageCost]:
    """Prefill of each sequence's prompt in chunks; decode of all side by side, at the middle of the answer."""
    prompt, output = lengths(workload)
    chunks = _chunks(prompt, form.chunk, workload.batch)
    steps = _steps(prompt, output, workload.batch)
    prefill = price_stage(work.stage("prefill").program(form.chunk), prices, chunks, form.ring, fills=1)
    decode = price_stage(work.stage("decode").program(workload.batch), prices, steps, form.ring)
    return prefill, decode


def price_workload(
    stages: tuple[StageCost, ...], form: Form, source_bytes: int, prices: Prices, holders: tuple[Holder, ...]
) -> Cost:
    """Stages and holders, with the opening and making of the pack: source read, weights converted, pack written."""
    opening = _read(prices, form.ram_bytes) + STARTING_S
    making = _read(prices, form.weight_bytes + source_bytes) + _converting(prices, form)
    return Cost(holders, stages, opening, making, pack_bytes(form))


def pack_bytes(form: Form) -> int:
    """Disk that a pack takes: weights, their padding to whole reads, and a manifest with a tokenizer beside them."""
    return round(form.weight_bytes * 1.002) + 8_000_000


@lru_cache(maxsize=64)
def _chunks(prompt: int, chunk: int, batch: int) -> tuple[tuple[Extent, int], ...]:
    """The chunks of every sequence's prompt; logits are wanted of the last alone."""
    before, last = divmod(prompt - 1, chunk)
    # Attention's cost is linear in the context, so the chunks before the last are priced at their mean.
    whole = ((Extent(chunk, rows=0, context=chunk * (before - 1) // 2), before * batch),) if before else ()
    return (*whole, (Extent(last + 1, context=chunk * before), batch))


@lru_cache(maxsize=64)
def _steps(prompt: int, output: int, batch: int) -> tuple[tuple[Extent, int], ...]:
    """The steps of the answers: what attention reads grows evenly with them, so their middle stands for all."""
    return ((Extent(batch, batch, batch, prompt + output // 2), output),)


def _read(prices: Prices, num_bytes: int) -> Span:
    return prices.rates.disk(num_bytes, NO_RING.slot_bytes, NO_RING.in_flight)


def _converting(prices: Prices, form: Form) -> Span:
    """Seconds to round or permute every weight into its format, on one thread."""
    values: Counter[str] = Counter()
    for weight in form.weights:
        if weight.is_matrix:
            values[weight.format] += weight.shape[0] * weight.shape[1]
    return sum((prices.rates.converting(name, count) for name, count in values.items()), ZERO)

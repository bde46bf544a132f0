"""Texts that go through a block side by side while sensitivities are measured: as many as memory has room for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from pintpot.errors import DoesNotFit
from pintpot.meter.memory import attainable_bytes
from pintpot.model.spec import Model
from pintpot.packer.calibrate.forward import PART, Texts
from pintpot.packer.calibrate.source import ROW_CHUNK_BYTES
from pintpot.planner.calibrating import BASE_BYTES
from pintpot.units import format_bytes, format_bytes_up

MOST_BYTES = 1 << 30
FREE_SHARE = 4
"""Of what is free, one part in so many is for them where no limit was named."""
OF_A_BLOCK = 5
"""Float32 arrays as large as a block's weights: those, squares of gradients, and what rounding makes of them."""
OF_ALL_TEXTS = 8
"""The same of all texts' states: those before and after a block, gradients, and parts on their way together."""
OF_LOGITS = 4
"""The same of all texts' logits for a run of words."""


def groups(model: Model, texts: Texts, memory_bytes: int | None = None) -> Iterator[tuple[slice, list[int]]]:
    """Rows of texts that go through a block together, and their lengths; the process takes `memory_bytes` at most.

    Raises DoesNotFit where not even the longest text has room alone.
    """
    longest = max(map(len, texts))
    token_bytes = _token_bytes(model)
    room = min(attainable_bytes() // FREE_SHARE, MOST_BYTES)
    if memory_bytes is not None:
        beside = _beside(model, sum(map(len, texts)))
        least = beside + longest * token_bytes
        if least > memory_bytes:
            has = f"{format_bytes_up(least)} at least; it may take {format_bytes(memory_bytes)}"
            raise DoesNotFit(f"measuring what each weight loses takes {has}", least)
        room = min(memory_bytes - beside, MOST_BYTES)
    return _groups(texts, max(longest, room // token_bytes))


def _token_bytes(model: Model) -> int:
    """What one token takes inside a block, way forward and back."""
    config = model.part(PART).config
    pairs = config.get("num_experts_per_tok", 1)
    return int(4 * (pairs * 12 * config["intermediate_size"] + (15 + pairs) * config["hidden_size"]))


def _beside(model: Model, num_tokens: int) -> int:
    """What is there whatever goes through a block."""
    values: dict[str, int] = defaultdict(int)
    for weight in model.part(PART).weights():
        if "." in weight.name:
            values[weight.name.rpartition(".")[0]] += weight.num_values
    hidden = model.part(PART).config["hidden_size"]
    states = OF_ALL_TEXTS * 4 * num_tokens * hidden
    logits = OF_LOGITS * num_tokens * max(1, ROW_CHUNK_BYTES // (4 * hidden)) * 4
    return int(BASE_BYTES + OF_A_BLOCK * 4 * max(values.values()) + max(states, logits))


def _groups(texts: Texts, together: int) -> Iterator[tuple[slice, list[int]]]:
    first, lengths = 0, list[int]()
    for text in texts:
        if lengths and sum(lengths) + len(text) > together:
            yield slice(first, first + sum(lengths)), lengths
            first, lengths = first + sum(lengths), []
        lengths.append(len(text))
    yield slice(first, first + sum(lengths)), lengths

"""How often the stages of a decoder are replayed for a workload, at which lengths, and over how many pages."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from pintpot.budget import Workload
from pintpot.contract.form import CacheForm
from pintpot.program.spec import Extent, Extents


def lengths(workload: Workload) -> tuple[int, int]:
    """Tokens of the prompt and of the answer that are priced: both fit the context, the answer goes first."""
    output = min(workload.output, max(1, workload.context // 2))
    return min(workload.prompt, workload.context - output), output


def prefill_extents(workload: Workload, chunk: int) -> Extents:
    """Of the chunks that all prompts share."""
    return _chunks(lengths(workload)[0], chunk, workload.batch)


def decode_extents(workload: Workload) -> Extents:
    """Of the steps of all answers side by side, at the middle of the answer."""
    return _steps(*lengths(workload), workload.batch)


def num_pages(cache: CacheForm, workload: Workload, chunk: int) -> int:
    """Pages of all sequences: the whole context, what is lent of it, or the window, the sinks and one chunk.

    There are enough for one whole context.
    """
    positions = workload.context
    if cache.window:
        # A window and a chunk may each begin and end inside a page, the sinks end in one.
        parts = (cache.sinks, cache.window + min(chunk, workload.context))
        windowed = sum(-(-part // cache.page_tokens) + (1 if part else 0) for part in parts)
        return workload.batch * min(windowed, -(-positions // cache.page_tokens))
    whole = -(-positions // cache.page_tokens)
    each = min(whole, -(-cache.lent // cache.page_tokens)) if cache.lent else whole
    return max(workload.batch * each, whole)


class _Chunk(NamedTuple):
    """What a chunk holds: tokens, prompts that end in it, and prompts of which it has a part."""

    tokens: int
    rows: int
    sequences: int


@lru_cache(maxsize=64)
def _chunks(prompt: int, chunk: int, batch: int) -> Extents:
    """The chunks that the prompts of all sequences, one after the other, are cut into; logits are wanted at their ends.

    Attention's cost is linear in the context, so chunks that are else alike are priced at their mean.
    """
    total = prompt * batch
    alike: dict[_Chunk, list[float]] = {}
    for first in range(0, total, chunk):
        stop = min(first + chunk, total)
        ends = stop // prompt - first // prompt
        what = _Chunk(stop - first, ends, (stop - 1) // prompt - first // prompt + 1)
        alike.setdefault(what, []).append(_context(first, stop, prompt, what))
    return tuple((Extent(*what, context=round(sum(seen) / len(seen))), len(seen)) for what, seen in alike.items())


def _context(first: int, stop: int, prompt: int, what: _Chunk) -> float:
    """Positions before its parts, were they all as long, such that its tokens see as much in the mean."""
    whole, rest = divmod(stop, prompt)
    skipped, begun = divmod(first, prompt)
    positions = (whole - skipped) * prompt * (prompt - 1) / 2 + rest * (rest - 1) / 2 - begun * (begun - 1) / 2
    return positions / what.tokens - (what.tokens / what.sequences - 1) / 2


@lru_cache(maxsize=64)
def _steps(prompt: int, output: int, batch: int) -> Extents:
    """The steps of the answers: what attention reads grows evenly with them, so their middle stands for all."""
    return ((Extent(batch, batch, batch, prompt + output // 2), output),)

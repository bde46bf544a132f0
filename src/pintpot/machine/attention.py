"""What is timed of attention, over one new token and over many."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from pintpot.formats import encoding
from pintpot.machine.measure import Loop
from pintpot.machine.spec import ATTENTION_GROUPS
from pintpot.program.ops.attend import MANY

if TYPE_CHECKING:
    from pintpot._native import Pool
    from pintpot.machine.loops import Bench

_KV_HEADS, _HEAD_DIM, _PAGE_TOKENS = 4, 64, 32
_DECODE_CONTEXT = {True: 4_096, False: 16_384}
_MANY_CONTEXTS, _MANY_TOKENS = {True: (512,), False: (128, 1_024)}, 128


def has_tiles() -> bool:
    """Whether the kernels that run here multiply tiles of bfloat16."""
    from pintpot._native import kernels

    return bool(kernels.chosen() == "amx")


def attention_loops(bench: Bench, pool: Pool, name: str) -> Iterator[Loop]:
    """Attention of one cache format: a step of answers by what it reads, and of prompts in each of its roundings."""
    from pintpot._native import measure

    position_bytes = 2 * _KV_HEADS * encoding(name).row_bytes(_HEAD_DIM)
    context = min(_DECODE_CONTEXT[bench.quick], bench.arena.nbytes // position_bytes // 32 * 32)
    for group in ATTENTION_GROUPS[2:3] if bench.quick else ATTENTION_GROUPS:

        def one(rounds: int, group: int = group) -> tuple[float, float]:
            shape = (name, group * _KV_HEADS, _KV_HEADS, _HEAD_DIM)
            seconds = measure.attend(pool, bench.arena, *shape, 1, context, rounds)
            return float(rounds * context * position_bytes), seconds

        def begin(rounds: int, group: int = group) -> tuple[float, float]:
            shape = (name, group * _KV_HEADS, _KV_HEADS, _HEAD_DIM)
            return float(rounds * _KV_HEADS), measure.attend(pool, bench.arena, *shape, 1, _PAGE_TOKENS, rounds)

        yield Loop(f"attend/{name}", pool.size, group, one)
        yield Loop(f"attend_start/{name}", pool.size, group, begin)
    for wide in _MANY_CONTEXTS[bench.quick]:
        shape = (name, 4 * _KV_HEADS, _KV_HEADS, _HEAD_DIM, _MANY_TOKENS, wide)
        seen = wide - _MANY_TOKENS + (_MANY_TOKENS + 1) / 2
        multiply_adds = 2.0 * 4 * _KV_HEADS * _HEAD_DIM * seen * _MANY_TOKENS

        def many(
            rounds: int,
            rounded: int = 0,
            shape: tuple[str, int, int, int, int, int] = shape,
            multiply_adds: float = multiply_adds,
        ) -> tuple[float, float]:
            return rounds * multiply_adds, measure.attend(pool, bench.arena, *shape, rounds, rounded=rounded)

        for rounded, kind in enumerate(MANY if has_tiles() else MANY[:2]):
            yield Loop(f"{kind}/{name}", pool.size, round(seen), partial(many, rounded=rounded))

"""Sequences side by side: each gets the tokens that it gets alone, whatever the others do."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from packing import BLOCKS, EXACT, INT8, STREAMED, opened, pack_of
from tiny import Tiny, write_hf

from pintpot.contract.step import Step
from pintpot.runtime.request import Request, Sampling
from pintpot.runtime.session import Session
from pintpot.techniques.batch.prefill_chunk import PrefillChunk
from pintpot.techniques.cache.eight_bit import EightBitCache
from pintpot.techniques.cache.sink_window import SinkWindow
from pintpot.techniques.quantize.int8_activations import Int8Activations

GREEDY = Sampling(temperature=0.0)
TINY = Tiny(hidden=128, intermediate=256, layers=3, heads=4, kv_heads=2, vocab=768, seed=21)
CONTEXT = 192
WINDOW = SinkWindow(window=64, sinks=4)
TWO_PLANES = tuple(Int8Activations(prefill=2, decode=2) if isinstance(step, Int8Activations) else step for step in INT8)
FORMS: dict[str, tuple[Step, ...]] = {
    "float": EXACT,
    "int8": INT8,
    "two planes": TWO_PLANES,
    "two planes in decode": (*(step for step in INT8 if not isinstance(step, Int8Activations)), Int8Activations()),
    "int8 cache": (*INT8, EightBitCache()),
    "window": (*EXACT, WINDOW),
    "window of 8 bits": (*INT8, WINDOW, EightBitCache()),
    "streamed": (*INT8, STREAMED),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf(tmp_path_factory.mktemp("batches") / "model", TINY)


def requests(number: int, longest: int, vocabulary: int = 700) -> list[Request]:
    """Greedy requests of different lengths, in and out."""
    draw = np.random.default_rng(5)
    return [
        Request(tuple(draw.integers(3, vocabulary, int(length)).tolist()), 4 + 5 * index % 37, GREEDY, (), True)
        for index, length in enumerate(draw.integers(1, longest, number))
    ]


def side_by_side(session: Session, asked: Iterable[Request]) -> list[list[int]]:
    answers: dict[int, list[int]] = {}
    for drawn in session.engine.generate_many(asked, frozenset()):
        answers.setdefault(drawn.index, []).append(drawn.token)
    return [answers[index] for index in range(len(answers))]


def alone(session: Session, asked: Iterable[Request]) -> list[list[int]]:
    answers = []
    for request in asked:
        session.engine.reset()
        answers.append(list(session.engine.generate(request, frozenset())))
    return answers


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("form", FORMS)
def test_each_sequence_gets_the_tokens_that_it_gets_alone(
    form: str, threads: int, source: Path, tmp_path: Path
) -> None:
    asked = requests(16, 150)
    with opened(pack_of(source, tmp_path / "one", FORMS[form], context=CONTEXT), threads=threads) as session:
        wanted = alone(session, asked)
    for batch in (4, 16):
        folder = pack_of(source, tmp_path / f"{batch}", FORMS[form], context=CONTEXT, batch=batch)
        with opened(folder, threads=threads) as session:
            assert side_by_side(session, asked) == wanted
            assert side_by_side(session, reversed(asked)) == wanted[::-1], "what is cached changes no token"


@pytest.mark.parametrize("cache", [(), (EightBitCache(),)], ids=["f16", "int8"])
def test_smollm2_side_by_side(cache: tuple[Step, ...], smollm2: Path, tmp_path: Path) -> None:
    """16 sequences of up to 100 tokens in, 4 to 40 out; in one batch of 16, in fours, and alone."""
    asked = requests(16, 100, 40_000)
    steps = (*BLOCKS[:2], PrefillChunk(tokens=128), *cache)
    with opened(pack_of(smollm2, tmp_path / "one", steps, context=256, threads=2)) as session:
        wanted = alone(session, asked)
    for batch, threads in ((4, 1), (16, 2)):
        folder = pack_of(smollm2, tmp_path / f"{batch}", steps, context=256, batch=batch, threads=2)
        with opened(folder, threads=threads) as session:
            assert side_by_side(session, asked) == wanted

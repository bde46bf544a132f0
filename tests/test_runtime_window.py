"""A cache window with attention sinks: pages are given back, and the answers are those of a mask over everything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from packing import EXACT, f32_cache, opened, pack_of
from reference_model import ReferenceModel
from tiny import Tiny, write_hf

from pintpot.budget import Workload
from pintpot.contract.form import CacheForm, source_form
from pintpot.model.read import describe
from pintpot.nets import family
from pintpot.runtime.pages import NO_PAGE, PagePool, PageTable
from pintpot.runtime.request import Request, Sampling
from pintpot.techniques.cache.eight_bit import EightBitCache
from pintpot.techniques.cache.sink_window import SinkWindow

TINY = Tiny(heads=4, kv_heads=2, context=512, seed=51)
CONTEXT = 384
WINDOW = SinkWindow(window=64, sinks=4)
PROMPT = tuple(int(token) for token in np.random.default_rng(3).integers(3, 300, 150))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf(tmp_path_factory.mktemp("window") / "model", TINY)


def masked_logits(source: Path, text: list[int]) -> np.ndarray:
    """Logits of every position, all keys kept and those outside of window and sinks masked: float64 [T, V]."""
    model = describe(str(source))
    reference = ReferenceModel(model, context=CONTEXT)
    cache = CacheForm("f32", WINDOW.window, WINDOW.sinks)
    form = replace(source_form(model), chunk=512, cache=cache)
    part = model.part("language")
    everything = family(part.family).work(part.config, replace(form, chunk=CONTEXT), Workload(context=CONTEXT))
    reference.program = everything.stage("prefill").programs[0]
    return reference.logits(text)


def test_a_long_answer_is_that_of_the_mask_while_pages_are_given_back(source: Path, tmp_path: Path) -> None:
    folder = pack_of(source, tmp_path / "pack", (*EXACT, WINDOW), context=CONTEXT, change=f32_cache)
    with opened(folder) as session:
        answer, ours = [], []
        for token in session.engine.generate(Request(PROMPT, 180, Sampling(temperature=0.0), (), True), frozenset()):
            stage = "decode" if answer else "prefill"
            ours.append(session.engine.stage(stage).floats("logits")[0].copy())
            answer.append(token)
        table = session.engine.sequences[0].table
        pages = session.engine.stage("decode").program.shape("layers.0.k_cache")[0]
        assert pages < CONTEXT // 32
        assert table.pages.count(NO_PAGE) >= 6
        assert table.pages[0] != NO_PAGE
    theirs = masked_logits(source, [*PROMPT, *answer])[len(PROMPT) - 1 : -1]
    assert np.abs(np.stack(ours) - theirs).max() / np.abs(theirs).max() < 1e-3
    assert answer == theirs.argmax(1).tolist()


def test_a_second_turn_after_pages_are_gone_is_computed_anew(source: Path, tmp_path: Path) -> None:
    folder = pack_of(source, tmp_path / "pack", (*EXACT, WINDOW), context=CONTEXT)
    with opened(folder) as session:

        def answer(prompt: tuple[int, ...]) -> list[int]:
            return list(session.engine.generate(Request(prompt, 20, Sampling(temperature=0.0), (), True), frozenset()))

        first = answer(PROMPT)
        longer, changed = (*PROMPT, *first), (*PROMPT[:100], 7, 8, 9)
        continued = answer(longer)
        assert session.engine.timing.prompt_tokens < 30
        expected = answer(changed)
        assert session.engine.timing.prompt_tokens == len(changed)
        session.engine.reset()
        assert answer(changed) == expected
        session.engine.reset()
        assert answer(longer) == continued


def test_a_window_and_8_bits_together(source: Path, tmp_path: Path) -> None:
    folder = pack_of(source, tmp_path / "pack", (*EXACT, WINDOW, EightBitCache()), context=CONTEXT)
    with opened(folder) as session:
        answer = list(session.engine.generate(Request(PROMPT, 100, Sampling(temperature=0.0), (), True), frozenset()))
    theirs = masked_logits(source, [*PROMPT, *answer])[len(PROMPT) - 1 : -1]
    assert np.mean(theirs.argmax(1) == answer) > 0.9


def test_pages_come_back_in_every_way() -> None:
    pool = PagePool(4, 32)
    table = PageTable(pool, lambda position: ((0, 4), (max(0, position - 31), position)))
    assert table.extend(0, 33) == [0, 1]
    table.extend(33, 96)
    table.extend(96, 97)
    assert table.pages == [0, NO_PAGE, 2, 3] or table.pages.count(NO_PAGE) == 1
    assert pool.num_free == 1
    table.truncate(64)
    assert pool.num_free == 3
    table.truncate(0)
    assert pool.num_free == 4
    assert table.pages == []

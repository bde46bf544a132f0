"""The same tokens: as transformers draws from the same weights, on every instruction set, with every number of threads.

Greedy answers are compared without drawing them twice: where the likeliest next word of transformers is ours at every
position of our answer, its own greedy answer is ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from equal_tokens_data import NUM_TOKENS, PROMPTS
from packing import BLOCKS, BY_DEFAULT, EXACT, STREAMED, f32_cache, opened, pack_of
from tiny import Tiny, torch_model, torch_model_of_gguf, write_gguf, write_hf

from pintpot._native import available_isas
from pintpot.nets import families
from pintpot.packer.manifest import read_manifest
from pintpot.proof.head import PackedHead
from pintpot.runtime.request import Request, Sampling
from pintpot.runtime.session import Session

LENGTH = 64
LENGTHS = (LENGTH, LENGTH, *[12] * 8)
"""Words of the answer to each prompt; benchmarks/equal_tokens.py takes twice as many, and gives all of them 64."""
NUM_STREAMED, NUM_JUDGED = 4, 8
"""Prompts that are answered from disk here, and texts whose every distribution is compared."""
SMOLLM2 = Tiny(
    hidden=576, intermediate=1536, layers=30, heads=9, kv_heads=3, head_dim=64, vocab=49152, context=8192, tied=True,
    rope_theta=100000.0,
)  # fmt: skip
Tokens = tuple[int, ...]
Judged = list[tuple[int, Tokens, np.ndarray]]
"""Of how many words the answer at the end of each text is, the text, and what transformers says of it."""


def greedy(session: Session, prompt: Tokens, count: int = LENGTH) -> list[int]:
    session.engine.reset()
    return list(session.engine.generate(Request(prompt, count, Sampling(temperature=0.0), (), True), frozenset()))


def torch_logits(model: Any, texts: list[list[int]]) -> np.ndarray:
    """float32 [texts, tokens, vocabulary] for texts of one length."""
    import torch

    with torch.no_grad():
        return np.asarray(model(torch.tensor(texts)).logits)


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


# --- Every family, on drawn weights -------------------------------------------------------------------------------


def check_tiny(pack: Path, model: Any) -> None:
    """Logits along a greedy answer, each compared as it comes out of the native engine."""
    with opened(pack) as session:
        prompt: Tokens = (5, 9, 200, 17, 3, 88, 41, 7, 120, 65, 90, 19, 33, 14, 250, 77, 6, 8, 11)
        ours, answer = [], []
        for stage, token in zip(
            ["prefill"] + ["decode"] * (LENGTH - 1),
            session.engine.generate(Request(prompt, LENGTH, Sampling(temperature=0.0), (), True), frozenset()),
            strict=True,
        ):
            ours.append(session.engine.stage(stage).floats("logits")[0].copy())
            answer.append(token)
    theirs = torch_logits(model, [[*prompt, *answer]])[0, len(prompt) - 1 : -1]
    assert relative(np.stack(ours), theirs) < 1e-3
    assert answer == theirs.argmax(1).tolist()


@pytest.mark.parametrize("name", families())
def test_every_family_draws_what_transformers_draws(name: str, tmp_path: Path) -> None:
    source = write_hf(tmp_path / "model", Tiny(family=name, heads=4, kv_heads=2, seed=31))
    check_tiny(pack_of(source, tmp_path / "pack", EXACT, change=f32_cache), torch_model(source))


@pytest.mark.parametrize("name", families())
def test_gguf_blocks_draw_what_transformers_draws(name: str, tmp_path: Path) -> None:
    tiny = Tiny(family=name, heads=4, kv_heads=2, seed=32)
    source = write_gguf(tmp_path / "model.gguf", tiny, "q4_0", embed="q8_0")
    check_tiny(pack_of(source, tmp_path / "pack", EXACT, change=f32_cache), torch_model_of_gguf(source, tiny))


@pytest.mark.parametrize("rope", ["linear", "llama3", "yarn"])
def test_scaled_positions_draw_what_transformers_draws(rope: str, tmp_path: Path) -> None:
    source = write_hf(tmp_path / "model", Tiny(rope=rope, tied=True, seed=33))
    check_tiny(pack_of(source, tmp_path / "pack", (*EXACT, STREAMED), change=f32_cache), torch_model(source))


# --- SmolLM2 ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def packs(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """SmolLM2 with exact activations, in 8 bits, with a part of that streamed, and with rows as they are by default."""
    base = tmp_path_factory.mktemp("smollm2")
    some = replace(STREAMED, resident_bytes=85_000_000, slot_bytes=1 << 20)
    kinds = {"exact": EXACT, "int8": BLOCKS, "streamed": (*BLOCKS, some), "by default": BY_DEFAULT}
    return {name: pack_of(smollm2, base / name, steps, threads=2) for name, steps in kinds.items()}


@pytest.fixture(scope="module")
def prompts(packs: dict[str, Path]) -> list[Tokens]:
    with opened(packs["int8"]) as session:
        cut = [tuple(session.tokenizer.encode(text)[:NUM_TOKENS]) for text in PROMPTS[: len(LENGTHS)]]
    assert len(cut) == len(LENGTHS)
    assert {len(prompt) for prompt in cut} == {NUM_TOKENS}
    return cut


@pytest.fixture(scope="module")
def int8_answers(packs: dict[str, Path], prompts: list[Tokens]) -> list[list[int]]:
    with opened(packs["int8"]) as session:
        return [greedy(session, *one) for one in zip(prompts, LENGTHS, strict=True)]


@pytest.fixture(scope="module")
def reference(smollm2: Path) -> Iterator[Any]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch_model_of_gguf(smollm2, SMOLLM2)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def judged(prompts: list[Tokens], int8_answers: list[list[int]], reference: Any) -> Judged:
    texts = [(*prompt, *answer) for prompt, answer in zip(prompts, int8_answers, strict=True)][:NUM_JUDGED]
    return [(num, text, torch_logits(reference, [list(text)])[0]) for num, text in zip(LENGTHS, texts, strict=False)]


def test_smollm2_draws_what_transformers_draws(packs: dict[str, Path], prompts: list[Tokens], reference: Any) -> None:
    with opened(packs["exact"]) as session:
        for prompt, length in zip(prompts, LENGTHS, strict=True):
            answer = greedy(session, prompt, length)
            theirs = torch_logits(reference, [[*prompt, *answer]])[0, NUM_TOKENS - 1 : -1]
            assert answer == theirs.argmax(1).tolist()


def test_activations_in_8_bits_stay_near(packs: dict[str, Path], judged: Judged) -> None:
    """Measured: 0.003 nats, 97% the same likeliest word, over twenty texts of 76 tokens."""
    manifest, _ = read_manifest(packs["int8"])
    head = PackedHead(packs["int8"], manifest)
    divergences, same = [], []
    with opened(packs["int8"], every_row=True) as session:
        for _, text, theirs in judged:
            states = np.concatenate([np.array(part) for part in session.engine.hidden(text)])
            ours = np.concatenate([part for _, part in head.logits(states)], axis=1)
            divergences.append(kl(theirs, ours))
            same.append(ours.argmax(1) == theirs.argmax(1))
    mean, top1 = float(np.concatenate(divergences).mean()), float(np.concatenate(same).mean())
    print(f"int8 activations: KL {mean:.4f} nats, top-1 {top1:.3f}")
    assert 0 < mean < 0.006
    assert top1 > 0.95


def test_words_of_answers_stay_nearer_by_default(packs: dict[str, Path], judged: Judged) -> None:
    """Measured: 0.0004 nats in answers, 0.0023 in prompts; more texts and their intervals in benchmarks/quality.py."""
    head = PackedHead(packs["by default"], read_manifest(packs["by default"])[0])
    answers, prompts = [], []
    with opened(packs["by default"], every_row=True) as session:
        for length, text, theirs in judged:
            for num_words, divergences in ((length, answers), (0, prompts)):
                states = np.concatenate([np.array(part) for part in session.engine.hidden(text, num_words)])
                states = np.ascontiguousarray(states[-num_words:])
                ours = np.concatenate([part for _, part in head.logits(states)], axis=1)
                divergences.append(kl(theirs[-num_words:], ours))
    in_answers, in_prompts = (float(np.concatenate(one).mean()) for one in (answers, prompts))
    print(f"by default: KL {in_answers:.5f} nats in answers, {in_prompts:.5f} in prompts")
    assert 0 < in_answers < 0.001
    assert in_answers < in_prompts < 0.004


def kl(reference: np.ndarray, test: np.ndarray) -> np.ndarray:
    """KL divergence of each row's distribution, in nats."""
    logs = []
    for logits in (reference, test):
        shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
        logs.append(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))
    found: np.ndarray = (np.exp(logs[0]) * (logs[0] - logs[1])).sum(1)
    return found


def ways() -> list[tuple[str, str, int]]:
    """One thread, every other instruction set, and streaming; the best set with two threads is compared to."""
    best, *others = available_isas()
    return [("int8", best, 1), *(("int8", isa, 2) for isa in others), ("streamed", best, 2)]


@pytest.mark.parametrize(("name", "isa", "threads"), ways())
def test_the_same_tokens_everywhere(
    packs: dict[str, Path], prompts: list[Tokens], int8_answers: list[list[int]], name: str, isa: str, threads: int
) -> None:
    """Every pair of instruction set and threads: benchmarks/equal_tokens.py."""
    asked = prompts[:NUM_STREAMED] if name == "streamed" else prompts
    with opened(packs[name], isa=isa, threads=threads) as session:
        for prompt, answer in zip(asked, int8_answers, strict=False):
            assert greedy(session, prompt, len(answer)) == answer


def test_an_instruction_set_that_is_not_here_is_refused(packs: dict[str, Path]) -> None:
    with pytest.raises((ValueError, RuntimeError)):
        opened(packs["int8"], isa="avx1024")

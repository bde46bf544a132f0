"""Texts of similar length meet in a call: vectors are the published model's, in order, in as few calls as said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from modules import planned
from published import WORDS, recorded, save, save_tokenizer
from test_kinds import BERT

from pintpot.errors import BadInput, UsageError
from pintpot.machine.null import null_machine
from pintpot.model.spec import Model
from pintpot.packer.pack import write_pack
from pintpot.planner.rebuild import rebuild_work
from pintpot.program.layout import lay_out
from pintpot.runtime.asking import Running, answers
from pintpot.runtime.kinds import Arrays, Given, text
from pintpot.runtime.module import ModuleSession, open_module
from pintpot.techniques.quantize.as_stored import AsStored

TOKENS = 64
LENGTHS = [5, 60, 3, 17, 16, 64, 33, 1, 9, 32, 4, 12, 2, 30, 7]


@pytest.fixture(scope="module")
def bert() -> transformers.BertModel:
    torch.manual_seed(5)
    config = transformers.BertConfig(**{**BERT.to_dict(), "max_position_embeddings": TOKENS})
    return transformers.BertModel(config).eval()


@pytest.fixture(scope="module")
def model(bert: transformers.BertModel, tmp_path_factory: pytest.TempPathFactory) -> Model:
    place = tmp_path_factory.mktemp("lengths")
    folder = save(bert, place / "bert")
    save_tokenizer(folder)
    (folder / "modules.json").write_text(json.dumps([{"type": "a.b.Normalize", "path": ""}]))
    return recorded(folder, place / "recorded", tokens=TOKENS)


@pytest.fixture(scope="module")
def session(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleSession]:
    folder = write_pack(model, planned(model, AsStored()), tmp_path_factory.mktemp("lengths") / "pack")
    with open_module(folder, null_machine()) as opened:
        yield opened


def about(session: ModuleSession) -> dict[str, Any]:
    return dict(session.plan.config["kind"])


def some() -> list[list[int]]:
    return [[3 + (at * 5 + place) % (len(WORDS) - 3) for place in range(size)] for at, size in enumerate(LENGTHS)]


def test_vectors_are_the_published_ones_in_their_order(session: ModuleSession, bert: transformers.BertModel) -> None:
    shapes: list[tuple[int, ...]] = []

    class Counting(Running):
        def __call__(self, inputs: Arrays, stage: str = "") -> Arrays:
            shapes.append(inputs["input_ids"].shape)
            return super().__call__(inputs, stage)

    given = Given(tokens=some())
    found = list(answers(session, text.read(about(session), session.folder, given), Counting(session)))
    assert [one.data["tokens"] for one in found] == LENGTHS
    for ids, one in zip(some(), found, strict=True):
        with torch.inference_mode():
            states = bert(torch.tensor([ids])).last_hidden_state[0].mean(0)
        assert one.data["embedding"] == pytest.approx((states / states.norm()).tolist(), abs=2e-6)
    # Nine texts of at most 16 tokens, three of at most 32, three longer ones.
    assert shapes == [(4, 16)] * 3 + [(2, 32)] * 2 + [(1, 64)] * 3
    assert text.effort(about(session), session.folder, given) == len(shapes)


def test_texts_and_their_tokens_are_one_after_the_other(session: ModuleSession) -> None:
    words = ["cat mat", " ".join(["dog"] * 40), "ba be", "dog", ""]
    found = list(session.ask(texts=words))
    assert [one.name for one in found] == words
    alone = [next(iter(session.ask(texts=[one]))).data["embedding"] for one in words]
    assert [one.data["embedding"] for one in found] == [pytest.approx(one, abs=2e-6) for one in alone]
    both = Given(texts=("cat mat",), tokens=[[5, 6, 7]])
    named = answers(session, text.read(about(session), session.folder, both))
    assert [one.name for one in named] == ["cat mat", "5 6 7"]


def test_other_shapes_have_their_place_in_the_plan(session: ModuleSession) -> None:
    (stage,) = rebuild_work(session.plan).stages
    assert [program.name for program in stage.programs] == ["forward", "forward_1", "forward_2"]
    layout = lay_out(rebuild_work(session.plan))
    held = {holder.name: holder for holder in session.plan.cost.holders}
    assert held["buffers"].low >= layout.sizes["buffers"]
    (cost,) = session.plan.cost.stages
    assert cost.replays == 1, "a plan counts on calls of its own shape alone"


def test_a_shape_that_nobody_recorded_is_refused(session: ModuleSession) -> None:
    ids = torch.ones(2, 20, dtype=torch.int64)
    with pytest.raises(UsageError, match=r"recorded was torch.int64 \(1, 64\)"):
        session(input_ids=ids, attention_mask=ids)
    with pytest.raises(BadInput, match="at most 64"):
        text.effort(about(session), session.folder, Given(tokens=[[3] * 65]))


def test_what_becomes_of_long_texts_is_recorded_for_one_shape(tmp_path: Path) -> None:
    """Logits of every token would take as much room again for each shape."""
    config = transformers.BertConfig(**{**BERT.to_dict(), "max_position_embeddings": TOKENS})
    folder = save(transformers.BertForMaskedLM(config), tmp_path / "fill")
    save_tokenizer(folder)
    (stage,) = recorded(folder, tmp_path / "recorded", tokens=TOKENS).parts[0].config["stages"]
    assert "others" not in stage

"""Vision-language models from their folders: recorded, planned, packed, run and asked, beside transformers' own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vlms
from packing import EXACT, FREE, INT8, MACHINE, f32_cache, opened
from test_vlm_language import GREEDY, words

from pintpot.budget import Budget, Workload
from pintpot.contract.shares import aside_bytes
from pintpot.errors import BadInput, UsageError
from pintpot.model.joined import VISION
from pintpot.model.read import describe as read
from pintpot.model.spec import Model
from pintpot.packer.pack import write_pack
from pintpot.planner.assess import assess
from pintpot.planner.defaults import make_budget
from pintpot.planner.make import make_plan
from pintpot.planner.plan import Plan
from pintpot.planner.question import Question
from pintpot.runtime.building_sight import record_sight
from pintpot.runtime.describing import describe
from pintpot.runtime.seeing import sight_place
from pintpot.runtime.session import Session
from pintpot.techniques.place.streamed import Streamed

EDGE = 32
COUNT = 10
TORCH_BYTES = 500_000_000


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vlms")


@pytest.fixture(scope="module")
def models(home: Path) -> dict[str, tuple[vlms.Vlm, Path]]:
    found = {}
    for name in vlms.NAMES:
        vlm = vlms.sized(vlms.make(name), EDGE)
        found[name] = vlm, vlms.write(vlm, home / name)
        if name != "llava":  # which is recorded as everybody's is: in a process apart
            sized = size_of(home / name)
            record_sight(home / name, name, sized, sight_place(home / name, sized), lambda share, what: None)
    return found


def size_of(folder: Path) -> dict[str, int]:
    return {"image_size": EDGE} if folder.name.startswith("qwen") else {}


def described(folder: Path) -> Model:
    return describe(str(folder), None, {"images": 1, **size_of(folder)}, None)


def planned(model: Model, steps: Any = EXACT, images: int = 2, **how: Any) -> Plan:
    time, height, width = model.part(VISION).config["kind"]["grid"]
    work = Workload(context=160, prompt=60, output=20, given=images * time * height * width, pictures=images)
    budget = Budget(4_000_000_000, work, degradation=1e9, threads=1)
    plan = assess(Question(model, MACHINE, budget, FREE, torch_bytes=TORCH_BYTES), steps)
    return replace(plan, form=f32_cache(plan.form)) if how.pop("exact", True) else plan


def looked_at(session: Session, vlm: vlms.Vlm) -> tuple[Any, tuple[int, ...]]:
    """The pictures of a model's inputs, and its prompt with their tokens."""
    assert session.eyes is not None
    pictures = tuple(session.eyes.picture({"pixel_values": one.numpy()}) for one in vlms.pixels(vlm))
    rows = iter([token for picture in pictures for token in picture.tokens])
    return pictures, tuple(next(rows) if token == vlms.IMAGE else token for token in vlm.tokens)


@pytest.mark.parametrize("name", vlms.NAMES)
def test_a_folder_answers_about_images_as_transformers_does(
    name: str, models: dict[str, tuple[vlms.Vlm, Path]], tmp_path: Path
) -> None:
    vlm, folder = models[name]
    model = described(folder)
    assert (model.kind, [part.name for part in model.parts]) == ("vlm", ["vision", "language"])
    assert model == read(model.source.path), "described again from what is kept"
    rows, deeper = vlms.features(vlm)
    plan = planned(model, images=len(vlm.grids))
    assert plan == Plan.from_json(json.loads(plan.dumps()))
    stages = plan.cost.stages
    assert [stage.name for stage in stages] == ["vision.see", "prefill", "decode"]
    assert stages[0].replays == len(vlm.grids)
    assert plan.cost.first_token_s.mid == pytest.approx(stages[0].seconds.mid + stages[1].seconds.mid)
    with opened(write_pack(model, plan, tmp_path / "pack")) as session:
        pictures, prompt = looked_at(session, vlm)
        assert session.eyes is not None
        found = session.eyes(pictures[0])
        count = pictures[0].num_rows
        for ours, theirs in zip(found.values(), (rows, *deeper), strict=True):
            assert np.abs(ours - theirs[:count]).max() < 1e-4 * np.abs(theirs).max()
        assert words(session, prompt, pictures, COUNT) == vlms.answer(vlm, COUNT)


def test_what_sees_leaves_memory_first(models: dict[str, tuple[vlms.Vlm, Path]], tmp_path: Path) -> None:
    vlm, folder = models["qwen3_vl"]
    model = described(folder)
    whole = planned(model)
    weights = whole.form.weights
    aside, often = aside_bytes(weights), weights.passing_bytes - aside_bytes(weights)
    assert aside > 0
    for resident in (often, often // 2, 0):
        place = Streamed(resident_bytes=resident, slot_bytes=128 << 10, num_slots=4, in_flight=3)
        plan = planned(model, (*EXACT, place))
        on_disk = {weight.name for weight in plan.form.weights if weight.disk_bytes}
        seen = {weight.name for weight in plan.form.weights if weight.is_matrix and weight.name.startswith("vision.")}
        assert seen <= on_disk
        assert (on_disk == seen | {"embed"}) == (resident == often), "words wait for nothing that only pictures need"
        assert plan.cost.memory_high < whole.cost.memory_high - aside // 2 + place.ring_bytes
        with opened(write_pack(model, plan, tmp_path / f"pack{resident}")) as session:
            pictures, prompt = looked_at(session, vlm)
            for _ in range(2):
                session.reset()
                session.engine.sequences[0].placed.begin(())
                assert words(session, prompt, pictures, COUNT) == vlms.answer(vlm, COUNT)


def test_a_conversation_about_pictures(models: dict[str, tuple[vlms.Vlm, Path]], tmp_path: Path) -> None:
    from PIL import Image

    _, folder = models["llava"]
    model = described(folder)
    rng = np.random.default_rng(3)
    files = []
    for index in range(2):
        files.append(tmp_path / f"{index}.png")
        Image.fromarray(rng.integers(0, 255, (40, 30, 3), np.uint8)).save(files[-1])
    with opened(write_pack(model, planned(model), tmp_path / "pack")) as session:

        def said(text: str, *images: Path) -> str:
            return "".join(session.chat(text, images=images, sampling=GREEDY, max_tokens=6))

        about = said("What is it?", files[0])
        cached = session.engine.sequences[0].num_cached
        again = said("And this?", files[1])
        assert session.engine.sequences[0].num_cached > cached
        session.reset()
        assert said("What is it?", files[0]) == about
        session.reset()
        assert said("What is it?", files[1]) != about
        session.reset()
        assert said("What is it?") not in (about, again)
        session.reset()
        with pytest.raises(UsageError, match="images of 48 positions where the plan has room for 32"):
            said("Three?", files[0], files[1], files[0])
        with pytest.raises(BadInput, match="no picture"):
            said("This?", folder / "config.json")


def test_words_alone_and_what_cannot_see(models: dict[str, tuple[vlms.Vlm, Path]], tmp_path: Path) -> None:
    from tiny import write_hf

    _, folder = models["smolvlm"]
    assert [part.name for part in read(str(folder)).parts] == ["language"], "no torch is needed for words"
    with pytest.raises(UsageError, match="reads words alone"):
        describe(str(write_hf(tmp_path / "llama")), None, {"images": 1}, None)
    with pytest.raises(UsageError, match="takes no image size without --images"):
        describe(str(folder), None, {"image_size": 64}, None)


def test_what_pictures_become_is_judged_beside_the_unpacked_tower(
    models: dict[str, tuple[vlms.Vlm, Path]], tmp_path: Path
) -> None:
    from pintpot.proof.quality import Answerer

    _, folder = models["qwen3_vl"]
    model = described(folder)
    found = {}
    for name, steps in (("exact", EXACT), ("rounded", INT8)):
        pack = write_pack(model, planned(model, steps, exact=False), tmp_path / name)
        with opened(pack) as session:
            assert session.eyes is not None
            np.savez(tmp_path / f"{name}.npz", **session.eyes(session.eyes.drawn(0)))
            assert session.eyes.seconds > 0
        found[name] = Answerer(pack).see(str(tmp_path / f"{name}.npz"))
    assert found["exact"]["rows"] == 16 * 3, "those that take the place of words, and those of two deeper layers"
    assert found["exact"]["cosine"] == pytest.approx(1, abs=1e-6)
    assert 0.98 < found["rounded"]["cosine"] < 0.99999


def test_the_best_plan_counts_the_positions_of_pictures(models: dict[str, tuple[vlms.Vlm, Path]]) -> None:
    model = described(models["smolvlm"][1])
    asked: dict[str, Any] = {"memory_bytes": 2_000_000_000, "context": 200, "output": 8}
    plans = {}
    for images in (1, 3):
        budget = make_budget(model, MACHINE, 4_000_000_000, images=images, **asked)
        assert (budget.workload.given, budget.workload.pictures) == (16 * images, images)
        assert budget.workload.prompt == 16 * images + 64
        plans[images] = make_plan(model, MACHINE, budget, torch_bytes=TORCH_BYTES)
    one, three = (plans[images].cost for images in (1, 3))
    assert three.stage("prefill").tokens == one.stage("prefill").tokens + 32
    assert three.stage("vision.see").seconds.mid == pytest.approx(3 * one.stage("vision.see").seconds.mid)
    with pytest.raises(UsageError, match="was described without what sees"):
        make_budget(read(str(models["smolvlm"][1])), MACHINE, 4_000_000_000, images=1, **asked)

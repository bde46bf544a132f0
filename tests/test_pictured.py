"""Packs that were rounded on a folder of pictures: what is looked at, what it takes, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import vlms
from click.testing import CliRunner
from packing import plan_of
from test_vlm_language import GREEDY
from tiny import write_hf

import pintpot
from pintpot.cli import cli
from pintpot.errors import BadInput, UsageError
from pintpot.meter.home import home
from pintpot.model.spec import Model
from pintpot.model.tokens import Tokenizer
from pintpot.packer.calibrate.captions import found_pictures, pictures_digest, said_of
from pintpot.packer.calibrate.texts import read_text
from pintpot.packer.manifest import read_manifest
from pintpot.packer.pack import tokenizer_of, write_pack
from pintpot.packer.place import place_of
from pintpot.packer.raw import WEIGHTS
from pintpot.proof.looking import looked_at, prompts_of
from pintpot.runtime.building_sight import record_sight
from pintpot.runtime.seeing import sight_place
from pintpot.techniques.batch.prefill_chunk import PrefillChunk
from pintpot.techniques.quantize.gptq import Gptq
from pintpot.techniques.quantize.mbq import Mbq
from pintpot.techniques.quantize.round_to_nearest import RoundToNearest

SAID = "a small square of noise"


@pytest.fixture(scope="module")
def vlm() -> vlms.Vlm:
    return vlms.sized(vlms.make("qwen3_vl"), 32)


@pytest.fixture
def folder(vlm: vlms.Vlm, tmp_path: Path) -> Path:
    """A model's folder, recorded already."""
    made = vlms.write(vlm, tmp_path / "qwen3")
    shapes = {"image_size": 32}
    record_sight(made, vlm.name, shapes, sight_place(made, shapes), lambda share, what: None)
    return made


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    from PIL import Image

    place, rng = tmp_path / "photos", np.random.default_rng(2)
    place.mkdir()
    for name in ("a.png", "b.JPG", "c.png"):
        Image.fromarray(rng.integers(0, 255, (40, 32, 3), np.uint8)).save(place / name)
    (place / "c.txt").write_text(SAID)
    (place / "notes.md").write_text("no picture")
    return place


@pytest.fixture
def model(folder: Path) -> Model:
    return pintpot.describe(folder, images=1, image_size=32)


def test_prompts_begin_with_a_picture_as_the_tower_sees_it(vlm: vlms.Vlm, model: Model, photos: Path) -> None:
    """Rows beside transformers' own of the same pixels; words are those said of the picture, else of the text."""
    import torch

    from pintpot.runtime.sights import sight

    told: list[float] = []
    prompts = prompts_of(model, found_pictures(photos), None, lambda share, what: told.append(share))
    assert told == pytest.approx([1 / 3, 2 / 3, 1])
    tokenizer, about = Tokenizer.load(tokenizer_of(model)), model.part("vision").config["kind"]
    num_rows = 16
    for number, name in enumerate(("a.png", "b.JPG", "c.png")):
        tokens, rows = prompts.texts[number], slice(number * num_rows, (number + 1) * num_rows)
        shown = ~tokens[tokens < 0]
        assert shown.tolist() == list(range(rows.start, rows.stop))
        assert (SAID in tokenizer.decode(tokens[tokens >= 0].tolist())) == (name == "c.png")
        assert len(tokens) <= model.context
        inputs = sight("qwen3_vl").read(about, photos / name)
        grid = torch.tensor([[1, 8, 8]])
        with torch.no_grad():
            theirs = vlm.module.model.get_image_features(torch.from_numpy(inputs["pixel_values"]), grid)
        for key, wanted in (("given", theirs.pooler_output), ("given.1", theirs.deepstack_features[1])):
            ours = prompts.rows[key][rows]
            expected = torch.cat(list(wanted)).numpy()
            assert np.abs(ours - expected).max() < 1e-4 * np.abs(expected).max()
    assert prompts.rows["given_angles"].shape == (3 * num_rows, 32)


def test_a_model_is_packed_on_pictures(folder: Path, photos: Path, tmp_path: Path) -> None:
    """In a process apart, for a plan made by hand; the pack is known by its pictures and by what is said of them."""
    text = tmp_path / "text.txt"
    text.write_text(read_text()[:4000])
    model = pintpot.describe(folder, images=1, image_size=32)
    plan = plan_of(model, (RoundToNearest("all", 4), Mbq(), Gptq(), PrefillChunk(tokens=16)), context=256, given=16)
    said: list[str] = []
    pack = pintpot.pack(model, plan, text=text, pictures=photos, progress=lambda share, what: said.append(what))
    assert "looking at pictures" in said
    assert pack == place_of(model, plan, text, photos)
    assert not list(home().glob(".looking-*")), "what was looked at is gone"
    assert read_manifest(pack)[0].plan.steps[0] == Mbq()
    (photos / "c.txt").write_text("something else")
    assert pack != place_of(model, plan, text, photos)
    with pintpot.run(pack) as session:
        assert not callable(session)
        answer = session.chat("What is it?", images=[photos / "a.png"], sampling=GREEDY, max_tokens=4)
        assert "".join(answer)


def test_the_command_hands_over_what_was_asked(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def pack(model: str, **given: object) -> Path:
        asked.update(given)
        raise UsageError("enough")

    monkeypatch.setattr(pintpot, "pack", pack)
    args = ["pack", "org/name", "--images", "1", "--pictures", str(photos), "--balanced"]
    assert CliRunner().invoke(cli, args).exit_code == UsageError.exit_code
    assert (asked["pictures"], asked["balanced"], asked["images"]) == (photos, True, 1)


def test_pictures_change_what_is_rounded(model: Model, photos: Path, tmp_path: Path) -> None:
    """Beside the same plan over words alone, in as many bytes; a plan that rounds to nearest looks at nothing."""
    texts = np.random.default_rng(3).integers(3, 300, (4, 64)).tolist()
    prompts_of(model, found_pictures(photos), None, lambda share, what: None).save(tmp_path / "prompts.npz")
    found = []
    for pictured in (None, tmp_path / "prompts.npz"):
        plan = plan_of(model, (RoundToNearest("all", 4), Gptq(), PrefillChunk(tokens=16)), context=256, given=16)
        pack = write_pack(model, plan, tmp_path / f"pack{len(found)}", texts=texts, pictured=pictured)
        found.append((pack / WEIGHTS).read_bytes())
    assert found[0] != found[1]
    assert len(found[0]) == len(found[1])
    plain = plan_of(model, (RoundToNearest("all", 4), PrefillChunk(tokens=16)), context=256, given=16)
    with looked_at(model, plain, photos) as nothing:
        assert nothing is None


def test_what_cannot_be_looked_at_is_refused(folder: Path, model: Model, photos: Path, tmp_path: Path) -> None:
    words = pintpot.describe(folder)
    plan = pintpot.plan(words, memory="500MB", context=128)
    with pytest.raises(UsageError, match="described without what sees"), looked_at(words, plan, photos):
        pass
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "gone"):
        with pytest.raises(UsageError, match="holds no pictures"):
            found_pictures(place)
    (photos / "a.png").write_bytes(b"no picture")
    with pytest.raises(BadInput, match="no picture that PIL knows"):
        prompts_of(model, found_pictures(photos), None, lambda share, what: None)
    (photos / "c.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(BadInput, match="cannot be read as text"):
        said_of(photos / "c.png")
    with pytest.raises(BadInput, match="cannot be read"):
        pictures_digest([tmp_path / "gone.png"])
    with pytest.raises(UsageError, match="llama sees no pictures, so there is nothing that --balanced"):
        pintpot.plan(str(write_hf(tmp_path / "llama")), memory="500MB", context=128, balanced=True)

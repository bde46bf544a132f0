"""Kinds of models: pictures and texts in, classes, boxes and vectors out, as transformers would have them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from modules import opened
from PIL import Image
from published import PROCESSOR, WORDS, recorded, save, save_tokenizer

import pintpot
from pintpot.errors import BadFile, BadInput, NoFamily, UnsupportedModel, UsageError
from pintpot.meter.home import home
from pintpot.meter.overlap import matched_overlap, shared_probability, together
from pintpot.model.read import describe as read
from pintpot.model.spec import Model
from pintpot.runtime.kinds import Published, kind, kind_of, kinds
from pintpot.runtime.kinds._pictures import drawn, open_picture, prepared
from pintpot.runtime.kinds.vision import agreement as seen_alike
from pintpot.runtime.processors import processor_settings
from pintpot.techniques.quantize.as_stored import AsStored

BERT = transformers.BertConfig(
    vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
    max_position_embeddings=24, pad_token_id=0,
)  # fmt: skip
VIT = transformers.ViTConfig(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8,
    id2label={0: "cat", 1: "dog", 2: "mat"},
)  # fmt: skip


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save(transformers.BertModel(BERT), tmp_path_factory.mktemp("published") / "bert")
    save_tokenizer(folder)
    (folder / "modules.json").write_text(
        json.dumps([{"type": "a.b.Pooling", "path": "1_Pooling"}, {"type": "Normalize"}])
    )
    return folder


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(transformers.ViTForImageClassification(VIT), tmp_path_factory.mktemp("published") / "vit", PROCESSOR)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    found = []
    for seed in range(3):
        found.append(folder / f"{seed}.png")
        Image.fromarray(drawn(40 + 9 * seed, 60, seed)).save(found[-1])
    return found


@pytest.fixture(scope="module")
def recorded_vit(vit: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return recorded(vit, tmp_path_factory.mktemp("recorded") / "vit", batch=2)


def test_a_classifier_says_what_transformers_says(
    vit: Path, recorded_vit: Model, pictures: list[Path], tmp_path: Path
) -> None:
    processor = transformers.ViTImageProcessorPil.from_pretrained(vit)
    module = transformers.ViTForImageClassification.from_pretrained(vit)
    given = processor(images=[Image.open(path).convert("RGB") for path in pictures], return_tensors="pt")
    with torch.inference_mode():
        wanted = module(**given).logits.softmax(-1)
    with opened(recorded_vit, tmp_path, AsStored()) as session:
        found = list(session.ask(images=pictures))
        with pytest.raises(UsageError, match="takes --image"):
            session.ask(texts=["a cat"])
    assert [one.name for one in found] == [str(path) for path in pictures]
    for answer, shares in zip(found, wanted, strict=True):
        told = {one["label"]: one["probability"] for one in answer.data["classes"]}
        assert told == pytest.approx({VIT.id2label[at]: float(share) for at, share in enumerate(shares)}, abs=1e-5)
        assert answer.text.startswith(VIT.id2label[int(shares.argmax())])


def test_an_encoder_pools_as_sentence_transformers_does(bert: Path, tmp_path: Path) -> None:
    model = recorded(bert, tmp_path / "recorded", batch=2, tokens=8)
    texts = ["cat mat", "ba be bi bo bu by ca ce ci co", "dog"]
    with opened(model, tmp_path, AsStored()) as session:
        found = list(session.ask(texts=texts))
        assert (session.folder / "tokenizer.json").is_file()
    module = transformers.BertModel.from_pretrained(bert)
    ids = [[1, *(WORDS.index(word) if word in WORDS else 3 for word in text.split()[:6]), 2] for text in texts]
    for answer, row in zip(found, ids, strict=True):
        with torch.inference_mode():
            states = module(torch.tensor([row])).last_hidden_state[0]
        wanted = torch.nn.functional.normalize(states.mean(0), dim=0)
        assert answer.data["embedding"] == pytest.approx(wanted.tolist(), abs=1e-5)


def test_the_whole_path_by_one_command(bert: Path) -> None:
    packs = home() / "packs"
    before = set(packs.iterdir()) if packs.is_dir() else set()
    words = ["run", str(bert), "--text", "cat mat", "--text", "ba", "--context", "8", "--memory", "900MB", "--json"]
    done = subprocess.run([sys.executable, "-m", "pintpot", *words], stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    assert [one["text"] for one in found["answers"]] == ["cat mat", "ba"]
    assert all(len(one["embedding"]) == 32 for one in found["answers"])
    assert found["plan"]["parts"][0]["config"]["kind"]["tokens"] == 8
    (kept,) = (one for one in set(packs.iterdir()) - before if one.is_dir())
    proof = pintpot.prove(kept, runs=1)
    (cosine,) = proof.agreements
    assert (cosine.what, cosine.count) == ("cosine of embeddings", 16)
    assert 1 - cosine.mean == pytest.approx(proof.row("degradation").measured, abs=1e-6)
    assert proof.row("degradation").holds is not False
    assert "cosine of embeddings" in proof.report_path.read_text()
    with pytest.raises(UsageError, match="looks at no pictures"):
        pintpot.prove(kept, runs=1, images=[kept / "cat.png"])


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"image_processor_type": "LevitImageProcessor"}, 224),
        ({"image_processor_type": "PoolFormerImageProcessor", "crop_pct": 0.8}, 224),
        ({"image_processor_type": "EfficientNetImageProcessor", "rescale_offset": True}, 346),
        ({"image_processor_type": "MobileViTImageProcessor"}, 256),
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 96}}, 96),
        ({"image_processor_type": "ConvNextImageProcessor"}, 384),
        ({"image_processor_type": "RTDetrImageProcessor"}, 640),
        ({"image_processor_type": "CLIPImageProcessor"}, 224),
    ],
)
def test_pictures_become_what_transformers_makes_of_them(settings: dict[str, Any], size: int, tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    known = processor_settings(tmp_path)
    assert known is not None
    assert prepared(drawn(333, 500, 5), known).shape == (3, size, size)


def test_a_processor_that_does_more_is_refused(tmp_path: Path) -> None:
    unknown = {"image_processor_type": "DetrImageProcessor", "pad_size": {"height": 1400, "width": 1400}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(unknown))
    with pytest.raises(UnsupportedModel, match="DetrImageProcessor does with pictures what is not known"):
        processor_settings(tmp_path)


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.png").write_bytes(b"nothing of that kind")
    with pytest.raises(BadInput, match="no picture"):
        open_picture(tmp_path / "no.png")
    with pytest.raises(BadInput, match="cannot be read"):
        open_picture(tmp_path / "none.png")


def test_what_no_kind_feeds_is_named(tmp_path: Path) -> None:
    assert {"text", "vision"} <= set(kinds())
    strange = Published(tmp_path, "StrangeModel", "", {}, ("waves",))
    with pytest.raises(UnsupportedModel, match="StrangeModel, which takes waves"):
        kind_of(strange)
    with pytest.raises(UnsupportedModel, match="no kind of model"):
        kind("taste")


def test_damaged_folders_are_named(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(NoFamily, match="the architecture 'bert' does not run here"):
        read(str(bert))
    with pytest.raises(UsageError, match="at most 24 tokens"):
        recorded(bert, tmp_path / "long", tokens=25)
    config = json.loads((bert / "config.json").read_text())
    for name, change, why in (
        ("strange", {"architectures": ["NoSuchModel"]}, "has no architecture 'NoSuchModel'"),
        ("code", {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}, "code of the folder"),
        ("wide", {"hidden_size": 64}, "not of the shape|cannot build"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        for file in bert.glob("*.*"):
            (folder / file.name).symlink_to(file)
        (folder / "config.json").unlink()
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(BadInput, match=why):
            recorded(folder, tmp_path / f"{name}.recorded")
        assert not (tmp_path / f"{name}.recorded").exists()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(BadFile, match=r"no tokenizer\.json"):
        recorded(folder, tmp_path / "none")


def test_names_are_mapped_as_transformers_maps_them(bert: Path, tmp_path: Path) -> None:
    """A checkpoint of the whole model into its bare encoder: another prefix, and layers that it does not want."""
    whole = transformers.BertForMaskedLM(BERT)
    folder = save(whole, tmp_path / "whole")
    save_tokenizer(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    model = recorded(folder, tmp_path / "recorded", tokens=8)
    names = {weight.name for part in model.parts for weight in part.weights()}
    assert "encoder.layer.0.attention.self.query.weight" in names
    assert not any("pooler" in name or name.startswith("bert.") for name in names)
    ids = torch.arange(8).reshape(1, 8)
    given = {"input_ids": ids, "attention_mask": torch.tensor([[1] * 6 + [0] * 2])}
    with opened(model, tmp_path, AsStored()) as session, torch.inference_mode():
        torch.testing.assert_close(
            session(**given)["last_hidden_state"], whole.bert(**given).last_hidden_state, atol=1e-5, rtol=1e-4
        )


def test_measures_of_agreement() -> None:
    boxes, labels = [[0, 0, 2, 2], [4, 4, 6, 6], [8, 8, 9, 9]], [1, 1, 2]
    assert matched_overlap(boxes, labels, boxes, labels) == pytest.approx([1, 1, 1])
    moved = [[4, 4, 6, 6], [0, 0, 2, 1], [8, 8, 9, 9]]
    assert matched_overlap(boxes, labels, moved, [1, 1, 1]) == pytest.approx([0.5, 1, 0])
    assert shared_probability([[0.0, 0.0]], [[0.0, -100.0]]) == pytest.approx([0.5])
    about = {"task": "detect", "labels": ["a", "b"]}
    rng = np.random.default_rng(0)
    outputs = {"logits": rng.normal(size=(1, 20, 2)), "pred_boxes": rng.uniform(0.2, 0.4, (1, 20, 4))}
    turned = {name: one[:, ::-1] for name, one in outputs.items()}
    from pintpot.runtime.kinds import Batch

    batch = Batch({}, ("picture",))
    (same,) = seen_alike(about, Path(), batch, outputs, turned)
    assert same.mean == pytest.approx(1.0)
    assert together([same, same])[0].count == 2 * same.count


def test_what_was_recorded_is_planned_without_torch(recorded_vit: Model) -> None:
    code = f"import sys, pintpot; pintpot.describe({recorded_vit.source.path!r}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    assert done.stdout.split() == ["False"]
    assert pintpot.describe(recorded_vit.source.path) == recorded_vit

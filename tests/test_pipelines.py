"""diffusers' own pipelines over stages: equal pictures, one stage in memory at a time, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import known_home
from diffusers import DiTPipeline
from PIL import Image
from pipelines import MB, dit_folder, flux_folder, pixart_folder, sd_folder, staged

import pintpot
from pintpot.cli import cli
from pintpot.cli.draw import has_decoder
from pintpot.errors import DoesNotFit, PintpotError, UnsupportedModel, UsageError
from pintpot.meter.memory import resident_bytes
from pintpot.runtime.pipelines.keeper import Entry

ASKED = {"class_labels": [3, 7], "num_inference_steps": 3, "output_type": "pt"}


@pytest.fixture(scope="module", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    place = known_home(tmp_path_factory.mktemp("pipelines-home"), torch=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PINTPOT_HOME", str(place))
        yield


@pytest.fixture(scope="module")
def dit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dit") / "dit"
    dit_folder(folder)
    return folder


def asked(pipeline: Any, **call: Any) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(**call, generator=torch.Generator().manual_seed(5)).images


def test_a_transformer_and_a_decoder_draw_as_they_do_in_diffusers(dit: Path, tmp_path: Path) -> None:
    due = asked(DiTPipeline.from_pretrained(dit), **ASKED)
    pipeline = staged(dit, tmp_path)
    assert type(pipeline) is DiTPipeline
    torch.testing.assert_close(asked(pipeline, **ASKED), due, atol=2e-5, rtol=1e-4)
    rows = {row.stage: row for row in pipeline.keeper.receipt().rows}
    assert (rows["transformer"].num_calls, rows["vae.decode"].num_calls) == (3, 1)
    assert all(row.num_openings == 1 and row.num_bytes > MB for row in rows.values())
    torch.testing.assert_close(asked(pipeline, **ASKED), due, atol=2e-5, rtol=1e-4)
    assert [row.num_openings for row in pipeline.keeper.receipt().rows] == [1, 1]
    pipeline.keeper.close()


def test_a_promise_says_what_each_stage_takes_and_opens_none(dit: Path, tmp_path: Path) -> None:
    pipeline = staged(dit, tmp_path)
    told = pipeline.promise(**ASKED)
    assert [(row.stage, row.num_calls, row.num_openings) for row in told.rows] == [
        ("transformer", 3, 0),
        ("vae.decode", 1, 0),
    ]
    due = sum(row.promised_open_s.mid + row.num_calls * row.promised_call_s.mid for row in told.rows)
    assert told.promised_s.mid == pytest.approx(due)
    assert told.peak_bytes is None
    assert "transformer" in str(told)
    assert not list(tmp_path.iterdir())
    assert pipeline.keeper.entries == []


def test_a_stage_leaves_memory_where_the_next_would_not_fit(tmp_path: Path) -> None:
    theirs = dit_folder(tmp_path / "wide", width=384, layers=3)
    due = asked(theirs, **ASKED)
    del theirs
    roomy = staged(tmp_path / "wide", tmp_path)
    rows = {row.stage: row.num_bytes for row in roomy.promise(**ASKED).rows}
    assert rows["transformer"] > 40 * MB
    memory = roomy.keeper.memory_bytes - roomy.keeper.room_bytes(0) + max(rows.values()) + min(rows.values()) // 2
    pipeline = staged(tmp_path / "wide", tmp_path, memory=memory)
    seen: list[tuple[str, int]] = []
    opened = pipeline.keeper.open

    def watched(entry: Entry) -> Any:
        session = opened(entry)
        seen.append((entry.stage, resident_bytes()))
        return session

    pipeline.keeper.open = watched
    for _ in range(2):
        torch.testing.assert_close(asked(pipeline, **ASKED), due, atol=2e-5, rtol=1e-4)
        transformer, decoder = pipeline.keeper.entries
        assert (transformer.session, decoder.session is None) == (None, False)
    stages = [stage for stage, _ in seen]
    assert stages == (["transformer"] * 3 + ["vae.decode"]) * 2
    assert [row.num_openings for row in pipeline.keeper.receipt().rows] == [2, 2]
    held = [num_bytes for stage, num_bytes in seen if stage == "transformer"]
    left = [num_bytes for stage, num_bytes in seen if stage == "vae.decode"]
    assert held[-1] - left[-1] > 0.8 * (rows["transformer"] - rows["vae.decode"])
    pipeline.keeper.close()


def test_a_picture_by_one_command(
    dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert has_decoder(str(dit))
    assert not has_decoder(str(dit / "transformer"))
    monkeypatch.setattr(pintpot, "pipeline", lambda folder, progress, **asked: staged(Path(folder), tmp_path))
    words = ["run", str(dit), "--label", "3", "--label", "7", "--seed", "5", "--steps", "2", "--json"]
    assert cli.main([*words, "-o", str(tmp_path / "one.png")], standalone_mode=False) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(one["of"], one["seed"]) for one in told["answers"]] == [("label 3", 5), ("label 7", 6)]
    assert [row["num_calls"] for row in told["receipt"]["rows"]] == [4, 2]
    assert {Image.open(one["file"]).size for one in told["answers"]} == {(16, 16)}
    assert Image.open(tmp_path / "one.png").tobytes() != Image.open(tmp_path / "one-2.png").tobytes()
    with pytest.raises(UsageError, match="needs a place"):
        cli.main(words, standalone_mode=False)


def test_what_stages_cannot_do_is_said(dit: Path, tmp_path: Path) -> None:
    pipeline = staged(dit, tmp_path)
    with pytest.raises(UnsupportedModel, match="gives back a"):
        pipeline.vae.encode(torch.zeros(1, 3, 16, 16))
    with pytest.raises(DoesNotFit, match="a budget of 300 MB for a process that holds"):
        staged(dit, tmp_path, memory=300 * MB)
    with pytest.raises(UsageError, match="cannot be made of"):
        staged(dit, tmp_path, no_such_part=None)


@pytest.mark.parametrize(
    ("change", "error", "why"),
    [
        ({"_class_name": ["pipeline", "Mine"]}, UnsupportedModel, "code of a folder is never run"),
        ({"_class_name": "NoSuchPipeline"}, UnsupportedModel, "has no NoSuchPipeline"),
        ({"vae": ["my_module", "Decoder"]}, UnsupportedModel, "neither diffusers nor transformers"),
        ({"vae": ["diffusers", "NoSuchDecoder"]}, UnsupportedModel, "has no NoSuchDecoder"),
        ({"vae": ["diffusers", "UNet2DConditionModel"]}, UnsupportedModel, "cannot compute forward"),
    ],
)
def test_a_strangers_folder_brings_no_code(
    dit: Path, tmp_path: Path, change: dict[str, Any], error: type[PintpotError], why: str
) -> None:
    shutil.copytree(dit, tmp_path / "folder")
    index = tmp_path / "folder" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | change))
    with pytest.raises(error, match=why):
        pipeline = staged(tmp_path / "folder", tmp_path)
        pipeline.vae(torch.zeros(1, 4, 8, 8), torch.ones(1), torch.zeros(1, 4, 1280))


def test_text_a_convolutional_network_and_a_decoder(tmp_path: Path) -> None:
    folder = tmp_path / "sd"
    theirs = sd_folder(folder)
    call = {"prompt": "a cat", "negative_prompt": "dog", "num_inference_steps": 2, "output_type": "pt"}
    due = asked(theirs, **call)
    pipeline = staged(folder, tmp_path)
    torch.testing.assert_close(asked(pipeline, **call), due, atol=2e-5, rtol=1e-4)
    calls = {row.stage: row.num_calls for row in pipeline.keeper.receipt().rows}
    assert calls == {"text_encoder": 2, "unet": 2, "vae.decode": 1}


def test_a_flow_with_its_text_as_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "flux"
    theirs = flux_folder(folder)
    draw = torch.Generator().manual_seed(3)
    texts = {"prompt_embeds": torch.randn(1, 6, 32, generator=draw)}
    texts["pooled_prompt_embeds"] = torch.randn(1, 32, generator=draw)
    call = {**texts, "height": 16, "width": 16, "num_inference_steps": 2, "output_type": "pt"}
    due = asked(theirs, **call)
    torch.testing.assert_close(asked(staged(folder, tmp_path), **call), due, atol=2e-5, rtol=1e-4)


def test_a_transformer_that_attends_to_text(tmp_path: Path) -> None:
    folder = tmp_path / "pixart"
    theirs = pixart_folder(folder)
    draw = torch.Generator().manual_seed(3)
    call = {"prompt_embeds": torch.randn(1, 6, 32, generator=draw), "prompt_attention_mask": torch.ones(1, 6)}
    call |= {f"negative_{key}": one for key, one in call.items()}
    call |= {"prompt": None, "negative_prompt": None, "height": 16, "width": 16, "num_inference_steps": 2}
    call |= {"output_type": "pt", "use_resolution_binning": False}
    due = asked(theirs, **call)
    torch.testing.assert_close(asked(staged(folder, tmp_path), **call), due, atol=2e-5, rtol=1e-4)

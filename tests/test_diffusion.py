"""Networks that draw: the pictures of diffusers' own loop for equal seeds, planned by steps, compared in decibels."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import known_home
from diffusers import DDIMScheduler, DiTTransformer2DModel, FlowMatchEulerDiscreteScheduler, UNet2DModel
from modules import MB, opened, planned
from PIL import Image
from pipelines import drawn
from tree import ROOT

from pintpot.errors import BadInput, UnsupportedModel, UsageError
from pintpot.model.spec import Model
from pintpot.planner.explain import explain
from pintpot.runtime.asking import Running, answers, read
from pintpot.runtime.describing import describe
from pintpot.runtime.kinds import Given, kept
from pintpot.runtime.kinds.diffusion import DEFAULT_STEPS
from pintpot.runtime.pipelines.denoiser import network_folder, place_of, record_denoiser
from pintpot.techniques.quantize.as_stored import AsStored
from pintpot.techniques.quantize.round_to_nearest import RoundToNearest

STEPS = 5


@pytest.fixture(scope="module", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    place = known_home(tmp_path_factory.mktemp("diffusion-home"), torch=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PINTPOT_HOME", str(place))
        yield


@pytest.fixture(scope="module")
def net() -> DiTTransformer2DModel:
    torch.manual_seed(0)
    return drawn(
        DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=32,
            in_channels=1,
            num_layers=2,
            sample_size=8,
            patch_size=2,
            num_embeds_ada_norm=10,
        )
    )


def written(folder: Path, net: torch.nn.Module, schedule: object) -> Path:
    net.save_pretrained(folder / "transformer")
    schedule.save_pretrained(folder / "scheduler")
    parts = {"transformer": ["diffusers", type(net).__name__], "vae": [None, None]}
    parts["scheduler"] = ["diffusers", type(schedule).__name__]
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "DiTPipeline", **parts}))
    return folder


def described(folder: Path, **shapes: int) -> Model:
    """Recorded in this process."""
    record_denoiser(network_folder(folder), folder.name, shapes, place_of(folder, shapes))
    return describe(str(folder), None, shapes, None)


@pytest.fixture(scope="module")
def model(net: DiTTransformer2DModel, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return described(written(tmp_path_factory.mktemp("nets") / "dit", net, DDIMScheduler()), batch=2)


@torch.inference_mode()
def theirs(net: torch.nn.Module, schedule: object, labels: list[int], seeds: list[int], guidance: float) -> np.ndarray:
    """As diffusers' pipelines of this kind do it."""
    schedule.set_timesteps(STEPS)
    x = torch.cat([torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    asked = torch.tensor(labels)
    for t in schedule.timesteps:
        both = torch.cat([asked, torch.full_like(asked, 10)])
        one, free = net(torch.cat([x, x]), t.expand(len(both)), both).sample.chunk(2)
        x = schedule.step(free + guidance * (one - free), t, x).prev_sample
    return x.numpy()


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_pictures_are_those_of_diffusers(
    net: DiTTransformer2DModel, model: Model, tmp_path: Path, guidance: float
) -> None:
    given = Given(labels=(3, 7, 1), seed=11, steps=STEPS, guidance=guidance)
    due = theirs(net, DDIMScheduler(), [3, 7, 1], [11, 12, 13], guidance)
    with opened(model, tmp_path, AsStored()) as session:
        batches = list(read(session.plan.config, session.folder, given, "net"))
        found = list(answers(session, batches))
        kind, about = kept(session.plan.config)
        images = [kind.compute(about, Running(session), batch)["images"] for batch in batches]
    assert [one.data["seed"] for one in found] == [11, 12, 13]
    assert found[0].name == "label 3, seed 11"
    assert all(one.picture.shape == (8, 8) and one.picture.dtype == np.uint8 for one in found)
    np.testing.assert_allclose(np.concatenate(images)[:3], due, atol=1e-4, rtol=1e-4)


def test_a_flow_is_drawn_with_times_between_whole_ones(net: DiTTransformer2DModel, tmp_path: Path) -> None:
    schedule = FlowMatchEulerDiscreteScheduler(shift=2.0)
    flow = described(written(tmp_path / "flow", net, schedule))
    with opened(flow, tmp_path, AsStored()) as session:
        (batch,) = read(session.plan.config, session.folder, Given(labels=(4,), steps=STEPS), "net")
        kind, about = kept(session.plan.config)
        found = kind.compute(about, Running(session), batch)["images"]
    np.testing.assert_allclose(found, theirs(net, schedule, [4], [0], 1.0), atol=1e-3, rtol=1e-3)


def test_steps_are_the_workload(model: Model) -> None:
    plan = planned(model, AsStored())
    (stage,) = plan.cost.stages
    assert (plan.budget.workload.output, plan.budget.workload.task) == (DEFAULT_STEPS, "denoise")
    assert (stage.replays, plan.budget.workload.rate_unit) == (DEFAULT_STEPS, "steps/s")
    assert {row.what for row in explain(plan).speed} >= {"each step", "each picture"}
    assert plan.cost.total_s.mid == pytest.approx(DEFAULT_STEPS * plan.cost.per_token_s.mid)
    assert planned(model, AsStored(), output=7).cost.stages[0].replays == 7
    with pytest.raises(UsageError, match="has no prompt"):
        planned(model, AsStored(), prompt=7)


def test_packed_and_unpacked_are_compared_on_equal_seeds(model: Model, tmp_path: Path) -> None:
    kind, about = kept(model.parts[0].config)
    batches = list(kind.samples({**about, "repeats": STEPS}, tmp_path, Given()))
    assert sum(len(batch.names) for batch in batches) == 4
    drawn, vectors = {}, AsStored("vocabulary")
    packed = {"eight": (vectors, RoundToNearest("blocks", 8)), "four": (vectors, RoundToNearest("blocks", 4))}
    for name, steps in {"stored": (AsStored(),), **packed}.items():
        (tmp_path / name).mkdir()
        with opened(model, tmp_path / name, *steps) as session:
            drawn[name] = [kind.compute(about, Running(session), batch) for batch in batches]
    ratios = {}
    for name, found in drawn.items():
        agreed = [kind.agreement(about, tmp_path, *each) for each in zip(batches, drawn["stored"], found, strict=True)]
        ratios[name] = np.mean([one.mean for each in agreed for one in each if one.what == "PSNR of images"])
    assert ratios["stored"] == 100
    assert 100 > ratios["eight"] > ratios["four"] > 5


def test_what_cannot_be_drawn_is_said(model: Model, net: DiTTransformer2DModel, tmp_path: Path) -> None:
    config = model.parts[0].config
    with pytest.raises(BadInput, match="label 10; this model draws 0 to 9"):
        list(read(config, tmp_path, Given(labels=(10,)), "net"))
    with pytest.raises(UsageError, match="takes --label"):
        read(config, tmp_path, Given(texts=("seven",)), "net")
    unet = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(32,), norm_num_groups=8,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), layers_per_block=1,
    )  # fmt: skip
    unet.save_pretrained(tmp_path / "unet")
    with pytest.raises(UnsupportedModel, match=r"does not draw by a label; its pipeline runs by pintpot.pipeline"):
        described(tmp_path / "unet")


def test_a_digit_by_one_command(tmp_path: Path) -> None:
    how = ["--label", "7", "--seed", "1", "--steps", "12", "--guidance", "2", "--memory", "900MB", "--json"]
    words = ["run", str(ROOT / "examples" / "digits"), *how, "-o", str(tmp_path / "seven.png")]
    done = subprocess.run([sys.executable, "-m", "pintpot", *words], stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["answers"] == [
        {"label": 7, "seed": 1, "steps": 12, "guidance": 2.0, "file": str(tmp_path / "seven.png")}
    ]
    assert found["plan"]["budget"]["workload"]["output"] == 12
    pixels = np.asarray(Image.open(tmp_path / "seven.png"), np.float32)
    assert pixels.shape == (28, 28)
    # A digit is mostly black, with white strokes.
    assert np.median(pixels) < 20
    assert (pixels > 180).mean() > 0.03


def test_the_digits_are_small_and_alone() -> None:
    folder = ROOT / "examples" / "digits"
    sizes = {path.name: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    assert sum(sizes.values()) < 10 * MB
    assert sizes["diffusion_pytorch_model.safetensors"] > 4 * MB
    assert "CC BY-SA" in (folder / "README.md").read_text(encoding="utf-8")

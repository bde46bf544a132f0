"""Pictures among the words that weights are calibrated on, and how much rows of each count."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vlms
from numpy.typing import NDArray
from packing import FREE, MACHINE, opened, plan_of
from test_vlm_language import Eyes, pictures_of, prompt_of, words
from tiny import Tiny, write_hf

from pintpot.contract.statistics import InputStatistics, Sensitivity
from pintpot.contract.step import Step
from pintpot.errors import BadInput, DoesNotFit, NotApplicable, UsageError
from pintpot.formats.tiles import unpack
from pintpot.model.config_sections import axes_of
from pintpot.model.read import describe
from pintpot.model.spec import Model
from pintpot.model.store import Store
from pintpot.nets._decoder import ANGLES
from pintpot.packer.calibrate.calibrate import preparing
from pintpot.packer.calibrate.forward import BlockOps, Forward
from pintpot.packer.calibrate.modalities import sensitivities
from pintpot.packer.calibrate.prompts import Prompts
from pintpot.packer.manifest import read_manifest
from pintpot.packer.pack import write_pack
from pintpot.packer.packed_model import packed_model
from pintpot.packer.raw import WEIGHTS
from pintpot.planner.assess import assess
from pintpot.planner.calibrating import least_bytes
from pintpot.planner.names import WEIGHTS as WEIGHTS_HELD
from pintpot.planner.plan import Plan
from pintpot.planner.question import Question
from pintpot.runtime.pictures import Placed, picture_angles
from pintpot.techniques.batch.prefill_chunk import PrefillChunk
from pintpot.techniques.quantize.as_stored import AsStored
from pintpot.techniques.quantize.awq import Awq
from pintpot.techniques.quantize.gptq import Gptq
from pintpot.techniques.quantize.importance import ImportanceRounding
from pintpot.techniques.quantize.mbq import Mbq
from pintpot.techniques.quantize.round_to_nearest import RoundToNearest

Floats = NDArray[np.float32]
BASE: tuple[Step, ...] = (RoundToNearest("all", 4), PrefillChunk(tokens=16))
ROUNDED: tuple[Step, ...] = (*BASE, Gptq(sweeps=1))
TEXTS = np.random.default_rng(3).integers(3, 300, (3, 30)).tolist()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("modalities")


@pytest.fixture(scope="module", params=["llava", "qwen3_vl"])
def given(request: pytest.FixtureRequest, home: Path) -> tuple[vlms.Vlm, Model, Prompts]:
    """One without and one with sections of positions and rows for deeper layers, and prompts of its inputs."""
    vlm = vlms.make(request.param)
    model = describe(str(vlms.write(vlm, home / request.param)))
    return vlm, model, prompts_of(vlm, model)


def prompts_of(vlm: vlms.Vlm, model: Model) -> Prompts:
    """The inputs of a model as one prompt, its rows those that transformers makes of the pictures."""
    pictures = pictures_of(vlm, 0)
    eyes, tokens, placed = Eyes(vlm, pictures), prompt_of(vlm, pictures), Placed()
    placed.begin(pictures)
    turns, _ = placed.turns(tokens, 0)
    rows = {"given": eyes.rows, **{f"given.{at}": deeper for at, deeper in enumerate(eyes.deeper)}}
    with Store(model) as store:
        forward = Forward(model, store, 128, pictured=True)
    if "mrope_section" in model.part("language").config:
        table = forward.tables["rope"]
        axes = axes_of(model.part("language").config, table.shape[1] // 2)
        parts = [picture_angles(table, axes, placed.starts[one.first], one.grid) for one in pictures]
        rows[ANGLES] = np.concatenate(parts)
    else:
        turns = range(len(tokens))  # type: ignore[assignment]
    return Prompts((np.array(tokens),), (np.array(turns),), rows)


def test_the_float_network_with_pictures_is_that_of_transformers(given: tuple[vlms.Vlm, Model, Prompts]) -> None:
    vlm, model, prompts = given
    with Store(model) as store:
        forward = Forward(model, store, 128, pictured=True)
        states = forward.embedded([prompts.texts[0]], given=prompts.given)
        for block in forward.blocks:
            states = forward.run(block, {**forward.values(block), **prompts.memory(0)}, states, prompts.lengths)
        ours = forward.final(states) @ forward.weight("head").T
    theirs = vlms.logits(vlm)
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


def theirs_of(vlm: vlms.Vlm) -> dict[str, Sensitivity]:
    """Mean magnitudes of the gradients of each linear op's output, as torch's autograd has them."""
    import torch

    layers: dict[str, tuple[str, ...]] = {
        "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "o": ("self_attn.o_proj",),
        "gated": ("mlp.gate_proj", "mlp.up_proj"), "down": ("mlp.down_proj",),
    }  # fmt: skip
    text = vlm.module.model.language_model
    kept: dict[str, Any] = {}

    def keep(name: str) -> Any:
        def hook(module: Any, inputs: Any, out: Any) -> None:
            out.retain_grad()
            kept[name] = out

        return hook

    hooks = [vlm.module.lm_head.register_forward_hook(keep("head"))]
    for index, layer in enumerate(text.layers):
        for name in sum(layers.values(), ()):
            hooks.append(layer.get_submodule(name).register_forward_hook(keep(f"{index}.{name}")))
    ids = vlm.inputs["input_ids"][0]
    labels = torch.where(ids == vlms.IMAGE, -100, ids)[None]
    logits = vlm.module(**vlm.inputs).logits
    loss = torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=-100, reduction="sum")
    loss.backward()
    for hook in hooks:
        hook.remove()
    image = (ids == vlms.IMAGE).numpy()

    def of(*names: str) -> Sensitivity:
        size = np.concatenate([kept[name].grad[0].abs().numpy() for name in names], axis=-1)
        return Sensitivity(float(size[~image].mean()), float(size[image].mean()))

    found = {"head": of("head")}
    for index in range(len(text.layers)):
        found |= {f"{index}.{role}": of(*(f"{index}.{name}" for name in names)) for role, names in layers.items()}
    return found


def ours_of(model: Model, prompts: Prompts, folder: Path, threads: int = 1) -> dict[str, Sensitivity]:
    """The same by our own, under the same names."""
    folder.mkdir()
    told: list[float] = []
    with Store(model) as store:
        forward = Forward(model, store, max(prompts.lengths), pictured=True)
        found = sensitivities(forward, prompts, folder, threads, told.append)
        assert sensitivities(forward, prompts, folder, threads, told.append) == found, "kept"
        named = {str(forward.head.write("out")): "head"}
        for index, block in enumerate(forward.blocks):
            roles = ("qkv", "o", "gated", "down")
            linears = [str(op.write("out")) for op in block.ops if op.kind == "linear"]
            named |= {out: f"{index}.{role}" for out, role in zip(linears, roles, strict=True)}
    assert told == pytest.approx(np.linspace(0, 1, len(told) + 1)[1:])
    assert [one.name for one in folder.iterdir()] == ["modalities.found"]
    return {named[out]: one for out, one in found.items()}


def test_what_the_loss_moves_with_is_what_autograd_says(given: tuple[vlms.Vlm, Model, Prompts], tmp_path: Path) -> None:
    """To 0.1% of each mean, both being sums of float32; what is nothing at all is nothing for both."""
    vlm, model, prompts = given
    ours, theirs = ours_of(model, prompts, tmp_path / "a"), theirs_of(vlm)
    assert ours.keys() == theirs.keys()
    for name, one in theirs.items():
        assert ours[name].words == pytest.approx(one.words, rel=1e-3), name
        assert ours[name].pictures == pytest.approx(one.pictures, rel=1e-3, abs=1e-12), name
    ratios = [one.pictures / one.words for one in theirs.values()]
    assert min(ratios) < 0.5 * max(ratios), "layers differ"
    twice = prompts.beside(TEXTS)
    assert ours_of(model, twice, tmp_path / "b", threads=2) == ours, "texts of words alone are not asked"


def weights_of(plan: Plan, prepared: Any) -> dict[str, Floats]:
    forms = (weight for weight in plan.form.weights if weight.name in prepared.names)
    return {w.name: unpack(prepared.strips(w.name, 0, w.num_strips), w.format, w.shape[0], w.shape[1]) for w in forms}


def through(forward: Forward, block: BlockOps, values: Any, states: Floats) -> tuple[Floats, list[Floats]]:
    """The states after a block, and the rows that met its weights."""
    rows: list[Floats] = []
    return forward.run(block, values, states, [len(states)], lambda op, x: rows.append(x)), rows


def test_statistics_are_those_of_rows_that_count_by_their_modality(
    given: tuple[vlms.Vlm, Model, Prompts], tmp_path: Path
) -> None:
    """Beside plain sums in float64, over rows that come from rounded weights, weighed by what autograd says."""
    vlm, model, prompts = given
    prompts = prompts.beside(TEXTS)
    seen: dict[str, InputStatistics] = {}

    class Watching(Gptq):
        def round(self, weight, values, inputs):  # type: ignore[no-untyped-def]
            seen[weight.name] = inputs
            return super().round(weight, values, inputs)

    plan = plan_of(model, (*BASE, Mbq(), Gptq(correction=0.5)), given=48)
    watched = replace(plan, steps=tuple(Watching(correction=0.5) if type(s) is Gptq else s for s in plan.steps))
    with preparing(model, watched, tmp_path / "pack", prompts) as prepared:
        kept = weights_of(plan, prepared)
    ratios = {name: one.pictures / one.words for name, one in theirs_of(vlm).items()}
    met: dict[str, list[list[Floats]]] = {}
    with Store(model) as store:
        forward = Forward(model, store, 128, pictured=True)
        for text, tokens in enumerate(prompts.texts):
            rounded = floats = forward.embedded([tokens], given=prompts.given)
            for index, block in enumerate(forward.blocks):
                values = {**forward.values(block), **prompts.memory(text)}
                own = {**values, **{name: kept[name] for name in values if name in kept}}
                rounded, x = through(forward, block, own, rounded)
                floats, f = through(forward, block, values, floats)
                for role, *pair in zip(("qkv", "o", "gated", "down"), x, f, strict=True):
                    met.setdefault(f"{index}.{role}", []).append(pair)
            met.setdefault("head", []).append([forward.final(rounded), forward.final(floats)])
    names = {"qkv": "q", "o": "o", "gated": "up", "down": "down"}
    for key, texts in met.items():
        index, _, role = key.partition(".")
        found = seen["head" if key == "head" else f"layers.{index}.{names[role]}"]
        counts = np.concatenate([np.where(prompts.texts[at] < 0, ratios[key], 1.0) for at in range(len(texts))])
        x, f = (np.concatenate([pair[end] for pair in texts]).astype(np.float64) for end in (0, 1))
        share = counts / counts.sum()
        assert found.num_rows == len(x)
        for ours, theirs in (
            (found.second_moment, (x * share[:, None]).T @ x), (found.crossed, (f * share[:, None]).T @ x),
            (found.mean_abs, share @ np.abs(x)), (found.mean_square, share @ np.square(x)),
        ):  # fmt: skip
            assert ours is not None
            assert np.abs(ours - theirs).max() < 3e-3 * np.abs(theirs).max(), key


@pytest.mark.parametrize("rounding", [(Gptq(sweeps=1),), (Awq(), ImportanceRounding("blocks"))])
def test_a_pack_keeps_its_promise_and_is_another_one(
    rounding: tuple[Step, ...], given: tuple[vlms.Vlm, Model, Prompts], tmp_path: Path
) -> None:
    vlm, model, prompts = given
    pictures, found, sizes = pictures_of(vlm), {}, set()
    for name, steps in (("alike", rounding), ("balanced", (Mbq(), *rounding))):
        plan = plan_of(model, (*BASE, *steps), context=128, given=48)
        assert plan == Plan.from_json(json.loads(plan.dumps()))
        folder = write_pack(model, plan, tmp_path / name, texts=prompts.beside(TEXTS))
        sizes.add((plan.form, plan.cost.memory_high))
        priced = Question(packed_model(read_manifest(folder)[0]), MACHINE, plan.budget, FREE)
        assert assess(priced, plan.steps).cost.memory_high == plan.cost.memory_high, "on another machine, too"
        with opened(folder) as session:
            session.engine.look = Eyes(vlm, pictures)
            assert len(words(session, prompt_of(vlm, pictures), pictures, 8)) == 8
            promised = {holder.name: holder.high for holder in plan.cost.holders}
            assert session.held[WEIGHTS_HELD] - 4096 < promised[WEIGHTS_HELD], "whole pages"
        found[name] = (folder / WEIGHTS).read_bytes()
    assert found["alike"] != found["balanced"]
    assert len(found["alike"]) == len(found["balanced"])
    assert len(sizes) == 1, "neither bytes nor memory change"
    assert not [one for one in tmp_path.iterdir() if one.name.startswith(".")]


def test_where_nothing_can_be_weighed(given: tuple[vlms.Vlm, Model, Prompts], tmp_path: Path) -> None:
    model = given[1]
    plan = plan_of(model, (*BASE, Mbq(), Gptq()), given=48)
    with pytest.raises(UsageError, match="takes pictures to look at"):
        write_pack(model, plan, tmp_path / "pack", texts=TEXTS)
    kept = plan_of(model, (AsStored("all"), Mbq(), PrefillChunk(tokens=16)), given=48)
    write_pack(model, kept, tmp_path / "kept")  # where nothing is rounded nothing is weighed
    words_alone = describe(str(write_hf(tmp_path / "llama", Tiny())))
    with pytest.raises(NotApplicable, match="sees no pictures, so there are no rows of them"):
        plan_of(words_alone, (*BASE, Mbq(), Gptq()))
    assert Mbq.offers(model, MACHINE, plan.budget) == (), "what it brings was not shown on trained weights"
    assert Mbq().counts(Sensitivity(0.0, 0.0)) is None
    assert Mbq().counts(Sensitivity(0.5, 0.1)) == (1.0, pytest.approx(0.2))


def test_what_pictures_became_is_counted(given: tuple[vlms.Vlm, Model, Prompts], tmp_path: Path) -> None:
    _, model, prompts = given
    plan = plan_of(model, (*BASE, Mbq(), Gptq()), given=48)
    rows = sum(part.nbytes for part in prompts.rows.values())
    least = least_bytes(plan.form, plan.steps, plan.threads, max(prompts.lengths))
    for room, error in ((rows, None), (rows - 1, DoesNotFit)):
        budget = replace(plan.budget, memory_bytes=least + room)
        with nullcontext() if error is None else pytest.raises(error, match="calibrating needs"):
            write_pack(model, replace(plan, budget=budget), tmp_path / str(room), texts=prompts)


def test_prompts_come_back_from_their_file(given: tuple[vlms.Vlm, Model, Prompts], tmp_path: Path) -> None:
    prompts = given[2].beside(TEXTS)
    prompts.save(tmp_path / "prompts.npz")
    again = Prompts.load(tmp_path / "prompts.npz")
    assert again.digest() == prompts.digest()
    assert again.lengths == prompts.lengths
    assert (
        Prompts(again.texts, again.turns, {**again.rows, "given": again.rows["given"] + 1}).digest() != again.digest()
    )
    (tmp_path / "words.npz").write_bytes(b"no archive")
    np.savez(tmp_path / "other.npz", numbers=np.arange(3))
    for name in ("words.npz", "other.npz", "gone.npz"):
        with pytest.raises(BadInput, match="holds no prompts"):
            Prompts.load(tmp_path / name)

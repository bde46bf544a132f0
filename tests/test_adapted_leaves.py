"""Leaves of modules: convolutions and tables of words on packed rows, and what is left to PyTorch in float32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from modules import lacking, opened, planned, question_of
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

import pintpot
from pintpot.contract.form import source_form
from pintpot.errors import NotApplicable, UsageError
from pintpot.machine.null import null_machine
from pintpot.model.spec import Model
from pintpot.model.store import Store
from pintpot.packer.seen import seen_of
from pintpot.planner.space import all_offers
from pintpot.techniques.place.streamed import Streamed
from pintpot.techniques.quantize.as_stored import AsStored
from pintpot.techniques.quantize.gptq import Gptq
from pintpot.techniques.quantize.importance import ImportanceRounding
from pintpot.techniques.quantize.int8_activations import Int8Activations
from pintpot.techniques.quantize.left_in_float import LeftInFloat
from pintpot.techniques.quantize.round_to_nearest import RoundToNearest

CHANNELS = 20


class Reflected(nn.Module):
    """Layers of one picture: a padding that is no zeros, and a look at the answer that takes PyTorch's own order."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(CHANNELS, 8, 3, padding=1, padding_mode="reflect")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.one(x).view(x.shape[0], -1)


class Network(nn.Module):
    """Convolutions as networks have them: at the beginning, in groups, of one place, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 24, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(24)
        self.apart, self.points = nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.Conv2d(24, 40, 1)
        self.wide, self.head = nn.Conv2d(40, 48, 3, padding=1), nn.Linear(48, 10)
        nn.init.normal_(self.norm.running_mean, std=0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.hardswish(self.norm(self.first(x)))
        x = functional.relu(self.points(self.apart(x)))
        return self.head(functional.adaptive_avg_pool2d(functional.relu(self.wide(x)), 1).flatten(1))


class Words(nn.Module):
    """A table that is the head too, one that is not, and a layer that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(60, 32), nn.Embedding(16, 32)
        self.mix, self.head = nn.Linear(32, 32), nn.Linear(32, 60, bias=False)
        self.head.weight = self.words.weight
        self.register_buffer("order", torch.arange(16))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.words(ids) + self.places(self.order[: ids.shape[1]])
        return self.head(self.mix(torch.tanh(self.mix(x))))


PICTURE = (2, CHANNELS, 9, 7)
LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "plain": (lambda: nn.Conv2d(CHANNELS, 8, 3), PICTURE),
    "stepping": (lambda: nn.Conv2d(CHANNELS, 8, (3, 5), stride=(2, 1), padding=(1, 2), bias=False), PICTURE),
    "dilated": (lambda: nn.Conv2d(CHANNELS, 8, 3, padding="same", dilation=2), PICTURE),
    "one place": (lambda: nn.Conv2d(CHANNELS, 8, 1), PICTURE),
    "one place of four": (lambda: nn.Conv2d(CHANNELS, 8, 1, stride=2), PICTURE),
    "few channels": (lambda: nn.Conv2d(3, 8, 4, stride=4), (1, 3, 16, 12)),
    "one picture": (lambda: nn.Conv2d(CHANNELS, 8, 3), PICTURE[1:]),
    "sound": (lambda: nn.Conv1d(CHANNELS, 8, 3, stride=2, padding=1), (2, CHANNELS, 15)),
    "film": (lambda: nn.Conv3d(3, 8, (2, 4, 4), stride=(2, 4, 4)), (1, 3, 4, 8, 12)),
    "reflected": (Reflected, PICTURE),
}


def adapted(module: nn.Module, inputs: Any, folder: Path) -> Model:
    return pintpot.adapt(module.eval(), inputs, folder=folder / "adapted")


def weights(model: Model) -> list[str]:
    return [w.name for part in model.parts for w in part.weights() if len(w.shape) == 2]


def left(names: list[str], kept: str = "f32") -> LeftInFloat:
    return LeftInFloat(leaves=" ".join(names), kept=kept)


@pytest.mark.parametrize("name", LAYERS)
def test_a_convolution_gives_what_pytorch_gives(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    make, shape = LAYERS[name]
    layer, x = make(), torch.randn(shape)
    model = adapted(layer, x, tmp_path)
    assert len(weights(model)) == 1
    whole, rounded = (AsStored(),), (RoundToNearest("all", 8), Int8Activations())
    narrow = (AsStored(), left(weights(model), "bf16"))
    with torch.inference_mode():
        for number, steps in enumerate((whole, (AsStored(), left(weights(model))), rounded, narrow)):
            with opened(model, tmp_path / str(number), *steps) as session:
                for given in (x, x.flip(0)):
                    found, wanted = session(given), layer(given)
                    assert found.shape == wanted.shape
                    if steps in (rounded, narrow):
                        assert 1e-9 < lacking(found, wanted) < 3e-4
                    else:
                        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_the_matrix_of_a_convolution_has_the_channels_of_a_place_side_by_side(tmp_path: Path) -> None:
    layer = nn.Conv2d(3, 5, (2, 3))
    model = adapted(layer, torch.randn(1, 3, 6, 6), tmp_path)
    with Store(model) as store:
        found = torch.from_numpy(store.vector("weight")).reshape(5, 2, 3, 3)
    torch.testing.assert_close(found, layer.weight.detach().permute(0, 2, 3, 1))


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(2)
    return Network().eval()


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    return torch.randn(2, 3, 20, 20)


@pytest.fixture(scope="module")
def model(network: Network, picture: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return adapted(network, picture, tmp_path_factory.mktemp("network"))


def test_a_network_packed_streamed_and_left(
    network: Network, picture: torch.Tensor, model: Model, tmp_path: Path
) -> None:
    assert weights(model) == ["first.weight", "points.weight", "wide.weight", "head.weight"]
    with torch.inference_mode():
        wanted = network(picture)
    for bits, most in ((8, 1e-3), (4, 5e-2)):
        steps = (AsStored("vocabulary"), RoundToNearest("blocks", bits), Int8Activations())
        place = Streamed(resident_bytes=0, slot_bytes=16384, num_slots=4, in_flight=2)
        answers = []
        for name, more in (("whole", ()), ("streamed", (place,)), ("left", (left(["first.weight"]),))):
            with opened(model, tmp_path / f"{name}{bits}", *steps, *more) as session:
                answers.append(session(picture))
                assert (session.plan.form.disk_bytes > 0) == (name == "streamed")
        assert torch.equal(*answers[:2])
        assert not torch.equal(answers[0], answers[2])
        assert all(lacking(one, wanted) < most for one in answers)


def test_what_is_left_is_as_large_as_it_was_and_nothing_else_changes(model: Model) -> None:
    form = source_form(model).packed("all", lambda _: "sym8")
    promised = left(["wide.weight"]).promise(form)
    changed = promised.weights.by_name["wide.weight"]
    assert (changed.num_bytes, changed.is_matrix, changed.format) == (4 * 48 * 360, False, "f32")
    assert left(["wide.weight"]).promise(promised) == promised
    narrow = left(["wide.weight"], "bf16").promise(form).weights.by_name["wide.weight"]
    assert (narrow.num_bytes, narrow.is_matrix, narrow.format) == (2 * 48 * 360, False, "bf16")
    others = [w for w in promised.weights if w.name != "wide.weight"]
    assert others == [w for w in form.weights if w.name != "wide.weight"]


def test_leaves_with_many_rows_are_offered_first(model: Model, network: Network) -> None:
    plain = null_machine()
    offers = LeftInFloat.offers(model, plain, None)  # type: ignore[arg-type]
    sets = [set(offer.leaves.split()) for offer in offers]
    assert {"first.weight", "points.weight", "wide.weight"} in sets
    assert set(weights(model)) in sets
    assert len(str(offers[0])) < 60
    assert all(offer.kept == "f32" for offer in offers)
    cpu = replace(plain.cpu, features=(*plain.cpu.features, "amx_bf16"))
    more = LeftInFloat.offers(model, replace(plain, devices=(cpu,)), None)  # type: ignore[arg-type]
    assert [offer.leaves for offer in more] == 2 * [offer.leaves for offer in offers]
    assert {offer.kept for offer in more[len(offers) :]} == {"bf16"}
    with pytest.raises(NotApplicable, match="no leaves elsewhere"):
        left(["elsewhere"]).check(model, source_form(model))


def test_what_is_left_takes_its_bytes(model: Model) -> None:
    rounded = (RoundToNearest("all", 4), Int8Activations())
    small, large = planned(model, *rounded), planned(model, *rounded, left(["wide.weight"]))
    assert large.form.ram_bytes - small.form.ram_bytes > 3 * 48 * 360
    assert large.cost.stage("forward").multiply_adds == small.cost.stage("forward").multiply_adds


def test_tables_of_words_and_layers_that_are_used_twice(tmp_path: Path) -> None:
    torch.manual_seed(4)
    module, ids = Words().eval(), torch.randint(0, 60, (2, 8))
    model = adapted(module, ids, tmp_path)
    assert weights(model) == ["words.head", "places.embed", "mix.shared"]
    place = Streamed(resident_bytes=0, slot_bytes=16384, num_slots=4, in_flight=2)
    rounded = (RoundToNearest("blocks", 8), RoundToNearest("vocabulary", 8), Int8Activations())
    with torch.inference_mode():
        wanted, answers = module(ids), []
        for number, steps in enumerate(((AsStored(),), rounded, (*rounded, place), (AsStored(), left(weights(model))))):
            with opened(model, tmp_path / str(number), *steps) as session:
                answers.append(session(ids))
                by_name = session.plan.form.weights.by_name
                if place in steps:
                    assert by_name["places.embed"].ram_rows == by_name["words.head"].ram_rows == 0
                    assert by_name["mix.shared"].disk_bytes == 0
                with pytest.raises((UsageError, IndexError), match=r"word \d+ is not one of|out of range"):
                    session(ids + 60)
    plain = null_machine()
    narrow = replace(plain, devices=(replace(plain.cpu, features=("amx_bf16",)),))
    offers = [offer for offer in LeftInFloat.offers(model, narrow, None) if offer.kept == "bf16"]  # type: ignore[arg-type]
    assert offers
    assert all(offer.leaves == "mix.shared" for offer in offers)
    with pytest.raises(NotApplicable, match="tables of words"):
        planned(model, AsStored(), left(weights(model), "bf16"))
    torch.testing.assert_close(answers[0], wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(answers[3], wanted, atol=1e-5, rtol=1e-4)
    assert lacking(answers[1], wanted) < 1e-3
    assert torch.equal(answers[1], answers[2])


def test_formats_are_reached_by_what_meets_the_weights(tmp_path: Path) -> None:
    """Columns that inputs make large are rounded with more care, in linear layers and in convolutions."""
    torch.manual_seed(8)
    module = nn.Sequential(nn.Conv2d(24, 32, 3, padding=1), nn.Flatten(), nn.Linear(32 * 36, 8)).train()
    scale = torch.where(torch.arange(24) % 12 == 5, 30.0, 1.0)[:, None, None]
    x = torch.randn(4, 24, 6, 6) * scale
    model = pintpot.adapt(module, x, folder=tmp_path / "adapted")
    assert all(layer.training for layer in module.modules())
    found = seen_of(model)
    assert set(found) == {"0.weight", "2.weight"}
    torch.testing.assert_close(
        torch.from_numpy(found["0.weight"].mean_square), x.square().mean((0, 2, 3)).repeat(9), rtol=1e-4, atol=1e-4
    )
    steps = (AsStored("vocabulary"), RoundToNearest("blocks", 4))
    with torch.inference_mode():
        wanted = module(x)
        with opened(model, tmp_path / "nearest", *steps) as session:
            nearest = lacking(session(x), wanted)
        with opened(model, tmp_path / "gently", *steps, ImportanceRounding()) as session:
            gently = lacking(session(x), wanted)
    assert gently < 0.8 * nearest
    offered = {type(offer.step): offer.reason for offer in all_offers(question_of(model))}
    assert offered[ImportanceRounding] == ""
    assert "and no more" in offered[Gptq]


def test_a_module_without_values_is_not_run(tmp_path: Path) -> None:
    layer = nn.Linear(32, 32)
    save_file({key: one.detach() for key, one in layer.state_dict().items()}, tmp_path / "w.safetensors")
    with torch.device("meta"):
        empty = nn.Linear(32, 32)
    model = pintpot.adapt(empty, torch.randn(2, 32), weights=tmp_path / "w.safetensors", folder=tmp_path / "m")
    assert seen_of(model) == {}
    with pytest.raises(NotApplicable, match="without being run"):
        planned(model, RoundToNearest("all", 4), ImportanceRounding())

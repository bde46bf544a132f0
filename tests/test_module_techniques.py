"""Every technique over recorded modules of several kinds: promises made of work, reasons where it does not apply."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import pintpot
from pintpot.budget import Budget, Workload
from pintpot.contract.form import Weights, source_form
from pintpot.contract.slots import Slots
from pintpot.contract.step import Facet, Step, step_from_json
from pintpot.errors import NotApplicable
from pintpot.machine.null import null_machine
from pintpot.model.spec import Model
from pintpot.nets import family
from pintpot.program.layout import lay_out
from pintpot.program.ops import check
from pintpot.techniques import classes
from pintpot.techniques.place.streamed import Streamed
from pintpot.techniques.quantize.as_stored import AsStored

BUDGET = Budget(1_000_000_000, Workload(2, prompt=1, output=1, task="forward"))
WIDTH = 32


class Attending(nn.Module):
    """One layer of attention, with its scores in memory where it is spelled out."""

    def __init__(self, spelled_out: bool) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.spelled_out = spelled_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (one(x).unflatten(-1, (4, -1)).transpose(1, 2) for one in (self.q, self.k, self.v))
        if self.spelled_out:
            mixed = torch.softmax(q @ k.transpose(-1, -2) * 0.3, -1) @ v
        else:
            mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Convolved(nn.Module):
    """Convolutions whose results shrink, and a linear layer over their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.SiLU(), nn.Conv2d(16, 8, 3, 2, 1))
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.stage(x).mean((2, 3)))


KINDS = {
    "attention spelled out": (lambda: Attending(True), (2, 48, WIDTH)),
    "attention in one call": (lambda: Attending(False), (2, 48, WIDTH)),
    "convolutions": (Convolved, (1, 3, 40, 40)),
    "a linear layer": (lambda: nn.Linear(WIDTH, WIDTH), (4, WIDTH)),
}


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    build, shape = KINDS[request.param]
    return pintpot.adapt(build().eval(), torch.randn(*shape), folder=tmp_path_factory.mktemp("kind") / "m")


def offered(model: Model) -> list[Step]:
    steps = [step for cls in classes().values() for step in cls.offers(model, null_machine(), BUDGET)]
    return [*steps, Streamed(resident_bytes=1000, slot_bytes=1 << 20)]


def test_every_technique_applies_or_says_why(model: Model) -> None:
    """Those that are not offered are asked with the knobs they have by default."""
    steps = offered(model)
    for cls in classes().values():
        if not any(isinstance(step, cls) for step in steps):
            steps.append(cls())
    applied, reasons = 0, list[str]()
    for step in steps:
        form = source_form(model) if step.facet == Facet.FORMAT else AsStored().promise(source_form(model))
        assert step_from_json(json.loads(json.dumps(step.to_json())), classes()) == step
        part = model.parts[0]
        try:
            step.check(model, form)
            promised = step.promise(form)
            work = step.rewrite(family(part.family).work(part.config, promised, BUDGET.workload), promised)
        except NotApplicable as error:
            reasons.append(str(error))
            continue
        applied += 1
        assert isinstance(promised.weights, Weights)
        assert [w.name for w in promised.weights] == [w.name for w in form.weights]
        for program in work.programs():
            check(program)
        assert lay_out(work).sizes["buffers"] > 0
        step.install(Slots())
    assert applied >= 5
    assert all(len(reason.split()) >= 5 for reason in reasons), "a reason is a sentence"


def test_what_is_rewritten_is_offered_where_it_saves_memory_alone(model: Model) -> None:
    """A technique that changes how a module is computed, and no value, stands or falls with memory."""
    part, form = model.parts[0], AsStored().promise(source_form(model))
    whole = family(part.family).work(part.config, form, BUDGET.workload)
    for step in offered(model):
        if step.facet not in (Facet.ATTENTION, Facet.PATCHES):
            continue
        assert step.key is None
        assert step.promise(form) == form
        try:
            work = step.rewrite(whole, form)
        except NotApplicable:
            continue
        assert lay_out(work).sizes["buffers"] < lay_out(whole).sizes["buffers"]
        assert [stage.extents for stage in work.stages] == [stage.extents for stage in whole.stages]

"""The calls that a pack of a module makes are those of its Program, one after the other, and those of the module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from modules import opened, planned
from test_adapted import LENGTH, Net, Shuffled
from test_adapted_calls import LENGTH as STEPS
from test_adapted_calls import WIDTH, Picture, Recurrent, Seen
from test_adapted_leaves import Network, Words
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import pintpot
from pintpot.kernels.torch.bind import COPIES, writes_in_place
from pintpot.model.spec import Model
from pintpot.nets import adapted
from pintpot.planner.rebuild import rebuild_work
from pintpot.techniques.quantize.as_stored import AsStored
from pintpot.techniques.quantize.left_in_float import LeftInFloat

MODULES: dict[str, tuple[Any, Any]] = {
    "a layer of the user's own": (Net, lambda: torch.arange(2 * LENGTH).reshape(2, LENGTH) % 100),
    "alone": (lambda: nn.Sequential(Shuffled(WIDTH), nn.Linear(WIDTH, 4)), lambda: torch.randn(3, WIDTH)),
    "recurrent": (lambda: Recurrent(nn.GRU), lambda: torch.randn(2, STEPS, WIDTH)),
    "picture": (Picture, lambda: torch.randn(2, 3, 8, 8)),
    "seen": (Seen, lambda: torch.randn(2, STEPS, WIDTH)),
    "convolutions": (Network, lambda: torch.randn(2, 3, 20, 20)),
    "words": (Words, lambda: torch.randint(0, 60, (2, 8))),
}
LEAVES = {"addmm", "mm", "bmm", "embedding", "convolution"}
MOVED = {"clone", "_to_copy", "copy_", "empty", "zeros"}
"""What brings values into the order that a leaf reads them in."""
VIEWS = {"_unsafe_view", "unsafe_split", "unsafe_chunk"}


class Calls(TorchDispatchMode):
    """The names of all operators that compute something, as they are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        shares = any(one.alias_info is not None and not one.alias_info.is_write for one in func._schema.returns)
        name = func._schema.name.removeprefix("aten::")
        if not shares and name not in VIEWS and torch.Tag.inplace_view not in func.tags:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def due(model: Model, *steps: Any) -> Iterator[str]:
    """The calls of a Program; inputs are copied in before, and answers out after it."""
    plan, (stage,) = planned(model, *steps), model.parts[0].config["stages"]
    yield from ["copy_"] * len(stage["inputs"])
    for op in rebuild_work(plan).stages[0].programs[0].ops:
        if op.kind != "aten":
            continue
        yield "copy_" if op.get("call") in COPIES else op.get("call").partition(".")[0]
        if op.get("outs") and not writes_in_place(op):
            yield from ["copy_"] * len(op.get("outs"))
    yield from ["clone"] * len(list(adapted.leaves(stage["outputs"])))


@pytest.mark.parametrize("name", MODULES)
def test_what_is_called_is_what_was_recorded(name: str, tmp_path: Path) -> None:
    torch.manual_seed(6)
    make, example = MODULES[name]
    module, inputs = make().eval(), example()
    model = pintpot.adapt(module, inputs, folder=tmp_path / "adapted")
    weights = [w.name for part in model.parts for w in part.weights() if len(w.shape) == 2]
    for way, steps in {"packed": (), "left": (LeftInFloat(leaves=" ".join(weights)),)}.items():
        with opened(model, tmp_path / way, AsStored(), *steps) as session:
            session(inputs)
            with Calls() as called:
                session(inputs)
        assert called.names == list(due(model, AsStored(), *steps)), way


@pytest.mark.parametrize("name", [name for name in MODULES if name != "recurrent"])
def test_what_is_recorded_is_what_the_module_calls(name: str, tmp_path: Path) -> None:
    """A recurrence adds its biases in another way where tensors have values."""
    make, example = MODULES[name]
    module, inputs = make().eval(), example()
    model = pintpot.adapt(module, inputs, folder=tmp_path / "adapted")
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    torch._C._set_mkldnn_enabled(False)
    try:
        with Calls() as called, torch.no_grad():
            module(inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        torch._C._set_mkldnn_enabled(True)
    (stage,) = model.parts[0].config["stages"]
    recorded = [op["call"].partition(".")[0] for op in stage["ops"] if op["kind"] == "aten"]
    apart = LEAVES | MOVED
    assert [one for one in called.names if one not in apart] == [one for one in recorded if one not in apart]

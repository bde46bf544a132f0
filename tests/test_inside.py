"""Memory that PyTorch takes within its calls: what is counted for a call is what a process of its own grows by."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from modules import MB, opened, planned
from test_adapted_calls import call, program
from torch import nn, randn

import pintpot
from pintpot.planner.names import INSIDE
from pintpot.program.inside import inside_bytes
from pintpot.program.spec import Op
from pintpot.techniques.quantize.as_stored import AsStored

SLACK = 6 * MB
"""What the interpreter and its allocator may take beside."""
GROWN = """
import sys, torch
from pathlib import Path
sys.path[:0] = sys.argv[1:2]
from test_inside import CALLS
from pintpot.kernels.torch.bind import _bound
from pintpot.meter.memory import peak_bytes, resident_bytes
from pintpot.runtime.module import warm_up
torch.set_num_threads(1)
warm_up()
op = CALLS[sys.argv[2]]
class Memory:
    def view(self, name, view):
        dtype, sizes, strides, offset = view
        length = 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides))
        made = torch.ones(length, dtype=getattr(torch, dtype))
        return made.as_strided(sizes, strides)
with torch.inference_mode():
    run = _bound(op, Memory())
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_bytes()
    run()
    print(peak_bytes() - before)
"""
"""A peak is asked of the kernel anew before the call."""
LAST, FIRST, SIDE = (2, 64, 128, 128), (64, 64, 3, 3), 64 * 128 * 128
CONVOLVED = '[{"t": 0}, {"t": 1}, null, [1, 1], [1, 1], [1, 1], false, [0, 0], 1]'
CALLS: dict[str, Op] = {
    "convolution": call("convolution.default", LAST, FIRST, args=CONVOLVED, out=LAST),
    "layer norm": call(
        "native_layer_norm.default", (4096, 1024), (1024,), (1024,), out=(4096, 1024),
        args='[{"t": 0}, [1024], {"t": 1}, {"t": 2}, 1e-05]',
    ),
    "product": call("mm.default", (2048, 1024), (1024, 2048), out=(2048, 2048), multiply_adds=1.0),
    "sum": call("add.Tensor", (4096, 1024), (4096, 1024), out=(4096, 1024)),
    "softmax": call("_softmax.default", (4096, 1024), out=(4096, 1024), args='[{"t": 0}, -1, false]'),
    "lookup": call("embedding.default", (4096, 1024), out=(4096, 1024), args='[{"t": 0}, {"t": 0}]'),
}  # fmt: skip
MEASURED = ["convolution", "product", "sum", "softmax"]


@pytest.mark.parametrize("name", MEASURED)
def test_a_call_takes_no_more_than_is_counted(name: str) -> None:
    command = [sys.executable, "-c", GROWN, str(Path(__file__).parent), name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    counted = inside_bytes(program(CALLS[name]), 1)
    assert int(done.stdout) <= counted + SLACK, f"{done.stdout} bytes, counted {counted}"
    assert counted <= int(done.stdout) + 3 * SIDE * 4 * 2 + SLACK


def test_what_is_made_aside_is_counted() -> None:
    assert inside_bytes(program(CALLS["sum"]), 2) == 0
    assert inside_bytes(program(CALLS["layer norm"]), 2) == 4 * 4096 * 1024
    assert inside_bytes(program(CALLS["lookup"]), 2) == 4 * 4096 * 1024


def test_a_plan_names_it_and_holds(tmp_path: Path) -> None:
    model = pintpot.adapt(
        nn.Sequential(nn.Conv2d(8, 32, 3, padding=1, groups=8), nn.Conv2d(32, 4, 1)).eval(),
        randn(1, 8, 96, 96),
        folder=tmp_path / "adapted",
    )
    plan = planned(model, AsStored())
    held = next(holder for holder in plan.cost.holders if holder.name == INSIDE)
    assert (held.low, held.high) == (0, inside_of(plan))
    with opened(model, tmp_path, AsStored()) as session:
        session(randn(1, 8, 96, 96))


def inside_of(plan: pintpot.planner.plan.Plan) -> int:
    from pintpot.planner.rebuild import rebuild_work

    return max(inside_bytes(one, plan.threads) for one in rebuild_work(plan).programs())

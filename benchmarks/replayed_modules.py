"""Recorded modules beside PyTorch running them itself, in turn: what replaying costs, and what a plan brings.

    python benchmarks/replayed_modules.py [vit eager minilm mobilenet ...] [--rounds 15] [--small]

Weights are drawn. "replayed" leaves every product to PyTorch, so that only the recording and its memory differ;
"planned" is what a plan with room to spare chooses. Where that divides attention or a first stage, "whole" is the same
without: what divides must be no slower. "eager" is the vision transformer with its scores in memory; "calls" a chain of
200 sums of 64 values: microseconds a call. Answers are compared before anything is timed. As many threads as the plan
has, for both; medians, and the share of PyTorch's time. A minute on 2 cores.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import torch
from bench import Record, parser
from modules import planned as plan_of
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    EfficientNetConfig,
    EfficientNetModel,
    MobileNetV2Config,
    MobileNetV2Model,
    MobileViTConfig,
    MobileViTModel,
    ViTConfig,
    ViTModel,
)

import pintpot
from pintpot.contract.step import Facet
from pintpot.machine.aten import with_torch
from pintpot.machine.here import this_machine
from pintpot.machine.null import null_machine
from pintpot.model.spec import Model
from pintpot.packer.pack import write_pack
from pintpot.planner.assess import assess
from pintpot.planner.degradation import shipped_priors
from pintpot.planner.plan import Plan
from pintpot.planner.question import Question
from pintpot.runtime.module import open_module
from pintpot.techniques.quantize.as_stored import AsStored
from pintpot.techniques.quantize.left_in_float import LeftInFloat

NEAR = {"replayed": 1e-3, "planned": 0.4, "whole": 0.4}
"""Of the largest value, how far an answer may be off."""
SLOWER = 1.05
"""What is planned may take so much longer without being called slower: the machine drifts."""
DIVIDING = (Facet.ATTENTION, Facet.PATCHES)


class Sums(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for step in range(200):
            x = x + step
        return self.head(x)


class States(nn.Module):
    """A model of transformers whose answer is one tensor, with a linear layer behind it where it has none."""

    def __init__(self, model: Any, columns: int) -> None:
        super().__init__()
        self.model, self.head = model, nn.Linear(columns, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.model(x)[0])


def modules(small: bool) -> dict[str, Callable[[], tuple[nn.Module, torch.Tensor]]]:
    layers, pixels, words = (2, 96, 32) if small else (12, 224, 128)
    width = {"hidden_size": 384, "intermediate_size": 1536}
    vit = ViTConfig(**width, num_hidden_layers=layers, num_attention_heads=6, image_size=pixels, patch_size=16)
    eager = ViTConfig(**vit.to_dict())
    eager._attn_implementation = "eager"
    bert = BertConfig(**width, num_hidden_layers=min(layers, 6), num_attention_heads=12)
    mobile, vits = MobileNetV2Config(image_size=pixels), MobileViTConfig(image_size=pixels)
    efficient = EfficientNetConfig(image_size=pixels, width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280)

    def picture() -> torch.Tensor:
        return torch.randn(1, 3, pixels, pixels)

    return {
        "vit": lambda: (States(ViTModel(vit, add_pooling_layer=False), 384), torch.randn(1, 3, pixels, pixels)),
        "eager": lambda: (States(ViTModel(eager, add_pooling_layer=False), 384), picture()),
        "minilm": lambda: (States(BertModel(bert), 384), torch.randint(0, 1000, (1, words))),
        "mobilenet": lambda: (States(MobileNetV2Model(mobile), pixels // 32), torch.randn(1, 3, pixels, pixels)),
        "mobilevit": lambda: (States(MobileViTModel(vits, expand_output=False), pixels // 32), picture()),
        "efficientnet": lambda: (States(EfficientNetModel(efficient), pixels // 32), picture()),
        "calls": lambda: (Sums(), torch.randn(1, 64)),
    }


def settled(net: nn.Module, x: torch.Tensor) -> nn.Module:
    """Drawn layers make values ever smaller, until they are denormal and slow: its norms see some first."""
    norms = [one for one in net.modules() if isinstance(one, nn.BatchNorm2d)]
    for one in norms:
        one.momentum = 1.0
        one.train()
    if norms:
        with torch.no_grad():
            net(torch.cat([x, torch.randn_like(x)]))
    return net.eval()


def plans(model: Model, threads: int) -> dict[str, Plan]:
    """The plan that leaves every product to PyTorch, the one that is chosen, and that without what divides."""
    matrices = [w.name for part in model.parts for w in part.weights() if len(w.shape) == 2]
    found = {"replayed": plan_of(model, AsStored(), LeftInFloat(leaves=" ".join(matrices)))}
    found["planned"] = chosen = pintpot.plan(model, threads=threads)
    kept = tuple(step for step in chosen.steps if step.facet not in DIVIDING)
    if kept != chosen.steps:
        machine, torch_bytes = with_torch(this_machine(), True)
        question = Question(model, machine, chosen.budget, shipped_priors(model.kind), torch_bytes=torch_bytes)
        found["whole"] = assess(question, kept)
    return found


def far(given: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((given - wanted).abs().max() / wanted.abs().max())


def measured(
    name: str, net: nn.Module, x: torch.Tensor, asked: argparse.Namespace, record: Record, folder: Path
) -> dict[str, Any]:
    """Medians of seconds, ours as shares of PyTorch's own."""
    model = pintpot.adapt(net, x, folder=folder / "module")
    ways: dict[str, Callable[[torch.Tensor], Any]] = {"PyTorch": net}
    made = plans(model, asked.threads)
    for way, plan in made.items():
        pack = write_pack(model, plan, folder / f"pack {way}")
        ways[way] = open_module(pack, null_machine(), threads=asked.threads)
    with torch.inference_mode():
        wanted = net(x)
        for way, run in ways.items():
            for _ in range(3):
                off = far(run(x), wanted)
            if way in NEAR:
                record.verdict(f"{name}, {way}: off by", f"{off:.2g}", f"at most {NEAR[way]}", off <= NEAR[way])
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(asked.rounds):
            for way, run in ways.items():
                started = time.perf_counter()
                run(x)
                taken[way].append(time.perf_counter() - started)
    middle = {way: statistics.median(seconds) for way, seconds in taken.items()}
    steps = [str(step) for step in made["planned"].steps]
    return {"seconds": middle, "share": {way: middle[way] / middle["PyTorch"] for way in middle}, "steps": steps}


def main() -> int:
    options = parser(__doc__)
    options.add_argument("modules", nargs="*", help="which; all where none is named")
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--small", action="store_true", help="small pictures and few layers: a check that all runs")
    asked = options.parse_args()
    torch.manual_seed(1)
    torch.set_num_threads(asked.threads)
    record = Record("replayed_modules", fresh=asked.fresh)
    known = modules(asked.small)
    for name in asked.modules or known:
        net, x = known[name]()
        with tempfile.TemporaryDirectory() as scratch:
            found = measured(name, settled(net.eval(), x), x, asked, record, Path(scratch))
        record.keep(f"{name}{' small' if asked.small else ''}, {asked.threads} threads", found)
        each = ", ".join(f"{way} {1e3 * s:.2f} ms ({found['share'][way]:.2f})" for way, s in found["seconds"].items())
        calls = f"; {1e6 * found['seconds']['replayed'] / 201:.1f} us a call" if name == "calls" else ""
        record.say(f"{name}: {each}{calls}")
        record.say(f"    {', '.join(found['steps'])}")
        for other in ("PyTorch", "whole"):
            if name != "calls" and other in found["share"]:
                ratio = found["share"]["planned"] / found["share"][other]
                told = f"{name}: planned over {other}, seconds"
                record.verdict(told, f"{ratio:.2f}", f"at most {SLOWER}", ratio <= SLOWER)
    return record.finish()


if __name__ == "__main__":
    raise SystemExit(main())

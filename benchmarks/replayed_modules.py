"""Recorded modules beside PyTorch running them itself, in turn: what replaying costs, and what a plan brings.

    python benchmarks/replayed_modules.py [vit minilm mobilenet calls] [--rounds 15] [--small]

Weights are drawn. "replayed" leaves every product to PyTorch, so that only the recording and its memory differ;
"planned" is what a plan with room to spare chooses. "calls" is a chain of 200 sums of 64 values: microseconds a call.
Answers are compared before anything is timed. As many threads as the plan has, for both; medians, and the share of
PyTorch's time. Two minutes on 2 cores.
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
from transformers import BertConfig, BertModel, MobileNetV2Config, MobileNetV2Model, ViTConfig, ViTModel

import pintpot
from pintpot.machine.null import null_machine
from pintpot.model.spec import Model
from pintpot.packer.pack import write_pack
from pintpot.runtime.module import ModuleSession, open_module
from pintpot.techniques.quantize.as_stored import AsStored
from pintpot.techniques.quantize.left_in_float import LeftInFloat

NEAR = {"replayed": 1e-3, "planned": 0.2}
"""Of the largest value, how far an answer may be off."""


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
    bert = BertConfig(**width, num_hidden_layers=min(layers, 6), num_attention_heads=12)
    mobile = MobileNetV2Config(image_size=pixels)
    return {
        "vit": lambda: (States(ViTModel(vit, add_pooling_layer=False), 384), torch.randn(1, 3, pixels, pixels)),
        "minilm": lambda: (States(BertModel(bert), 384), torch.randint(0, 1000, (1, words))),
        "mobilenet": lambda: (States(MobileNetV2Model(mobile), pixels // 32), torch.randn(1, 3, pixels, pixels)),
        "calls": lambda: (Sums(), torch.randn(1, 64)),
    }


def opened(model: Model, folder: Path, threads: int, *, planned: bool) -> ModuleSession:
    """The pack of a plan, or of the one that leaves every product to PyTorch."""
    if planned:
        made = pintpot.plan(model, threads=threads)
    else:
        matrices = [w.name for part in model.parts for w in part.weights() if len(w.shape) == 2]
        made = plan_of(model, AsStored(), LeftInFloat(leaves=" ".join(matrices)))
    return open_module(write_pack(model, made, folder / f"pack {planned}"), null_machine(), threads=threads)


def far(given: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((given - wanted).abs().max() / wanted.abs().max())


def measured(
    name: str, net: nn.Module, x: torch.Tensor, asked: argparse.Namespace, record: Record, folder: Path
) -> dict[str, Any]:
    """Medians of seconds, ours as shares of PyTorch's own."""
    model = pintpot.adapt(net, x, folder=folder / "module")
    ways: dict[str, Callable[[torch.Tensor], Any]] = {"PyTorch": net}
    for way, planned in (("replayed", False), ("planned", True)):
        if name != "calls" or not planned:
            ways[way] = opened(model, folder, asked.threads, planned=planned)
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
    return {"seconds": middle, "share": {way: middle[way] / middle["PyTorch"] for way in middle}}


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
            found = measured(name, net.eval(), x, asked, record, Path(scratch))
        record.keep(f"{name}{' small' if asked.small else ''}, {asked.threads} threads", found)
        each = ", ".join(f"{way} {1e3 * s:.2f} ms ({found['share'][way]:.2f})" for way, s in found["seconds"].items())
        calls = f"; {1e6 * found['seconds']['replayed'] / 201:.1f} us a call" if name == "calls" else ""
        record.say(f"{name}: {each}{calls}")
    return record.finish()


if __name__ == "__main__":
    raise SystemExit(main())

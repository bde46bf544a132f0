"""What a module's activations take whole, in patches of its first stage (MCUNetV2), and with attention in slices.

    python benchmarks/working_memory.py [--size 224]

MobileNetV2 at a quarter of its width, and a vision transformer of 12 layers and 6 heads whose scores are in memory.
Memory is counted from the programs that would run, as plans count it, and needs no machine; that it is held is what
tests/test_patches.py and tests/test_sliced_attention.py ask of a process. Nothing is timed. A minute, no download.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from bench import Record, parser
from torch import nn
from transformers import MobileNetV2Config, MobileNetV2Model, ViTConfig, ViTModel

import pintpot
from pintpot.budget import Budget, Workload
from pintpot.contract.step import Step
from pintpot.machine.null import null_machine
from pintpot.model.spec import Model
from pintpot.planner.assess import assess
from pintpot.planner.degradation import Priors
from pintpot.planner.question import Question
from pintpot.planner.rebuild import rebuild_work
from pintpot.program.layout import step_bytes
from pintpot.techniques.attention.sliced import SlicedAttention
from pintpot.techniques.patches.patch_stage import PatchStage
from pintpot.techniques.quantize.as_stored import AsStored
from pintpot.techniques.quantize.left_in_float import LeftInFloat

MEGABYTE = 1e6


def mobile_net(size: int) -> nn.Module:
    return MobileNetV2Model(MobileNetV2Config(depth_multiplier=0.25, image_size=size), add_pooling_layer=False)


def transformer(size: int) -> nn.Module:
    config = ViTConfig(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, intermediate_size=1536, image_size=size,
        patch_size=14, attn_implementation="eager",
    )  # fmt: skip
    return ViTModel(config, add_pooling_layer=False)


MODULES: dict[str, tuple[Callable[[int], nn.Module], tuple[Step, ...]]] = {
    "MobileNetV2 0.25": (mobile_net, (PatchStage(side=2), PatchStage(side=4))),
    "ViT-S/14": (transformer, tuple(SlicedAttention(slices=count) for count in (2, 4, 8, 16))),
}


def taken(model: Model, *steps: Step) -> tuple[float, float]:
    """Megabytes of activations at the peak, and multiply-adds."""
    leaves = [op["weight"] for op in model.parts[0].config["stages"][0]["ops"] if "axes" in op]
    left = LeftInFloat(leaves=" ".join(dict.fromkeys(leaves)))
    budget = Budget(8_000_000_000, Workload(context=2, prompt=1, output=1, task="forward"), threads=1)
    question = Question(model, null_machine(), budget, Priors({}), torch_bytes=1)
    plan = assess(question, (AsStored(), left, *steps))
    return step_bytes(next(rebuild_work(plan).programs())) / MEGABYTE, plan.cost.stages[0].multiply_adds


def main() -> int:
    parse = parser(__doc__)
    parse.add_argument("--size", type=int, default=224, help="pixels of a picture's edge")
    asked = parse.parse_args()
    record = Record("working_memory", fresh=asked.fresh)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, (build, ways)) in enumerate(MODULES.items()):
            example = torch.randn(1, 3, asked.size, asked.size)
            model = pintpot.adapt(build(asked.size).eval(), example, folder=Path(folder) / str(number))
            whole, adds = taken(model)
            record.say(f"{name}, {asked.size} pixels: {whole:.2f} MB whole")
            for step in ways:
                found, more = taken(model, step)
                record.say(f"  {step}: {found:.2f} MB, {more / adds:.3f} of the multiply-adds")
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())

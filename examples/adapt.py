"""Adapt: a module of PyTorch with a layer of its own, recorded, packed, run inside a budget, and proved."""

import tempfile
from pathlib import Path

import torch

import pintpot


class Gain(torch.nn.Module):
    """A layer that no library knows."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gain + x.mean(-1, keepdim=True)


layer = torch.nn.TransformerEncoderLayer(256, nhead=4, batch_first=True)
module = torch.nn.Sequential(torch.nn.TransformerEncoder(layer, num_layers=2), Gain(256), torch.nn.Linear(256, 10))
module.eval()
example = torch.randn(1, 32, 256)

with tempfile.TemporaryDirectory() as scratch:
    model = pintpot.adapt(module, example)
    plan = pintpot.plan(model, memory="600MB")
    folder = pintpot.pack(model, plan, Path(scratch) / "packed")
    with pintpot.run(folder) as session:
        print("class", session(example).mean(1).argmax().item())
    proof = pintpot.prove(folder, runs=1)
    for row in proof.rows:
        measured = "not measured" if row.measured is None else f"{row.measured:.4g}"
        print(f"{row.what}: promised {row.promised_low:.4g} to {row.promised_high:.4g} {row.unit}, {measured}")

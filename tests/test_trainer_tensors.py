"""Tensors to and from a file: what safetensors reads, bit for bit, no second copy in memory, and damage told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pintpot.errors import BadFile, BadInput
from pintpot.trainer.tensors import read_tensors, write_tensors

WROTE = """
import sys, torch
from pathlib import Path
from pintpot.meter.memory import peak_bytes
from pintpot.trainer.tensors import read_tensors, write_tensors
found = {str(one): torch.full((1 << 20,), float(one)) for one in range(64)}
before = peak_bytes()
write_tensors(Path(sys.argv[1]), found, {}, lambda name, value: value + 1)
read_tensors(Path(sys.argv[1]), found)
assert all(bool((value == float(name) + 1).all()) for name, value in found.items())
print(peak_bytes() - before)
"""


def some() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    codes = torch.randint(0, 256, (3, 7), generator=draw).to(torch.uint8)
    return {"b.w": torch.randn(5, 4, generator=draw), "codes": codes, "a": torch.randn(9, generator=draw).view(3, 3)}


def test_safetensors_reads_what_is_written_and_the_other_way_round(tmp_path: Path) -> None:
    path, tensors = tmp_path / "x.safetensors", some()
    write_tensors(path, tensors, {"format": "pt"}, lambda name, value: value.t().reshape(value.shape))
    found = load_file(path)
    assert set(found) == set(tensors)
    assert all(torch.equal(found[name], value.t().reshape(value.shape)) for name, value in tensors.items())
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    save_file(tensors, path)
    blank = {name: torch.zeros_like(value) for name, value in tensors.items()}
    read_tensors(path, blank)
    assert all(torch.equal(blank[name], value) for name, value in tensors.items())


def test_neither_way_holds_everything_twice(tmp_path: Path) -> None:
    command = (sys.executable, "-c", WROTE, str(tmp_path / "x.safetensors"))
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown < 32 << 20, "one tensor has 4 MiB, all have 256"


def test_what_is_not_of_this_run_is_told(tmp_path: Path) -> None:
    path, tensors = tmp_path / "x.safetensors", some()
    with pytest.raises(BadInput, match="cannot read"):
        read_tensors(path, tensors)
    write_tensors(path, tensors)
    with pytest.raises(BadFile, match=r"has no a of shape \[4\]"):
        read_tensors(path, {"a": torch.zeros(4)})
    with pytest.raises(BadFile, match="has no c of"):
        read_tensors(path, {"c": torch.zeros(3, 3)})
    with pytest.raises(BadFile, match="has no codes of"):
        read_tensors(path, {"codes": torch.zeros(3, 7)})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadFile):
        read_tensors(path, tensors)

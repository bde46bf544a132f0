"""Recorded modules for tests: planned by steps that a test names, packed and opened, on the null machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pintpot.machine.null import null_machine
from pintpot.model.spec import Model
from pintpot.packer.pack import write_pack
from pintpot.planner.assess import assess
from pintpot.planner.defaults import make_budget
from pintpot.planner.degradation import shipped_priors
from pintpot.planner.plan import Plan
from pintpot.planner.question import Question
from pintpot.runtime.module import ModuleSession, open_module
from pintpot.techniques.quantize.left_in_float import LeftInFloat

MB = 1_000_000


def question_of(model: Model, memory: int = 600 * MB, **asked: Any) -> Question:
    machine = null_machine()
    budget = make_budget(model, machine, memory, memory_bytes=memory, degradation=1000.0, **asked)
    return Question(model, machine, budget, shipped_priors(model.kind), torch_bytes=300 * MB)


def planned(model: Model, *steps: Any, memory: int = 600 * MB, **asked: Any) -> Plan:
    return assess(question_of(model, memory, **asked), steps)


def opened(model: Model, folder: Path, *steps: Any, **asked: Any) -> ModuleSession:
    return open_module(write_pack(model, planned(model, *steps, **asked), folder / "pack"), null_machine())


def left(model: Model) -> LeftInFloat:
    """The step that leaves all convolutions of a module to PyTorch."""
    ops = [op for stage in model.parts[0].config["stages"] for op in stage["ops"]]
    return LeftInFloat(leaves=" ".join(dict.fromkeys(op["weight"] for op in ops if "axes" in op)))


def lacking(one: torch.Tensor, other: torch.Tensor) -> float:
    """1 minus the cosine."""
    return 1 - float(torch.nn.functional.cosine_similarity(one.double().flatten(), other.double().flatten(), dim=0))

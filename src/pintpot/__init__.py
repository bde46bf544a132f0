"""Pintpot: a neural model, the machine somebody has and a budget become a plan, a pack, a run, and a proof.

    import pintpot

    plan = pintpot.plan("model.gguf", memory="300MB")
    folder = pintpot.pack("model.gguf", plan, "packed")
    with pintpot.run(folder) as session:
        for piece in session.chat("Why is the sky blue?"):
            ...

Everything is imported when it is first used; planning, packing and running a language model import no torch.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pintpot.api import calibrate, describe, export, pack, plan, probe, prove, run
    from pintpot.budget import Budget, Workload
    from pintpot.contract.form import Form
    from pintpot.contract.step import Step
    from pintpot.errors import PintpotError
    from pintpot.hosting import serve
    from pintpot.machine.spec import Machine
    from pintpot.model.spec import Model
    from pintpot.nets._recorded import adapt
    from pintpot.pictures import pipeline
    from pintpot.planner.plan import Plan
    from pintpot.program.spec import Work
    from pintpot.proof.draw import frontier
    from pintpot.proof.proof import Proof
    from pintpot.runtime.request import Sampling
    from pintpot.runtime.session import Session
    from pintpot.trainer.tune import Tuned, tune

_HOMES = {
    "describe": "api", "probe": "api", "calibrate": "api", "plan": "api", "pack": "api", "run": "api", "prove": "api",
    "export": "api", "serve": "hosting", "pipeline": "pictures", "frontier": "proof.draw", "adapt": "nets._recorded",
    "tune": "trainer.tune", "Tuned": "trainer.tune", "Model": "model.spec", "Machine": "machine.spec",
    "Budget": "budget", "Workload": "budget", "Work": "program.spec", "Form": "contract.form", "Step": "contract.step",
    "Plan": "planner.plan", "Proof": "proof.proof", "Session": "runtime.session", "Sampling": "runtime.request",
    "PintpotError": "errors",
}  # fmt: skip

__all__ = [
    "Budget", "Form", "Machine", "Model", "PintpotError", "Plan", "Proof", "Sampling", "Session", "Step", "Tuned",
    "Work", "Workload", "adapt", "calibrate", "describe", "export", "frontier", "pack", "pipeline", "plan", "probe",
    "prove", "run", "serve", "tune",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pintpot' has no attribute {name!r}")
    if sys.platform != "linux":
        from pintpot.errors import UnsupportedPlatform

        raise UnsupportedPlatform(f"pintpot runs on Linux; this is {sys.platform}")
    value = getattr(importlib.import_module(f"pintpot.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

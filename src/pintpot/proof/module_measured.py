"""The measured run of a module's proof, in a process of its own: the pack opened, called, and its answers written."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from pintpot.errors import UsageError, need
from pintpot.machine.here import this_machine
from pintpot.meter.clock import median
from pintpot.meter.disk import traffic
from pintpot.meter.memory import peak_bytes, resident_bytes
from pintpot.runtime.module import open_module

SECONDS, FEWEST_CALLS, MOST_CALLS = 0.5, 3, 400
"""A run lasts so long, and has so many calls."""


class Answerer:
    """Requests: `opened`, `run`, `answers`. `examples` is a safetensors file of inputs; "" draws some."""

    def __init__(self, pack: Path, threads: str, examples: str = "") -> None:
        started = time.perf_counter()
        self._session = open_module(pack, this_machine(), threads=int(threads))
        self._open_s = time.perf_counter() - started
        self._resident = resident_bytes()
        self._inputs = read_inputs(Path(examples)) if examples else drawn_inputs(self._session.plan.config)

    def opened(self) -> dict[str, Any]:
        """Seconds and memory of the opening, by holder."""
        session = self._session
        direct = session.ring is None or session.ring.direct
        return {"open_s": self._open_s, "held": session.held, "notes": session.notes, "direct": direct}

    def run(self) -> dict[str, Any]:
        """Calls for half a second: the median of their seconds, bytes from disk, and the peak so far."""
        positional, named = self._inputs
        found: list[float] = []
        disk, end = traffic().read_bytes, time.perf_counter() + SECONDS
        while len(found) < FEWEST_CALLS or (time.perf_counter() < end and len(found) < MOST_CALLS):
            self._session(*positional, **named)
            found.append(self._session.seconds)
        return {
            "step_s": median(found),
            "disk_bytes_per_step": (traffic().read_bytes - disk) / len(found),
            "peak_bytes": peak_bytes(),
            "grown_bytes": resident_bytes() - self._resident,
        }

    def answers(self, path: str) -> dict[str, Any]:
        """What the pack gives for the examples: outputs by their place in the tree, as arrays in an .npz file."""
        import numpy as np

        positional, named = self._inputs
        found = dict(outputs(self._session(*positional, **named)))
        np.savez(path, allow_pickle=False, **{key: one.float().numpy() for key, one in found.items()})
        return {"peak_bytes": peak_bytes()}


Inputs = tuple[list[torch.Tensor], dict[str, torch.Tensor]]


def read_inputs(path: Path) -> Inputs:
    """Inputs as `adapt` kept them: those with numbers are arguments, in their order. Raises UsageError for none."""
    from safetensors.torch import load_file

    need(path.is_file(), f"{path} has no example inputs", UsageError)
    return _split(load_file(path))


def drawn_inputs(config: Any) -> Inputs:
    """Inputs of the recorded shapes whose values mean nothing: zeros, which every table of words has."""
    shapes = {item["name"]: (item["sizes"], getattr(torch, item["dtype"])) for item in config["inputs"]}
    return _split({name: torch.zeros(sizes, dtype=dtype) for name, (sizes, dtype) in shapes.items()})


def _split(found: dict[str, torch.Tensor]) -> Inputs:
    places = sorted((name for name in found if name.isdecimal()), key=int)
    return [found[name] for name in places], {name: one for name, one in found.items() if not name.isdecimal()}


def outputs(tree: Any, at: str = "") -> list[tuple[str, torch.Tensor]]:
    """The tensors of an answer, each with its place."""
    if isinstance(tree, torch.Tensor):
        return [(at or "answer", tree)]
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, tuple) else ()
    return [found for key, one in items for found in outputs(one, f"{at}.{key}" if at else str(key))]

"""The measured run of a module's proof, in a process of its own: the pack opened, called, and its answers written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pintpot.errors import UsageError, need
from pintpot.machine.here import this_machine
from pintpot.meter.clock import median
from pintpot.meter.disk import traffic
from pintpot.meter.memory import peak_bytes, resident_bytes
from pintpot.model.adapted import EXAMPLES, STAGE, example_name
from pintpot.model.joined import part_folder
from pintpot.model.spec import Part
from pintpot.proof.module_batches import computed, read_batches, write_arrays
from pintpot.runtime.asking import Running
from pintpot.runtime.module import open_module, stages_of
from pintpot.runtime.own_code import built

SECONDS, FEWEST_CALLS, MOST_CALLS = 0.5, 3, 400
"""A run lasts so long, and has so many calls."""
SETTLED_S = 0.02
"""A disk that gave nothing for so long is asked for nothing."""


class Answerer:
    """Requests: `opened`, `run`, `answers`. `code` names what builds the user's module, `examples` is the folder that
    has inputs; "" draws some.

    A run is about the last stage, which gives an answer with each call; those before it are called once for it.
    """

    def __init__(self, pack: Path, threads: str, code: str = "", examples: str = "") -> None:
        started = time.perf_counter()
        self._session = open_module(pack, this_machine(), threads=int(threads), module=built(code))
        self._open_s = time.perf_counter() - started
        self._resident = resident_bytes()
        parts = self._session.plan.parts
        self._inputs = read_inputs(Path(examples), parts) if examples else drawn_inputs(parts)

    def opened(self) -> dict[str, Any]:
        """Seconds and memory of the opening, by holder."""
        session = self._session
        direct = session.ring is None or session.ring.direct
        return {"open_s": self._open_s, "held": session.held, "notes": session.notes, "direct": direct}

    def run(self) -> dict[str, Any]:
        """Calls for half a second: the median of their seconds, bytes from disk, and the peak so far."""
        self._session.reset()
        *before, last = self._inputs
        for stage in before:
            self._call(stage)
        found: list[float] = []
        disk, end = self._read_bytes(), time.perf_counter() + SECONDS
        while len(found) < FEWEST_CALLS or (time.perf_counter() < end and len(found) < MOST_CALLS):
            self._call(last)
            found.append(self._session.stage(last).seconds)
        return {
            "step_s": median(found),
            "disk_bytes_per_step": (self._read_bytes() - disk) / len(found),
            "peak_bytes": peak_bytes(),
            "grown_bytes": resident_bytes() - self._resident,
        }

    def answers(self, path: str, inputs: str = "", names: list[list[str]] | None = None) -> dict[str, Any]:
        """What the pack gives for the examples: outputs by their place in the tree, as arrays in an .npz file.

        For `inputs`, batches of a kind in such a file, what it makes of each, batch by batch.
        """
        import numpy as np

        if inputs:
            batches = read_batches(Path(inputs), names or [])
            write_arrays(Path(path), computed(self._session.plan.config, batches, Running(self._session)))
            return {"peak_bytes": peak_bytes()}
        self._session.reset()
        found = {key: one for stage in self._inputs for key, one in outputs(self._call(stage), stage_place(stage))}
        np.savez(path, allow_pickle=False, **{key: one.float().numpy() for key, one in found.items()})
        return {"peak_bytes": peak_bytes()}

    def _read_bytes(self) -> int:
        """Bytes from disk so far; where weights stream, once nothing more is read ahead."""
        before, now = -1, traffic().read_bytes
        while self._session.ring is not None and now != before:
            time.sleep(SETTLED_S)
            before, now = now, traffic().read_bytes
        return now

    def _call(self, stage: str) -> Any:
        positional, named = self._inputs[stage]
        return self._session.stage(stage)(*positional, **named)


Inputs = dict[str, tuple[list[torch.Tensor], dict[str, torch.Tensor]]]
"""Of each stage, in their order, its arguments and keywords."""


def read_inputs(source: Path, parts: Sequence[Part]) -> Inputs:
    """Inputs as `adapt` kept them: those with numbers are arguments, in their order. Raises UsageError for none.

    `source` is the folder of a recorded module, or of a model with several parts.
    """
    from safetensors.torch import load_file

    given: Inputs = {}
    for part in parts:
        path = part_folder(source, part.name) / EXAMPLES
        need(path.is_file(), f"{path} has no example inputs", UsageError)
        found = load_file(path)
        for _, stage in stages_of((part,)):
            due = {item["name"]: example_name(stage["name"], item["name"]) for item in stage["inputs"]}
            lacking = [name for name in due.values() if name not in found]
            need(not lacking, f"{path} has no example inputs for {', '.join(lacking)}", UsageError)
            given[part.prefix + stage["name"]] = _split({name: found[key] for name, key in due.items()})
    return given


def drawn_inputs(parts: Sequence[Part]) -> Inputs:
    """Inputs of the recorded shapes whose values mean nothing: zeros, which every table of words has."""
    return {
        part.prefix + stage["name"]: _split(
            {item["name"]: torch.zeros(item["sizes"], dtype=getattr(torch, item["dtype"])) for item in stage["inputs"]}
        )
        for part, stage in stages_of(parts)
    }


def stage_place(stage: str) -> str:
    """Where the outputs of a stage stand among those of all: in a module of one stage they are all there is."""
    return "" if stage == STAGE else stage


def _split(found: dict[str, torch.Tensor]) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    places = sorted((name for name in found if name.isdecimal()), key=int)
    return [found[name] for name in places], {name: one for name, one in found.items() if not name.isdecimal()}


def outputs(tree: Any, at: str = "") -> list[tuple[str, torch.Tensor]]:
    """The tensors of an answer, each with its place."""
    if isinstance(tree, torch.Tensor):
        return [(at or "answer", tree)]
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, tuple) else ()
    return [found for key, one in items for found in outputs(one, f"{at}.{key}" if at else str(key))]

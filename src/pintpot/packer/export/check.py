"""What is asked before and after an export: can others compute what this pack computes, and is the file whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pintpot.errors import BadInput, BadPack, UnsupportedModel, UsageError, need
from pintpot.model.read import describe
from pintpot.packer.manifest import Manifest
from pintpot.planner.rebuild import rebuild_work

_OPS = frozenset({"embed", "linear", "attend", "select", "sample", "fetch", "route", "experts"})
_PROLOGUES = frozenset({"none", "rmsnorm", "swiglu"})
_TOLD_ELSEWHERE = frozenset(
    {"model_type", "rope_layout", "rope_scaling", "bos_token_id", "eos_token_id", "attention_bias"}
)
"""Keys that another container may tell in other words."""
_CLOSE = 1e-6


def check_exportable(folder: Path, manifest: Manifest) -> None:
    """Raise UnsupportedModel where a step of the plan made the network one that no other program computes."""
    plan = manifest.plan
    try:
        work = rebuild_work(plan)
    except (KeyError, TypeError, ValueError, ArithmeticError, UsageError) as error:
        raise BadPack(f"{folder}: its plan makes no program: {error!r}") from error
    for program in work.programs():
        for op in program.ops:
            known = op.kind in _OPS and (op.kind != "linear" or op.get("prologue") in _PROLOGUES)
            known = known and not op.get("rotate")
            steps = ", ".join(str(step) for step in plan.steps)
            need(known, f"{op.kind} is computed by no other program; the plan's steps are {steps}", UnsupportedModel)


def notes_of(manifest: Manifest, kind: str) -> list[str]:
    """What the pack does that is no property of its weights, and so stays behind."""
    form, config = manifest.plan.form, manifest.plan.config
    notes = []
    if form.cache.window:
        notes.append(f"the plan's cache window of {form.cache.window} tokens is not part of the weights")
    if kind == "gguf" and config["sliding_window"] and config["model_type"] in ("llama", "mistral", "mixtral"):
        notes.append(f"llama.cpp does not apply this model's sliding window of {config['sliding_window']} tokens")
    return notes


def read_back(path: Path, manifest: Manifest) -> None:
    """Read an exported model's headers as anybody would. Raises BadPack where it is not the model of the pack."""
    try:
        model = describe(str(path), offline=True)
    except BadInput as error:
        raise BadPack(f"what the pack holds makes no model: {error}") from error
    found, due = model.part("language").config, manifest.plan.config
    wrong = [key for key in due if key not in _TOLD_ELSEWHERE and not _same(found, due, key)]
    need(not wrong, f"the pack's metadata tell another model: {', '.join(wrong)} differ", BadPack)


def _same(found: Mapping[str, Any], due: Mapping[str, Any], key: str) -> bool:
    one, other = found.get(key), due[key]
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=_CLOSE)
    return bool(one == other)

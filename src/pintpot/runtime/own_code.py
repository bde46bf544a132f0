"""The module whose code a pack's measured blocks are: the user's own object, or what a name that the user gave builds.

No pack and no folder says which code that is. A proof's processes import it by name, as the user's own program does.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from pintpot.errors import UsageError, need
from pintpot.kernels.torch.bind import Blocks, Call, Memory
from pintpot.kernels.torch.own_blocks import KNOWN, bind_block
from pintpot.nets.adapted import measured_blocks
from pintpot.planner.plan import Plan
from pintpot.program.spec import Op
from pintpot.runtime.pipelines.building import parameters_on_meta

HOW = "as module=, a torch module of the same class"


def blocks_of(folder: Path, plan: Plan, module: nn.Module | None) -> Blocks:
    """What binds a plan's measured blocks: to `module`, or to the one that this process adapted.

    Raises UsageError where there are such blocks and nobody's code for them.
    """
    found = module if module is not None else KNOWN.get(plan.model_digest)
    measured = [path for part in plan.parts for path in measured_blocks(part.config)]

    def bind(op: Op, memory: Memory) -> Call:
        if found is None:
            raise UsageError(
                f"{folder}: {', '.join(measured[:3])} were measured and not recorded; give their code {HOW}"
            )
        return bind_block(op, found, memory)

    return bind


def code_of(module: str | Callable[[], nn.Module] | None) -> str:
    """What builds a module, as text for other processes: "package.module:name", or a function or class of that name.

    Raises UsageError for what has no such name.
    """
    if module is None:
        return ""
    if not isinstance(module, str):
        known = inspect.isfunction(module) or inspect.isclass(module)
        named = known and module.__module__ != "__main__" and "<" not in module.__qualname__
        need(
            named,
            "a proof has processes of its own: give module= a function or class of a file of its own that builds your "
            'module, or its name, such as "mynets:build"',
            UsageError,
        )
        module = f"{module.__module__}:{module.__qualname__}"
    need(":" in module, f"{module!r:.60} is no name such as mynets:build", UsageError)
    return json.dumps({"name": module, "path": sys.path})


def built(code: str) -> nn.Module | None:
    """The module that `code_of` named, without values; None for "". Raises UsageError where there is none."""
    if not code:
        return None
    asked = json.loads(code)
    sys.path[:] = [*sys.path, *(one for one in asked["path"] if one not in sys.path)]
    place, _, name = asked["name"].partition(":")
    try:
        found: Any = importlib.import_module(place)
    except ImportError as error:
        raise UsageError(f"{asked['name']} cannot be imported: {error}") from error
    for part in name.split("."):
        found = getattr(found, part, None)
    need(callable(found), f"{place} has no {name} that could be called", UsageError)
    with parameters_on_meta():
        made = found()
    need(isinstance(made, nn.Module), f"{asked['name']} gives a {type(made).__name__}, and no torch module", UsageError)
    module: nn.Module = made
    return module

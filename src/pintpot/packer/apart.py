"""Packing in a process of its own, so that what it takes is known, and nothing of it stays in the caller's memory.

`python -m pintpot.packer.apart` reads one JSON request and answers with JSON lines: how far it is, and how it ended.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pintpot.errors import DoesNotFit, PintpotError, error_named
from pintpot.model.spec import Model
from pintpot.planner.plan import Plan

Progress = Callable[[int, int], None]
_KILLED = -9


def pack_apart(model: Model, plan: Plan, folder: Path, progress: Progress | None = None) -> Path:
    """As `write_pack`, elsewhere. Raises what it raises, and DoesNotFit where the process was killed."""
    request = {"model": model.source.path, "plan": plan.without_reasons().to_json(), "folder": str(folder.absolute())}
    command, pipe = [sys.executable, "-m", "pintpot.packer.apart"], subprocess.PIPE
    # In a group of its own: Ctrl-C is for this process, and that one ends when nobody listens any more.
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, process_group=0) as process:
        try:
            return _follow(process, json.dumps(request), progress)
        finally:
            if process.poll() is None:
                process.terminate()


def _follow(process: subprocess.Popen[str], request: str, progress: Progress | None) -> Path:
    if process.stdin is None or process.stdout is None:
        raise PintpotError("the packing process has no pipes")
    process.stdin.write(request + "\n")
    process.stdin.flush()
    for line in process.stdout:
        answer = json.loads(line)
        if "folder" in answer:
            process.wait()
            return Path(answer["folder"])
        if "error" in answer:
            raise error_named(answer["kind"])(answer["error"])
        if progress is not None:
            progress(answer["done"], answer["total"])
    code = process.wait()
    if code == _KILLED:
        raise DoesNotFit("the packing process was killed, most likely for its memory")
    raise PintpotError(f"the packing process ended with code {code}")


def main() -> None:
    """Pack what standard input asks for."""
    request = json.loads(sys.stdin.readline())
    _tell(_packed(request))


def _packed(request: dict[str, Any]) -> dict[str, Any]:
    from pintpot.model.read import describe
    from pintpot.packer.pack import write_pack

    try:
        model, plan = describe(request["model"]), Plan.from_json(request["plan"])
        folder = write_pack(model, plan, Path(request["folder"]), _tell_progress)
    except PintpotError as error:
        return {"kind": type(error).__name__, "error": str(error)}
    return {"folder": str(folder)}


def _tell_progress(done: int, total: int) -> None:
    _tell({"done": done, "total": total})


def _tell(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

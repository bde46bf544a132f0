"""The processes of a proof: each does one thing inside the budget, asked line by line, so that they can take turns.

`python -m pintpot.proof.worker KIND PACK` reads one JSON request a line and answers with one JSON line. Lines before it
may say how far it is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from pintpot.errors import DoesNotFit, PintpotError, error_named

Told = Callable[[float], object]
_SHARE = "share "
KILLED = (-9, 137)
"""How a killed process ends, and how a shell says that one of its own was."""


def _nobody(share: float) -> None:
    """Nobody asked how far it is."""


class Worker:
    """A process of a proof, seen from outside. A context manager; `ask` waits for the answer."""

    def __init__(self, kind: str, pack: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "pintpot.proof.worker", kind, str(pack), *arguments]
        pipe = subprocess.PIPE
        self.kind = kind
        self._process = subprocess.Popen(
            # In a group of its own: Ctrl-C is for this process, which then ends that one.
            command,
            stdin=pipe,
            stdout=pipe,
            text=True,
            process_group=0,
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10 if kind is None else 0.5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait. Raises the worker's own error here, DoesNotFit where it was killed."""
        return self.follow(what, _nobody, **arguments)

    def follow(self, what: str, told: Told, /, **arguments: Any) -> dict[str, Any]:
        """As `ask`; `told` hears which share is done."""
        answer: dict[str, Any] = ask(self._process, self.kind, {"what": what, **arguments}, told)
        return answer


def ask(process: subprocess.Popen[str], kind: str, request: dict[str, Any], told: Told = _nobody) -> Any:
    """A line to a process of some kind, and its answer. Raises the error in it, DoesNotFit where it was killed."""
    if process.stdin is None or process.stdout is None:
        raise PintpotError(f"the {kind} process has no pipes")
    try:
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        while line.startswith(_SHARE):
            told(float(line.removeprefix(_SHARE)))
            line = process.stdout.readline()
    except BrokenPipeError:
        line = ""
    if not line:
        code = process.wait()
        if code in KILLED:
            raise DoesNotFit(f"the {kind} process was killed, most likely for its memory")
        raise PintpotError(f"the {kind} process ended with code {code}")
    answer = json.loads(line)
    if isinstance(answer, dict) and "error" in answer:
        raise error_named(answer["kind"])(answer["error"])
    return answer


def tell(done: int, total: int) -> None:
    """From within a worker: how far the request is."""
    sys.stdout.write(f"{_SHARE}{done / max(1, total)}\n")
    sys.stdout.flush()


def serve(make: Callable[[], Any]) -> None:
    """Answer the requests on standard input with the methods of what `make` gives, or with why it gave nothing."""
    answerer: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answerer = answerer or make()
            answer = getattr(answerer, request.pop("what"))(**request)
        except PintpotError as error:
            answer = {"kind": type(error).__name__, "error": str(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def main(arguments: list[str]) -> None:
    """Start the worker that the first argument names; it ends in silence with whoever asks it."""
    import importlib

    kind, pack, *rest = arguments
    module = importlib.import_module(f"pintpot.proof.{kind}")
    try:
        serve(lambda: module.Answerer(Path(pack), *rest))
    except BrokenPipeError:
        # What is still to be written has nowhere to go, and the interpreter would try once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main(sys.argv[1:])

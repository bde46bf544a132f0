"""Processes that a benchmark asks line by line, so that they can take turns and none weighs on another's memory.

What they do is in `answering.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from pintpot.proof.worker import ask


class Group(Protocol):
    """A control group that processes can be started in: a `Cap`, or a `Share` of slowing.py."""

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a command inside."""


class Driven:
    """Such a process, seen from outside; inside a group where one is given. A context manager."""

    def __init__(self, kind: str, *arguments: str, cap: Group | None = None, isa: str = "") -> None:
        """`isa` forces an instruction set."""
        command = [sys.executable, str(Path(__file__).with_name("answering.py").resolve()), kind, *arguments]
        options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        if isa:
            options["env"] = {**os.environ, "PINTPOT_ISA": isa}
        self._kind = kind
        self._process = subprocess.Popen(command, **options) if cap is None else cap.popen(command, **options)

    def __enter__(self) -> Driven:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()

    def ask(self, what: str, **arguments: Any) -> Any:
        """Send a request and wait for its answer. Raises DoesNotFit where the process was killed."""
        return ask(self._process, self._kind, {"what": what, **arguments})

"""Processes that a benchmark asks line by line, so that they can take turns and none weighs on another's memory.

What they do is in `answering.py`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from pintpot.meter.cap import Cap
from pintpot.proof.worker import ask


class Driven:
    """Such a process, seen from outside; inside a memory cap where one is given. A context manager."""

    def __init__(self, kind: str, *arguments: str, cap: Cap | None = None) -> None:
        command = [sys.executable, str(Path(__file__).with_name("answering.py").resolve()), kind, *arguments]
        options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
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

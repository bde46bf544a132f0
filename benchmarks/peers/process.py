"""A contender's process, seen from outside: it is asked line by line, inside a memory cap where one is given."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from bench import OUT
from environment import PYTHON, environment

from pintpot.errors import DoesNotFit, PintpotError, need
from pintpot.meter.cap import Cap

_OWN = ("pintpot", "pintpot_module", "limits")
_WORKER = Path(__file__).with_name("worker.py").resolve()
PATIENCE_S = 900.0


class Process:
    """A context manager; `open_s` and `versions` are what it said when it was open."""

    def __init__(self, module: str, knobs: dict[str, Any], cap: Cap | None = None) -> None:
        own = module in _OWN
        command = [sys.executable if own else str(PYTHON), str(_WORKER), module, json.dumps(knobs)]
        log = OUT / "peers" / f"{module}.err"
        log.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            errors = stack.enter_context(log.open("a"))
            options: dict[str, Any] = {
                "stdin": subprocess.PIPE,
                "stdout": subprocess.PIPE,
                "stderr": errors,
                "text": True,
            }
            options |= {} if own else {"env": environment()}
            self._process = subprocess.Popen(command, **options) if cap is None else cap.popen(command, **options)
        self._module, self._log = module, log
        self.open_s, self.versions = 0.0, dict[str, str]()

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Process:
        try:
            said = self._line(PATIENCE_S)
        except BaseException:
            self._end(kill=True)
            raise
        self.open_s, self.versions = said["open_s"], said["versions"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(kill=kind is not None)

    def ask(self, what: str, *, patience_s: float = PATIENCE_S, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for its answer. Raises DoesNotFit where it was killed, PintpotError on a failure."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"what": what, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        return self._line(patience_s)

    def answers(self, prompts: list[list[int]], number: int) -> dict[str, Any]:
        """See `contenders.Peer`. Raises PintpotError where not as many tokens came as were asked for."""
        found = self.ask("answers", prompts=prompts, number=number)
        wanted = len(prompts) * number
        need(found["number"] == wanted, f"{wanted} tokens were asked for, {found['number']} came", PintpotError)
        return found

    def _line(self, patience_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        # Every answer is one line to one question, so nothing lies in the buffer when this waits.
        ready, _, _ = select.select([self._process.stdout], [], [], patience_s)
        if not ready:
            raise PintpotError(f"{self._module} said nothing for {patience_s:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            last = self._log.read_text(errors="replace").strip().splitlines()[-1:]
            kind = DoesNotFit if code in (-9, 137) else PintpotError
            raise kind(f"{self._module} ended with code {code}: {''.join(last)[:300]}")
        found: dict[str, Any] = json.loads(line)
        return found

    def _end(self, *, kill: bool) -> None:
        if kill:
            self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

"""Starts of `pintpot` for tests and benchmarks that need many: a server imports everything once, each start is a fork.

    with Forks() as forks:
        begun = forks.start("tune", model, data, "-o", folder)
        begun.kill()                                          # SIGKILL, at any moment
        assert begun.wait() == -signal.SIGKILL

What a start shares with the next one is imported code, and nothing that a run computed: the server never runs one.
With `together=2` a start is what `torchrun` would be, PyTorch's own agent, and those that learn are its forks.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import select
import signal
import subprocess
import sys
from types import TracebackType
from typing import NoReturn, Self
from uuid import uuid4

IMPORTED = (
    "jinja2.sandbox", "numpy.random", "rich.live", "rich.table", "torch", "torch.distributed.launcher.api",
    "torch.distributed.tensor", "torch.fx.experimental.symbolic_shapes", "pintpot.cli.tune", "pintpot.cli.plan_view",
    "pintpot.cli.progress", "pintpot.machine.aten", "pintpot.machine.here", "pintpot.planner.training",
    "pintpot.proof.learning_report", "pintpot.runtime.describing", "pintpot.trainer.question",
    "pintpot.trainer.reading", "pintpot.trainer.teaching",
)  # fmt: skip
"""What a run that learns imports, or nearly all of it; the rest each start imports for itself."""


class Forked:
    """One start, which is alive until `poll` says how it ended: its exit code, negative for a signal."""

    def __init__(self, server: subprocess.Popen[bytes], pid: int) -> None:
        self.pid, self._server = pid, server
        self._code: int | None = None

    def poll(self) -> int | None:
        """How it ended, None while it lives."""
        answers = self._server.stdout
        if self._code is None and answers and select.select([answers], [], [], 0)[0]:
            self.wait()
        return self._code

    def wait(self) -> int:
        """How it ended, once it has."""
        if self._code is None:
            assert self._server.stdout
            self._code = int(self._server.stdout.readline())
        return self._code

    def kill(self) -> None:
        """SIGKILL, where it lives still."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


class Forks:
    """The server, as long as the context is open; one start at a time. What starts print is dropped, errors are not."""

    def __enter__(self) -> Self:
        # Without a buffer: what was answered is in the pipe, where `select` sees it, until its line is read.
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.communicate()

    def start(self, *arguments: str, together: int = 1) -> Forked:
        """`pintpot` with these arguments, in so many processes that learn together."""
        asked, answers = self._server.stdin, self._server.stdout
        assert asked
        assert answers
        asked.write(json.dumps([together, arguments]).encode() + b"\n")
        return Forked(self._server, int(answers.readline()))


def serve() -> None:
    """Fork for every line that is asked; say the process, and how it ended."""
    for name in IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        together, arguments = json.loads(line)
        pid = os.fork()
        if pid == 0:
            become(arguments) if together == 1 else launch(arguments, together)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def launch(arguments: list[str], count: int) -> NoReturn:
    """This process starts so many that are `pintpot`, as `torchrun --standalone` does, and waits for them."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    _say_nothing()
    logging.disable()  # of those that are killed
    alone = {"run_id": str(uuid4()), "rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "max_restarts": 0}
    config = LaunchConfig(1, 1, count, start_method="fork", **alone)
    try:
        elastic_launch(config, become)(arguments)
    except ChildFailedError as error:
        raise SystemExit(1) from error
    raise SystemExit(0)


def become(arguments: list[str]) -> NoReturn:
    """This process is `pintpot` from now on."""
    from pintpot.cli import cli

    _say_nothing()
    cli.main(arguments, prog_name="pintpot")
    raise SystemExit(0)


def _say_nothing() -> None:
    """Standard output and input lead nowhere: the server's own are pipes to whoever asks it."""
    for number, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY)):
        nowhere = os.open(os.devnull, flags)
        os.dup2(nowhere, number)
        os.close(nowhere)


if __name__ == "__main__":
    serve()

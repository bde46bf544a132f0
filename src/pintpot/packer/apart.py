"""Work in a process of its own, so that what it takes is known, and nothing of it stays in the caller's memory.

A module that is run so reads one JSON request and answers with JSON lines: how far it is, what it has to say, and how
it ended. Told to stop, or left alone, it clears up and ends without a word. Run itself, this one packs.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from pintpot.errors import DoesNotFit, Interrupted, PintpotError, error_named
from pintpot.model.spec import Model
from pintpot.planner.plan import Plan

Progress = Callable[[float, str], None]
Answer = Callable[[dict[str, Any], Progress], dict[str, Any]]
CALIBRATING_SHARE = 0.95
"""Of the time that a calibrated pack takes."""
_KILLED = -signal.SIGKILL
_STOPPING = (signal.SIGINT, signal.SIGTERM)
_STOPPED = (Interrupted.exit_code, *(-number for number in _STOPPING))
"""How a process ends that was told to stop: while it answered, and before that."""
_log = logging.getLogger(__name__)


def pack_apart(
    model: Model,
    plan: Plan,
    folder: Path,
    progress: Progress | None = None,
    text: str | Path | None = None,
    pictured: Path | None = None,
) -> Path:
    """As `write_pack`, elsewhere. Raises what it raises, and DoesNotFit where the process was killed."""
    request = {
        "model": model.source.named,
        "plan": plan.without_reasons().to_json(),
        "folder": str(folder.absolute()),
        "text": None if text is None else str(Path(text).expanduser().absolute()),
        "pictured": None if pictured is None else str(pictured),
    }
    return Path(apart("pintpot.packer.apart", request, progress)["folder"])


def apart(
    module: str,
    request: dict[str, Any],
    progress: Progress | None = None,
    meanwhile: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """What `python -m module` answers to a request; `meanwhile` is done here while it works.

    Raises the error of ours that it ended with, DoesNotFit where it was killed, Interrupted where it was stopped.
    Whatever ends this early, the other process has cleared up and is gone by then.
    """
    pipe = subprocess.PIPE
    # In a group of its own: Ctrl-C is for this process, which then ends that one.
    command = [sys.executable, "-m", module]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, process_group=0) as process:
        try:
            if process.stdin is None or process.stdout is None:
                raise PintpotError(f"{module} has no pipes")
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            meanwhile()
            for line in process.stdout:
                if not line.endswith("\n"):
                    break  # it ended in the middle of a word
                answer: dict[str, Any] = json.loads(line)
                if "log" in answer:
                    _log.log(answer["log"], "%s", answer["said"])
                    continue
                if "share" not in answer:
                    return _result(answer)
                if progress is not None:
                    progress(answer["share"], answer["what"])
            code = process.wait()
        finally:
            _end(process)
    if code in _STOPPED:
        raise Interrupted(f"{module} was stopped while it worked")
    if code == _KILLED:
        raise DoesNotFit(f"{module} was killed while it worked, most likely for its memory")
    raise PintpotError(f"{module} ended with code {code}")


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    if process.stdout is not None:
        process.stdout.close()  # should the signal be lost, its next word ends it
    # Leaving the context would wait a quarter of a second after a Ctrl-C, and clearing up may take longer.
    process.wait()


def _result(answer: dict[str, Any]) -> dict[str, Any]:
    if "error" in answer:
        found = error_named(answer["kind"])(answer["error"])
        if isinstance(found, DoesNotFit):
            found.smallest_bytes = answer["smallest_bytes"]
        raise found
    return answer


class _Sent(logging.Handler):
    """Log records go to whoever asked, who knows how much is wanted."""

    def emit(self, record: logging.LogRecord) -> None:
        _tell({"log": record.levelno, "said": record.getMessage()})


def serve(answer: Answer) -> None:
    """The other side: answer the request on standard input."""
    logger = logging.getLogger("pintpot")
    logger.addHandler(_Sent(logging.INFO))
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        with _stoppable():
            request = sys.stdin.readline()
            if not request.endswith("\n"):
                _leave()  # who started this was gone before it had asked
            ended = answer(json.loads(request), lambda share, what: _tell({"share": share, "what": what}))
    except PintpotError as error:
        ended = {"kind": type(error).__name__, "error": str(error)}
        if isinstance(error, DoesNotFit):
            ended["smallest_bytes"] = error.smallest_bytes
    _tell(ended)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Signals to stop unwind what is done inside, so that it clears up; after it they end the process at once."""
    # Started where Ctrl-C is ignored, as in the background of a script, it stays ignored.
    numbers = [number for number in _STOPPING if signal.getsignal(number) != signal.SIG_IGN]
    heard: list[int] = []

    def stop(number: int, frame: object) -> NoReturn:
        heard.append(number)
        _leave()

    for number in numbers:
        signal.signal(number, stop)
    try:
        yield
    finally:
        if heard:  # also where a library made an error of its own of it, as numpy does while it is imported
            raise SystemExit(Interrupted.exit_code)
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _tell(line: dict[str, Any]) -> None:
    try:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _leave()


def _leave() -> NoReturn:
    """End without a word; on the way out everything is cleared up, and no second signal disturbs that."""
    for number in _STOPPING:
        # Not SIG_IGN: of a signal that came just before, Python would then say that it was lost.
        signal.signal(number, lambda number, frame: None)
    # What is still buffered goes nowhere, and the interpreter's last flush finds no closed pipe.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    raise SystemExit(Interrupted.exit_code)


def _pack(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    from pintpot.model.read import describe
    from pintpot.packer.pack import write_pack

    model, plan = describe(request["model"]), Plan.from_json(request["plan"])
    folder = Path(request["folder"])
    text, pictured = (None if request[on] is None else Path(request[on]) for on in ("text", "pictured"))
    begun = [0.0]

    def calibrating(share: float, what: str) -> None:
        begun[0] = CALIBRATING_SHARE
        progress(CALIBRATING_SHARE * share, what)

    def packing(done: int, total: int) -> None:
        progress(begun[0] + (1 - begun[0]) * done / max(total, 1), "packing")

    write_pack(model, plan, folder, packing, text=text, pictured=pictured, calibrating=calibrating)
    return {"folder": str(folder)}


if __name__ == "__main__":
    serve(_pack)

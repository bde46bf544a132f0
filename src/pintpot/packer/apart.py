"""Work in a process of its own, so that what it takes is known, and nothing of it stays in the caller's memory.

A module that is run so reads one JSON request and answers with JSON lines: how far it is, what it has to say, and how
it ended. Run itself, this one packs.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pintpot.errors import DoesNotFit, PintpotError, error_named
from pintpot.model.spec import Model
from pintpot.planner.plan import Plan

Progress = Callable[[float, str], None]
Answer = Callable[[dict[str, Any], Progress], dict[str, Any]]
_KILLED = -9
_log = logging.getLogger(__name__)


def pack_apart(model: Model, plan: Plan, folder: Path, progress: Progress | None = None) -> Path:
    """As `write_pack`, elsewhere. Raises what it raises, and DoesNotFit where the process was killed."""
    request = {"model": model.source.path, "plan": plan.without_reasons().to_json(), "folder": str(folder.absolute())}
    return Path(apart("pintpot.packer.apart", request, progress)["folder"])


def apart(
    module: str,
    request: dict[str, Any],
    progress: Progress | None = None,
    meanwhile: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """What `python -m module` answers to a request; `meanwhile` is done here while it works.

    Raises the error of ours that it ended with, DoesNotFit where it was killed.
    """
    pipe = subprocess.PIPE
    # In a group of its own: Ctrl-C is for this process, and that one ends when nobody listens any more.
    command = [sys.executable, "-m", module]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, process_group=0) as process:
        try:
            if process.stdin is None or process.stdout is None:
                raise PintpotError(f"{module} has no pipes")
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            meanwhile()
            for line in process.stdout:
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
            if process.poll() is None:
                process.terminate()
    if code == _KILLED:
        raise DoesNotFit(f"{module} was killed while it worked, most likely for its memory")
    raise PintpotError(f"{module} ended with code {code}")


def _result(answer: dict[str, Any]) -> dict[str, Any]:
    if "error" in answer:
        raise error_named(answer["kind"])(answer["error"])
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
    request = json.loads(sys.stdin.readline())
    try:
        _tell(answer(request, lambda share, what: _tell({"share": share, "what": what})))
    except PintpotError as error:
        _tell({"kind": type(error).__name__, "error": str(error)})


def _tell(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _pack(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    from pintpot.model.read import describe
    from pintpot.packer.pack import write_pack

    model, plan = describe(request["model"]), Plan.from_json(request["plan"])
    folder = Path(request["folder"])
    write_pack(model, plan, folder, lambda done, total: progress(done / max(total, 1), "packing"))
    return {"folder": str(folder)}


if __name__ == "__main__":
    serve(_pack)

"""`pintpot.serve`: a model or a pack becomes a service, inside a memory budget that counts the server, too."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pintpot.errors import DoesNotFit, UsageError, need
from pintpot.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from pintpot.runtime.module import ModuleSession
    from pintpot.runtime.session import Session
    from pintpot.server.served import Served
    from pintpot.server.serving import Serving

Progress = Callable[[float, str], None]
BODY_BYTES, BODY_BYTES_OF_TOKEN = 128 << 10, 32
"""Of a body: this many, and so many more for each position of the context."""
BODY_BYTES_OF_PICTURE = 4 << 20
"""And for each picture that a prompt has room for."""
MODULE_BODY_BYTES = 1 << 20
"""Of a body for a model that writes no words; sound comes as a form, whose file goes to disk."""
DEFAULT_PORT = 8080


def serve(
    model_or_pack: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    name: str | None = None,
    draft: str | Path | None = None,
    key: str = "",
    waiting: int = 256,
    answer_s: float = 600.0,
    drain_s: float = 30.0,
    ready: Callable[[str, Serving], None] | None = None,
    progress: Progress | None = None,
    **asked: Any,
) -> None:
    """Answer an OpenAI client's requests until SIGTERM or Ctrl-C, which lets those under way end within `drain_s`.

    A model is planned and packed first, as `pintpot.run` does it with `asked`; without `batch` for as many sequences as
    give most words a second. `draft` is a pack of a smaller model with the same words, which guesses the next ones;
    answers stay the same. `memory` counts the whole process. `host` 127.0.0.1 is reached from this machine alone; with
    `key` clients have to know it. At most `waiting` requests wait, and each may take `answer_s`. `ready` is told
    the address. Raises UsageError without the extra (`pip install pintpot[serve]`), DoesNotFit.
    """
    missing = [module for module in ("starlette", "uvicorn") if find_spec(module) is None]
    need(not missing, f"serving needs {' and '.join(missing)}: pip install pintpot[serve]", UsageError)
    from pintpot.server.asking import seeing_bytes
    from pintpot.server.drafting import draft_bytes
    from pintpot.server.run import listen, serve_until_stopped

    listening = listen(host, port)
    with listening:
        beside = {"the draft": draft_bytes(draft), "looking at images": seeing_bytes(asked.get("images"))}
        folder, memory = _folder(model_or_pack, asked, beside, progress)
        with open_serving(
            folder, name=name, draft=draft, memory_bytes=memory, waiting=waiting, answer_s=answer_s, drain_s=drain_s,
            threads=asked.get("threads"), progress=progress,
        ) as serving:  # fmt: skip
            told = None if ready is None else lambda url: ready(url, serving)
            serve_until_stopped(serving, listening, key, told)


def open_serving(
    folder: Path,
    *,
    name: str | None = None,
    draft: str | Path | None = None,
    memory_bytes: int | None = None,
    waiting: int = 256,
    answer_s: float = 600.0,
    drain_s: float = 30.0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Serving:
    """A pack that is open, and the thread that drives it. A context manager."""
    from pintpot.api import run
    from pintpot.runtime.session import Session
    from pintpot.server.admit import SERVER_BYTES, Limits
    from pintpot.server.asking import seeing_bytes
    from pintpot.server.drafting import draft_bytes, refuse_beside
    from pintpot.server.learning import learn
    from pintpot.server.serving import Serving

    refuse_beside(folder, draft)
    with ExitStack() as closing:
        session = run(folder, threads=threads, progress=progress)
        closing.callback(session.close)
        load = session.plan.budget.workload
        promised = session.plan.cost.memory_high + SERVER_BYTES + draft_bytes(draft) + seeing_bytes(load.pictures)
        if isinstance(session, Session):
            closing.callback(learn, folder, session)
            served: Served = _writing(session, draft, threads, waiting, closing)
            body_bytes = BODY_BYTES + BODY_BYTES_OF_TOKEN * session.engine.context
            body_bytes += BODY_BYTES_OF_PICTURE * (load.pictures // load.batch)
        else:
            need(draft is None, f"{folder} writes no words that a draft could guess", UsageError)
            served, body_bytes = _computing(session, waiting), MODULE_BODY_BYTES
        closing.callback(served.service.close)
        limits = Limits(body_bytes=body_bytes, answer_s=answer_s, waiting=waiting, drain_s=drain_s)
        return Serving(
            served, name or session.plan.model_name, limits, memory_bytes or promised,
            planning=partial(_plans_apart, folder), closing=closing.pop_all(),
        )  # fmt: skip


def _writing(
    session: Session, draft: str | Path | None, threads: int | None, waiting: int, closing: ExitStack
) -> Served:
    from pintpot.api import run
    from pintpot.packer.raw import pack_named
    from pintpot.runtime.service import Service
    from pintpot.server.drafting import drafter_of
    from pintpot.server.guided import guiding_of
    from pintpot.server.writing import Writing

    if draft is not None:
        opened = run(pack_named(draft), threads=threads)
        closing.callback(opened.close)
        session.engine.drafter = drafter_of(draft, session, opened)
    service = Service(session.engine, frozenset(session.tokenizer.eos_ids), most_waiting=waiting)
    return Writing(session, service.start(), guiding_of(session))


def _computing(session: ModuleSession, waiting: int) -> Served:
    from pintpot.runtime.module_service import ModuleService
    from pintpot.server.computing import Computing

    return Computing(session, ModuleService(session, most_waiting=waiting).start())


def _plans_apart(folder: Path) -> list[dict[str, Any]]:
    from pintpot.packer.apart import apart

    plans: list[dict[str, Any]] = apart("pintpot.hosting.ahead", {"plans_of": str(folder)})["plans"]
    return plans


def _folder(
    model_or_pack: str | Path, asked: dict[str, Any], beside: dict[str, int], progress: Progress | None
) -> tuple[Path, int | None]:
    """The pack to open, and the budget of the whole process where one was given."""
    from pintpot.packer.apart import apart
    from pintpot.packer.raw import is_pack, pack_named
    from pintpot.server.admit import SERVER_BYTES

    folder = pack_named(model_or_pack)
    memory = None if asked.get("memory") is None else parse_bytes(asked["memory"])
    if is_pack(folder):
        given = {key: value for key, value in asked.items() if key != "threads" and value}
        need(not given, "a pack has its plan; these options belong to a model", UsageError)
        return folder, None
    taken = SERVER_BYTES + sum(beside.values())
    others = [f", {name} {format_bytes(size)}" for name, size in beside.items() if size]
    by = f"the server itself takes {format_bytes(SERVER_BYTES)}" + "".join(others)
    if memory is not None:
        need(memory > taken, f"of {format_bytes(memory)} nothing is left for the model: {by}", DoesNotFit)
    within = asked if memory is None else {**asked, "memory": memory - taken}
    named = {key: str(value) if isinstance(value, Path) else value for key, value in within.items()}
    try:
        answer = apart("pintpot.hosting.ahead", {"model": str(model_or_pack), "asked": named}, progress)
    except DoesNotFit as error:
        least = None if error.smallest_bytes is None else error.smallest_bytes + taken
        whole = "" if memory is None else f" (of {format_bytes(memory)}: {by})"
        raise DoesNotFit(f"{error}{whole}", least) from error
    return Path(answer["folder"]), memory

"""`pintpot.serve`: a model or a pack becomes a service, inside a memory budget that counts the server, too."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pintpot.contract.step import Facet
from pintpot.errors import DoesNotFit, UsageError, need
from pintpot.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from pintpot.budget import Workload
    from pintpot.model.spec import Model
    from pintpot.planner.plan import Plan
    from pintpot.runtime.module import ModuleSession
    from pintpot.runtime.session import Session
    from pintpot.server.served import Served
    from pintpot.server.serving import Serving

Progress = Callable[[float, str], None]
BATCHES = (32, 16, 8, 4, 2, 1)
"""Sequences side by side that are weighed where nobody asked for a number."""
LENDING_GAIN, PRESSED = 1.05, 0.9
"""What a shared cache has to bring, for whoever is stopped takes time; and how full a budget is that it presses on."""
BODY_BYTES, BODY_BYTES_OF_TOKEN = 128 << 10, 32
"""Of a body: this many, and so many more for each position of the context."""
MODULE_BODY_BYTES = 1 << 20
"""Of a body for a model that writes no words; sound comes as a form, whose file goes to disk."""
DEFAULT_PORT = 8080
NUM_BUDGETS = 9


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
    from pintpot.server.drafting import draft_bytes
    from pintpot.server.run import listen, serve_until_stopped

    listening = listen(host, port)
    with listening:
        folder, memory = _folder(model_or_pack, asked, draft_bytes(draft), progress)
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
    from pintpot.server.drafting import draft_bytes, refuse_beside
    from pintpot.server.learning import learn
    from pintpot.server.serving import Serving

    refuse_beside(folder, draft)
    with ExitStack() as closing:
        session = run(folder, threads=threads, progress=progress)
        closing.callback(session.close)
        promised = session.plan.cost.memory_high + SERVER_BYTES + draft_bytes(draft)
        if isinstance(session, Session):
            closing.callback(learn, folder, session)
            served: Served = _writing(session, draft, threads, waiting, closing)
            body_bytes = BODY_BYTES + BODY_BYTES_OF_TOKEN * session.engine.context
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

    plans: list[dict[str, Any]] = apart("pintpot.hosting", {"plans_of": str(folder)})["plans"]
    return plans


def _folder(
    model_or_pack: str | Path, asked: dict[str, Any], beside: int, progress: Progress | None
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
    taken = SERVER_BYTES + beside
    by = f"the server itself takes {format_bytes(SERVER_BYTES)}" + f", the draft {format_bytes(beside)}" * bool(beside)
    if memory is not None:
        need(memory > taken, f"of {format_bytes(memory)} nothing is left for the model: {by}", DoesNotFit)
    within = asked if memory is None else {**asked, "memory": memory - taken}
    named = {key: str(value) if isinstance(value, Path) else value for key, value in within.items()}
    try:
        answer = apart("pintpot.hosting", {"model": str(model_or_pack), "asked": named}, progress)
    except DoesNotFit as error:
        least = None if error.smallest_bytes is None else error.smallest_bytes + taken
        whole = "" if memory is None else f" (of {format_bytes(memory)}: {by})"
        raise DoesNotFit(f"{error}{whole}", least) from error
    return Path(answer["folder"]), memory


def best_batch(model: Model, asked: dict[str, Any], progress: Progress | None = None) -> dict[str, Any]:
    """How many sequences side by side give most tokens a second in all, at the bad end: `batch`, and `lending`.

    That sequences share fewer pages than their contexts have is weighed where the cache presses on the budget, and has
    to bring more than `LENDING_GAIN`. Raises DoesNotFit for none.
    """
    from pintpot.api import plan

    found: list[tuple[float, int, dict[str, Any]]] = []
    refused: DoesNotFit | None = None
    made: Plan | None = None
    for done, (number, lending) in enumerate(product(BATCHES, (False, True))):
        if progress is not None:
            progress(done / (2 * len(BATCHES)), "weighing how many at once")
        if lending and made is not None and not _presses(made):
            continue
        way, made = {"batch": number, "lending": lending}, None
        try:
            made = plan(model, **{**asked, **way})
        except DoesNotFit as error:
            refused = error
            continue
        if bool(made.form.cache.lent) == lending:
            gain = LENDING_GAIN if lending else 1.0
            found.append((made.cost.stage("decode").tokens_per_s.low / gain, number, way))
    if not found and refused is not None:
        raise refused
    return max(found, key=lambda one: one[:2])[2]


def _presses(made: Plan) -> bool:
    """Whether a smaller cache could bring anything: weights are read from disk, or the budget is nearly used up."""
    return made.form.ring is not None or made.cost.memory_high > PRESSED * made.budget.memory_bytes


def plans_of(folder: Path) -> list[dict[str, Any]]:
    """What other memory budgets would bring to a pack's question, from the smallest that would do to twice its own.

    Raises BadInput where the model that it was made from is gone.
    """
    from pintpot.api import plan
    from pintpot.packer.manifest import read_manifest
    from pintpot.proof.source import source_model
    from pintpot.server.admit import SERVER_BYTES

    manifest, _ = read_manifest(folder)
    made, model = manifest.plan, source_model(manifest)
    budget = made.budget
    low = max(1, made.smallest_bytes or made.cost.memory_high)
    high = 2 * max(made.cost.memory_high, low)
    plans = []
    for index in range(NUM_BUDGETS):
        memory = round(low * (high / low) ** (index / (NUM_BUDGETS - 1)))
        try:
            one = plan(
                model, memory=memory, degradation=budget.degradation, prefer=budget.prefer, threads=made.threads,
                **_asked_again(model, budget.workload),
            )  # fmt: skip
        except DoesNotFit as error:
            plans.append({"memory": memory + SERVER_BYTES, "why": str(error)})
            continue
        plans.append({
            "memory": memory + SERVER_BYTES,
            **_speed(one),
            "degradation": [one.degradation.low, one.degradation.high],
            "binds": one.cost.stages[-1].binds,
            "weights": ", ".join(str(step) for step in one.steps if step.facet in (Facet.FORMAT, Facet.PLACE)),
        })  # fmt: skip
    return plans


def _asked_again(model: Model, load: Workload) -> dict[str, Any]:
    """A workload in the words of a question."""
    if model.language is None:
        return {"output": load.output} if load.task == "denoise" else {}
    asked = {"context": load.context, "batch": load.batch, "prompt": load.prompt - load.given, "output": load.output}
    return {**asked, "images": load.pictures // load.batch} if load.pictures else asked


def _speed(made: Plan) -> dict[str, list[float]]:
    """Words and the wait for the first of them, or the whole of one answer."""
    if made.budget.workload.task != "chat":
        return {"answer_s": [made.cost.total_s.low, made.cost.total_s.high]}
    decode, first = made.cost.stages[-1].tokens_per_s, made.cost.first_token_s
    return {"tokens_per_s": [decode.low, decode.high], "first_token_s": [first.low, first.high]}


def _prepare(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    from pintpot.api import pack
    from pintpot.packer.place import found_asked
    from pintpot.planner.guessing import OFFERED
    from pintpot.runtime.describing import shaped

    if "plans_of" in request:
        os.nice(10)  # the server goes first
        return {"plans": plans_of(Path(request["plans_of"]))}
    model, asked = shaped(request["model"], request["asked"], progress)
    if model.language is None:
        # It was recorded for so many rows; one more request is one more call.
        return {"folder": str(found_asked(model, asked) or pack(model, progress=progress, **asked))}
    asked["guesses"] = asked.get("guesses", OFFERED)
    batch, lent = asked.pop("batch", None), asked.pop("lending", False)
    every = [(batch, lent)] if batch else product(BATCHES, (False, True))
    ways = [{"batch": number, "lending": lending} for number, lending in every]
    for way in ways:
        folder = found_asked(model, {**asked, **way})
        if folder is not None:
            return {"folder": str(folder)}
    best = ways[0] if len(ways) == 1 else best_batch(model, asked, progress)
    return {"folder": str(pack(model, progress=progress, **{**asked, **best}))}


if __name__ == "__main__":
    from pintpot.packer.apart import serve as answer

    answer(_prepare)

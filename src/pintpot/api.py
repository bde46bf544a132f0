"""The verbs as functions: describe, probe, calibrate, plan, pack, run, prove, export. The command line adds nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pintpot.errors import BadPack, NewerPack, UsageError, need
from pintpot.units import parse_bytes, parse_seconds

if TYPE_CHECKING:
    from pintpot.machine.spec import Machine
    from pintpot.model.spec import Model
    from pintpot.packer.export.exported import Exported
    from pintpot.planner.plan import Plan
    from pintpot.planner.sensitivity import Sensitivities
    from pintpot.proof.proof import Proof
    from pintpot.runtime.module import ModuleSession
    from pintpot.runtime.session import Session

_log = logging.getLogger(__name__)
Progress = Callable[[float, str], None]
"""Told how much is done, 0 to 1, and what is being done."""


def describe(
    model: str | Path, *, offline: bool | None = None, progress: Progress | None = None, **shapes: int
) -> Model:
    """A model from its headers alone: a .gguf file, a Hugging Face folder, or a hub id such as "org/name".

    One without a native family is built by transformers, without weights, and recorded for inputs of `shapes`: `batch`,
    `image_size` in pixels, `tokens`; `images` adds what sees. That takes seconds once, and is kept. Raises BadInput.
    """
    from pintpot.runtime.describing import describe as read

    return read(str(model), offline, shapes, progress)


def probe(path: Path | None = None, *, quick: bool = False, progress: Progress | None = None) -> Machine:
    """Measure this machine (under 20 s; `quick`: under 2 s) and remember it; `path` lies on the disk that matters."""
    from pintpot.machine.probe import probe as measure
    from pintpot.machine.remember import remember

    return remember(measure(path, quick=quick, progress=progress))


def this_machine(path: Path | None = None, progress: Progress | None = None) -> Machine:
    """What is known of this machine; where it was never probed, a quick probe is taken."""
    from pintpot.machine.here import this_machine as find

    return find(path, progress)


def calibrate(
    model: str | Path | Model,
    *,
    text: str | Path | None = None,
    again: bool = False,
    progress: Progress | None = None,
) -> Sensitivities:
    """What each weight of a model costs in quality in each format: measured once over a text, kept, and used by plans.

    A table that is there is returned as it is, unless it is of another `text`, or `again` asks for a new one. Measured
    in a process of its own; the next call goes on with one that was stopped, and waits for one that measures the same.
    """
    from pintpot.packer.calibrate.apart import sensitivities_apart

    described, _ = _local(model, {}, progress)
    return sensitivities_apart(described, None if text is None else Path(text), again, progress)


def plan(
    model: str | Path | Model,
    *,
    memory: str | int | None = None,
    context: int | None = None,
    batch: int | None = None,
    prompt: int | None = None,
    output: int | None = None,
    first_token: str | float | None = None,
    per_token: str | float | None = None,
    image_size: int | None = None,
    images: int | None = None,
    degradation: float | None = None,
    prefer: Literal["speed", "quality", "memory"] | None = None,
    threads: int | None = None,
    below_4_bits: bool = False,
    windowed: bool = False,
    lending: bool = False,
    guesses: int | None = None,
    uncalibrated: bool = False,
    balanced: bool = False,
    machine: str | Path | Machine | None = None,
    progress: Progress | None = None,
) -> Plan:
    """The best way to run a model inside a budget, and why the others lost.

    What is not given takes its default: memory 80% of what is free, context min(2048, the model's), batch 1,
    degradation 0.05 nats per token, prefer speed. Without a native family a model is recorded for context, batch and
    image_size; `images` are those of a prompt, which rounding weighs where it is to be `balanced`. `machine` names a
    data sheet or a TOML file; else it is this one. Raises DoesNotFit with what would do.
    """
    from pintpot.machine.aten import with_torch
    from pintpot.meter.memory import attainable_bytes
    from pintpot.planner.defaults import make_budget
    from pintpot.planner.make import make_plan
    from pintpot.planner.memory import recall
    from pintpot.planner.sensitivity import recall_sensitivities, table_key
    from pintpot.runtime.describing import shaped

    shapes = {"context": context, "batch": batch, "image_size": image_size, "images": images}
    described, left = shaped(model, shapes, progress)
    here, torch_bytes = with_torch(_machine(machine, progress), described.needs_torch)
    budget = make_budget(
        described, here, attainable_bytes(), **{key: left.get(key) for key in ("context", "batch", "images")},
        memory_bytes=None if memory is None else parse_bytes(memory), prompt=prompt, output=output,
        first_token_s=None if first_token is None else parse_seconds(first_token),
        per_token_s=None if per_token is None else parse_seconds(per_token),
        degradation=degradation, prefer=prefer, threads=threads, below_4_bits=below_4_bits, windowed=windowed,
        lending=lending, guesses=guesses, uncalibrated=uncalibrated, balanced=balanced,
    )  # fmt: skip
    key = table_key(described)
    known = recall(key, here.fingerprint)
    return make_plan(
        described, here, budget, measured=known.degradation, measured_bytes=known.holders, proved=known.proved,
        guessed=known.guesses, sensitivities=recall_sensitivities(key), torch_bytes=torch_bytes,
    )  # fmt: skip


def pack(
    model: str | Path | Model,
    plan: Plan | None = None,
    folder: str | Path | None = None,
    *,
    text: str | Path | None = None,
    pictures: str | Path | None = None,
    progress: Progress | None = None,
    **asked: Any,
) -> Path:
    """Pack a model by a plan (made from `asked`, as `plan` takes it, when there is none) and return the folder.

    Without `folder` the pack is kept under PINTPOT_HOME and found again by the same question. It is packed in a process
    of its own, inside the plan's budget. A plan whose rounding looks at what meets the weights takes `text` for it,
    without one that of `calibrate`, if its file is there unchanged, else the one that comes with Pintpot; a picture, or
    a folder of `pictures`, makes half of it prompts in which they stand before words.
    """
    from pintpot.packer.apart import pack_apart
    from pintpot.packer.place import place_asked, place_of
    from pintpot.proof.looking import looked_at

    described, asked = _local(model, asked, progress)
    made, on = plan or _plan(described, asked, progress), {"text": text, "pictures": pictures}
    with looked_at(described, made, pictures, text, progress) as seen:
        if folder is not None:
            return pack_apart(described, made, Path(folder), progress, text, seen)
        place = place_asked(described, {**asked, **on}) if plan is None else place_of(described, made, **on)
        return keep(described, made, place, progress, text=text, pictured=seen)


def run(
    model_or_pack: str | Path, *, module: Any = None, progress: Progress | None = None, **asked: Any
) -> Session | ModuleSession:
    """Open a pack, or plan and pack a model first (the same question finds its pack again), and return a session.

    A kept pack may be named as `pintpot list` does. `asked` is what `pack` takes. A module's session takes tensors; of
    blocks that were measured and not recorded, `module` has the code, where another process adapted it.

    Of a model, a kept pack that turns out damaged is packed again, with a warning; a pack named itself is refused. What
    streams is checked while it is first read: an answer then ends with BadPack, and the next `run` packs it again.
    """
    from pintpot.packer.raw import is_pack, pack_named

    threads, folder = asked.get("threads"), pack_named(model_or_pack)
    if is_pack(folder):
        asked.pop("threads", None)
        need(not any(asked.values()), "a pack has its plan; these options belong to a model", UsageError)
        return open_pack(folder, threads, progress, module)
    try:
        return open_pack(Path(_apart(str(model_or_pack), asked, progress)), threads, progress, module)
    except NewerPack:
        raise
    except BadPack as error:
        _log.warning("%s; it is packed again", error)
    return open_pack(Path(_apart(str(model_or_pack), asked, progress, again=True)), threads, progress, module)


def open_pack(folder: Path, threads: int | None, told: Progress | None, module: Any = None) -> Session | ModuleSession:
    """A session of a pack, which may be of another machine."""
    from pintpot.machine.features import cpu, fingerprint
    from pintpot.meter.home import home
    from pintpot.runtime.begun import begin, find

    with find(folder) as pack:
        here = fingerprint(home())
        # A machine that is not the pack's may have to be measured, and nothing else happens then.
        measured = None if pack.machine_fingerprint == here else this_machine(progress=told)
        begun = begin(pack)
        from pintpot.runtime.pricing import Here

        place = Here(here, cpu().cores, lambda: measured or this_machine(progress=told))
        if pack.is_module:
            from pintpot.runtime.module import finish_module

            return finish_module(begun, place, threads=threads, module=module)
        from pintpot.runtime.opening import finish_opening

        return finish_opening(begun, place, threads=threads, progress=told)


def _apart(model: str, asked: dict[str, Any], progress: Progress | None, again: bool = False) -> str:
    """The folder of the pack that answers a question; what planning and packing take does not stay in this process."""
    from pintpot.packer.apart import apart

    if not isinstance(asked.get("machine"), str | Path | None):
        return str(_kept(model, asked, progress, again))
    named = {key: str(value) if isinstance(value, Path) else value for key, value in asked.items()}
    answer = apart("pintpot.api", {"model": model, "asked": named, "again": again}, progress, _import_runtime)
    return str(answer["folder"])


def _import_runtime() -> None:
    import pintpot.runtime.opening  # noqa: F401


def _kept(model: str | Path, asked: dict[str, Any], progress: Progress | None, again: bool) -> Path:
    """Find the kept pack of a question, or plan and pack, which is also done `again` where that pack is damaged."""
    from pintpot.packer.place import found_asked, place_asked
    from pintpot.packer.shelf import clear_damaged

    described, asked = _local(model, asked, progress)
    folder = None if again else found_asked(described, asked)
    if folder is None:
        made, folder = _plan(described, asked, progress), place_asked(described, asked)
        if again:
            clear_damaged(folder)
        folder = keep(described, made, folder, progress, text=asked.get("text"))
    return folder


def keep(model: Model, made: Plan, folder: Path, progress: Progress | None, **on: Any) -> Path:
    """Pack into a place under PINTPOT_HOME, in a process apart; `on` is what `pack_apart` takes beside."""
    from pintpot.packer.apart import pack_apart
    from pintpot.packer.shelf import forget_damage

    packed = pack_apart(model, made, folder, progress, **on)
    forget_damage(packed)
    return packed


def prove(pack: str | Path, *, text: str | Path | None = None, progress: Progress | None = None, **how: Any) -> Proof:
    """Measure a pack (a folder, or the name of a kept one) against its plan's promises, and the hardware's limit."""
    from pintpot.packer.raw import pack_named
    from pintpot.proof.prove import prove as measure

    return measure(pack_named(pack), text=None if text is None else Path(text), progress=progress, **how)


def export(pack: str | Path, to: str | Path | None = None, *, progress: Progress | None = None, **how: Any) -> Exported:
    """Write a pack's weights as a GGUF file, in its own blocks where GGUF has them, or as a Hugging Face folder.

    Without `kind` ("gguf", "safetensors") a place that ends in .gguf, or none, is a file, any other a folder. `dtype`
    is that of a folder's floats (f32), in a file of what no block type holds without loss (Q8_0). The result says what
    was rounded. Raises UsageError where something is at `to`, UnsupportedModel for what the container cannot tell.
    """
    from pintpot.packer.export.apart import export_named

    return export_named(pack, to, progress, **how)


def _machine(machine: str | Path | Machine | None, progress: Progress | None) -> Machine:
    if machine is None:
        return this_machine(progress=progress)
    if not isinstance(machine, str | Path):
        return machine
    from pintpot.machine.catalog import load_machine

    return load_machine(machine)


def _local(model: str | Path | Model, asked: dict[str, Any], told: Progress | None) -> tuple[Model, dict[str, Any]]:
    from pintpot.runtime.describing import local, shaped

    found, left = shaped(model, asked, told)
    return local(found), left


def _plan(model: Model, asked: dict[str, Any], progress: Progress | None) -> Plan:
    return plan(model, progress=progress, **{key: value for key, value in asked.items() if key != "text"})


def _prepare(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    return {"folder": str(_kept(request["model"], request["asked"], progress, request["again"]))}


if __name__ == "__main__":
    from pintpot.packer.apart import serve

    serve(_prepare)

"""`pintpot run` of models that see or read: pictures and texts in, classes, boxes and vectors out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pintpot.cli.terminal import Terminal
from pintpot.errors import UsageError, need

if TYPE_CHECKING:
    from pintpot.runtime.kinds import Answer, Batch, Given
    from pintpot.runtime.module import ModuleSession


def ask_module(
    terminal: Terminal, model_or_pack: str, asked: dict[str, Any], given: Given, out: Path | None = None
) -> int:
    """Answer about everything that was given, one line or one entry of JSON for each.

    What is drawn goes to `out`, with numbers behind its name where there are several.
    Inputs are read before the pack is opened: what decoding takes is given back by then.
    """
    import pintpot
    from pintpot.packer.raw import is_pack, pack_named

    if given.labels:
        given = replace(given, steps=asked.get("output"))
        if is_pack(pack_named(model_or_pack)):
            asked.pop("output", None)  # a pack draws in as many steps as it is asked for
    batches = _read(terminal, model_or_pack, asked, given)
    with terminal.progress() as progress:
        session = pintpot.run(model_or_pack, progress=progress, **asked)
    with session:
        need(callable(session), f"{model_or_pack} writes text; give it a prompt alone", UsageError)
        answer_batches(terminal, session, batches, out)  # type: ignore[arg-type]
    return 0


def answer_text(terminal: Terminal, session: ModuleSession, text: str) -> int:
    """Answer about one text."""
    from pintpot.runtime.asking import read

    given = given_of((), (text,))
    answer_batches(terminal, session, list(read(session.plan.config, session.folder, given, session.plan.model_name)))
    return 0


def answer_batches(terminal: Terminal, session: ModuleSession, batches: list[Batch], out: Path | None = None) -> None:
    """Compute the batches one after the other, and print what they say; pictures go to `out`."""
    import click

    from pintpot.cli.terminal import safe
    from pintpot.runtime.asking import Running, answers

    for note in (*session.notes, *(note for batch in batches for note in batch.notes)):
        terminal.say(f"pintpot: {note}")
    found: list[dict[str, Any]] = []
    running = Running(session)
    several = sum(len(batch.names) for batch in batches) > 1
    with terminal.progress() as progress:

        def begun() -> Iterator[Batch]:
            for index, batch in enumerate(batches):
                progress(index / len(batches), "answering")
                yield batch

        for answer in answers(session, begun(), running):
            data = {**answer.data}
            if out is not None:
                data["file"] = str(_draw(answer, out, len(found)))
            found.append(data)
            if not terminal.as_json:
                click.echo(safe(f"{answer.name}: {answer.text}" if several else answer.text))
    seconds = running.seconds
    told = {"answers": found, "calls": len(batches), "seconds": seconds, "notes": session.notes}
    if terminal.as_json:
        terminal.data({**told, "plan": session.plan.to_json()})
    else:
        terminal.say(f"{len(found)} answers in {len(batches)} calls of {1e3 * seconds / len(batches):.3g} ms")


def _draw(answer: Answer, out: Path, number: int) -> Path:
    """Raises UsageError for an answer without a picture, BadInput where none can be written."""
    from PIL import Image

    from pintpot.cli.draw import write_picture

    if answer.picture is None:
        raise UsageError(f"{answer.name} is no picture, so --out has nothing to write")
    return write_picture(Image.fromarray(answer.picture), out, number)


def given_of(images: tuple[Path, ...], texts: tuple[str, ...], labels: tuple[int, ...] = (), **how: Any) -> Given:
    """What came with the command."""
    from pintpot.runtime.kinds import Given

    return Given(images, texts, labels, **how)


def _read(terminal: Terminal, model_or_pack: str, asked: dict[str, Any], given: Given) -> list[Batch]:
    from pintpot.packer.manifest import read_manifest
    from pintpot.packer.raw import is_pack, pack_named
    from pintpot.runtime.asking import read
    from pintpot.runtime.describing import shaped

    folder = pack_named(model_or_pack)
    if is_pack(folder):
        plan = read_manifest(folder)[0].plan
        return list(read(plan.config, folder, given, plan.model_name))
    with terminal.progress() as progress:
        shapes = {key: value for key, value in asked.items() if key in ("context", "batch", "image_size")}
        model, _ = shaped(model_or_pack, shapes, progress)
    need(model.language is None, f"{model_or_pack} writes text, and looks at no pictures", UsageError)
    return list(read(model.parts[0].config, Path(model.source.path), given, model.name))

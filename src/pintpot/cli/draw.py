"""`pintpot run` of a pipeline of diffusers with a decoder: a label or a text in, a picture out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pintpot.cli.terminal import Terminal, safe
from pintpot.errors import BadInput, UnsupportedModel, UsageError, need

if TYPE_CHECKING:
    from pintpot.runtime.kinds import Given

STEPS = 30
_ASKED = ("memory", "degradation", "prefer", "threads", "output")
"""What such a run can be asked; the rest is about words."""


def has_decoder(model: str) -> bool:
    """Whether this is the folder of a pipeline that ends in a decoder, so that one network alone gives no picture."""
    folder = Path(model).expanduser()
    if not (folder / "model_index.json").is_file():
        return False
    from pintpot.runtime.pipelines.folder import components

    found = components(folder).get("vae")
    return found is not None and found.is_network


def draw_by_pipeline(terminal: Terminal, folder: str, asked: dict[str, Any], given: Given, out: Path | None) -> int:
    """Draw every label or text, and say what each stage took beside its promise."""
    import torch

    import pintpot

    unknown = [key for key in asked if key not in _ASKED]
    need(not unknown, f"--{' and --'.join(unknown)} do not belong to a picture", UsageError)
    need(bool(given.labels or given.texts), f"{folder} draws: give it a --label or a --text", UsageError)
    need(out is not None, "a picture needs a place: -o FILE", UsageError)
    steps, seed = asked.pop("output", STEPS), given.seed or 0
    things: list[tuple[str, dict[str, Any]]] = [
        *((f"label {label}", {"class_labels": [label]}) for label in given.labels)
    ]
    things += [(text, {"prompt": text}) for text in given.texts]
    found: list[dict[str, Any]] = []
    with terminal.progress() as progress:
        pipeline = pintpot.pipeline(folder, progress=progress, **asked)
        pipeline.set_progress_bar_config(disable=True)
        try:
            for index, (name, call) in enumerate(things):
                progress(index / len(things), f"drawing {name}")
                call |= {} if given.guidance is None else {"guidance_scale": given.guidance}
                draw = torch.Generator().manual_seed(seed + index)
                picture = pipeline(**call, num_inference_steps=steps, generator=draw).images[0]
                place = write_picture(picture, Path(str(out)), index)
                found.append({"of": name, "seed": seed + index, "steps": steps, "file": str(place)})
        except TypeError as error:
            raise UnsupportedModel(f"{folder}: its pipeline does not draw so: {error}") from error
        finally:
            pipeline.keeper.close()
    receipt = pipeline.keeper.receipt()
    if terminal.as_json:
        terminal.data({"answers": found, "receipt": receipt})
    else:
        for one in found:
            click.echo(safe(f"{one['of']}, seed {one['seed']}: {one['file']}"))
        terminal.say(str(receipt))
    return 0


def write_picture(picture: Any, out: Path, number: int) -> Path:
    """Write a picture of PIL, whole or not at all, with a number behind the name of all but the first.

    Raises BadInput where none can be written.
    """
    path = out if number == 0 else out.with_stem(f"{out.stem}-{number + 1}")
    draft = path.with_name(f".{path.stem}.draft{path.suffix}")
    try:
        picture.save(draft)
        draft.replace(path)
    except (OSError, ValueError) as error:
        draft.unlink(missing_ok=True)
        raise BadInput(f"{path} cannot be written: {error}") from error
    return path

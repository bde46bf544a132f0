"""Describing a model whoever made it: from headers where a family is native, through transformers where it is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pintpot.errors import BadInput, NoFamily, UsageError, need
from pintpot.model.joined import VISION

if TYPE_CHECKING:
    from pintpot.model.spec import Model

DIFFUSERS = ("model_index.json", "config.json")
"""One of these lies in a folder that diffusers wrote, though others have a config.json as well."""
EXPORTED = ".pt2"
"""How a file of torch.export ends."""
Progress = Callable[[float, str], None]
SHAPES = {"context": "tokens", "batch": "batch", "image_size": "image_size", "images": "images", "fewer": "fewer"}
"""What is asked of a plan, and what it is called where a model is recorded for it."""


def describe(model: str, offline: bool | None, shapes: Mapping[str, int], progress: Progress | None) -> Model:
    """As `pintpot.describe`."""
    from pintpot.model.read import describe as read

    path = Path(model).expanduser()
    if (path / DIFFUSERS[0]).is_file() or (path / DIFFUSERS[1]).is_file():
        from pintpot.runtime.pipelines import denoiser

        if denoiser.is_denoiser(path):
            return denoiser.described(path, shapes, progress)
    if path.suffix == EXPORTED and path.is_file():
        from pintpot.runtime.published import described_export

        need(not shapes, f"{path.name} was exported for inputs of its own shapes", UsageError)
        return described_export(path, progress)
    try:
        found = read(model, offline=offline)
    except NoFamily as error:
        return _published(model, offline, shapes, progress, error)
    except BadInput:
        from pintpot.packer.raw import is_pack

        if not is_pack(Path(model).expanduser()):
            raise
        raise BadInput(
            f"{model} is a pack already: `pintpot run {model}` runs it, `pintpot prove {model}` measures it"
        ) from None
    if "images" in shapes and found.source.kind != "module":
        from pintpot.runtime.seeing import with_sight

        return with_sight(found, shapes, progress)
    need("image_size" not in shapes, f"{found.name} takes no image size without --images", UsageError)
    return found


def shaped(
    model: str | Path | Model, asked: Mapping[str, Any], progress: Progress | None
) -> tuple[Model, dict[str, Any]]:
    """The model, and of what was asked all but the shapes that it was recorded for."""
    left = {key: value for key, value in asked.items() if value is not None}
    if not isinstance(model, str | Path):
        need("image_size" not in left, f"{model.name} is described already, for inputs of its own size", UsageError)
        return model, left
    shapes = {shape: left[key] for key, shape in SHAPES.items() if key in left}
    found = describe(str(model), None, shapes, progress)
    recorded = found.source.kind == "module" and Path(found.source.path) != Path(model).expanduser().resolve()
    gone = set(SHAPES) if recorded else {"image_size"} if VISION in {part.name for part in found.parts} else set()
    return found, {key: value for key, value in left.items() if key not in gone}


def local(model: Model) -> Model:
    """The model with its weights on this machine, fetched from the hub where they are not."""
    if model.source.kind != "hub":
        return model
    from pintpot.model.hub import download

    return download(model)


def _published(
    model: str, offline: bool | None, shapes: Mapping[str, int], progress: Progress | None, error: NoFamily
) -> Model:
    """A model that only transformers knows. Raises the error where it is no folder that transformers could read."""
    from pintpot.runtime.published import described

    path = Path(model).expanduser()
    if path.is_file():
        raise error
    if not path.is_dir():
        from pintpot.model.hub_folder import fetch_folder

        path = fetch_folder(model, offline=offline)
    return described(path, shapes, progress)

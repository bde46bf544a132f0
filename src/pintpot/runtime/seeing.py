"""A language model from a vision-language folder gets its other half: recorded once, through transformers, and kept.

transformers builds the whole model in a process apart, with no weights in it; of it the tower is recorded for pictures
of one size, and refers to the folder's own safetensors. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from pintpot.errors import UnsupportedModel, UsageError, need
from pintpot.meter.home import home
from pintpot.model.joined import PARTS, VISION
from pintpot.model.spec import Model
from pintpot.nets._recorded import KEPT
from pintpot.packer.apart import apart
from pintpot.runtime.published import folder_mark, model_type, need_libraries, plain_name
from pintpot.runtime.sights import sight_of, sights

Progress = Callable[[float, str], None]


def with_sight(model: Model, shapes: Mapping[str, int], progress: Progress | None = None) -> Model:
    """The same language model with the half that sees, for pictures of `image_size` pixels an edge where that is free.

    Takes seconds the first time. Raises UsageError for a model of words alone, or without transformers;
    UnsupportedModel for an architecture that is not known here.
    """
    from pintpot.model.read import describe

    if any(part.name == VISION for part in model.parts):
        return model
    need(model.kind == "vlm", f"{model.name} reads words alone, and looks at no pictures", UsageError)
    if model.source.kind == "hub":
        from pintpot.model.hub_folder import fetch_folder

        model = describe(str(fetch_folder(model.source.path)))
    folder = Path(model.source.path)
    known = model_type(folder)
    name = sight_of(known)
    need(name is not None, f"{folder.name}: {known} does not see here; {', '.join(sights())} do", UnsupportedModel)
    need_libraries(folder.name)
    asked = {key: value for key, value in shapes.items() if key == "image_size"}
    place = sight_place(folder, asked)
    if not (place / PARTS).is_file():
        request = {"folder": str(folder), "sight": name, "shapes": asked, "place": str(place)}
        apart("pintpot.runtime.building_sight", request, progress)
    return replace(describe(str(place)), name=model.name)


def sight_place(folder: Path, shapes: Mapping[str, int]) -> Path:
    """Where the recording of a folder's tower for these shapes is kept."""
    return home() / KEPT / f"{plain_name(folder.name)}-{folder_mark(folder, shapes)}-sees"

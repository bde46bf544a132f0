"""A folder's pictures as prompts to calibrate on: what the unpacked half that sees makes of each, before words.

The words are those beside a picture (`cat.txt` and `cat.png`), else some of the text that weights are rounded on. It
is looked in a process of its own, for it takes PyTorch, and packing does not.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pintpot.errors import BadInput, UsageError, need
from pintpot.meter.home import home
from pintpot.model.joined import LANGUAGE, VISION
from pintpot.model.spec import Model
from pintpot.packer.apart import apart
from pintpot.packer.calibrate.captions import found_pictures, said_of
from pintpot.planner.calibrating import LENGTH, TOKENS, WORDS_BESIDE
from pintpot.planner.plan import Plan

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pintpot.model.tokens import Tokenizer
    from pintpot.packer.calibrate.prompts import Prompts
    from pintpot.runtime.pictures import Picture

Progress = Callable[[float, str], None]
PICTURED_TOKENS = TOKENS // 2
"""Of all that weights are calibrated on, what prompts with pictures may take."""
_log = logging.getLogger(__name__)
LOOKING_SHARE = 0.1
"""Of the time that a pack takes which is calibrated on pictures."""


@contextmanager
def looked_at(
    model: Model,
    plan: Plan,
    pictures: str | Path | None,
    text: str | Path | None = None,
    progress: Progress | None = None,
) -> Iterator[Path | None]:
    """A file of prompts with these pictures, for a plan that looks at prompts; None where it does not, or none are.

    Raises UsageError for a model that sees no pictures, or a folder without any; BadInput for files that are none.
    """
    if pictures is None:
        yield None
        return
    from pintpot.packer.calibrate.calibrate import calibrated, gathers

    found = found_pictures(Path(pictures))
    sees = model.language is not None and any(part.name == VISION for part in model.parts)
    need(sees, f"{model.name} is described without what sees: ask for --images, or give no pictures", UsageError)
    if not (calibrated(plan) and gathers(plan)):
        _log.warning("no step of this plan looks at prompts: no picture is read")
        yield None
        return
    home().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".looking-", dir=home()) as folder:
        out = Path(folder) / "prompts.npz"
        request = {
            "model": model.source.named, "digest": model.digest, "pictures": [str(path.absolute()) for path in found],
            "text": None if text is None else str(Path(text).expanduser().absolute()), "out": str(out),
        }  # fmt: skip
        told = progress or (lambda share, what: None)
        apart("pintpot.proof.looking", request, lambda share, what: told(LOOKING_SHARE * share, what))
        yield out


def prompts_of(model: Model, pictures: Sequence[Path], text: Path | None, told: Progress) -> Prompts:
    """One prompt for each picture, as many as may be, evenly from all of them. `model` has a part that sees."""
    import numpy as np

    from pintpot.budget import Workload
    from pintpot.model.store import Store
    from pintpot.model.tokens import Tokenizer
    from pintpot.packer.calibrate.prompts import Prompts
    from pintpot.packer.pack import tokenizer_of
    from pintpot.proof.module_quality import Unpacked
    from pintpot.runtime.pictures import Picture
    from pintpot.runtime.sights import rows_of, sight

    part = model.part(VISION)
    about, num_rows = part.config["kind"], rows_of(part.config["kind"])
    longest = min(max(LENGTH, num_rows + WORDS_BESIDE), model.context)
    count = min(len(pictures), max(1, PICTURED_TOKENS // longest))
    chosen = [pictures[index * len(pictures) // count] for index in range(count)]
    tokenizer = Tokenizer.load(tokenizer_of(model))
    words = _words(tokenizer, chosen, text, max(1, longest - num_rows))
    alone, stage = replace(model, parts=(part,)), part.prefix + part.config["stages"][0]["name"]
    texts: list[NDArray[Any]] = []
    rows: dict[str, list[Any]] = {}
    with ExitStack() as closing, Store(alone) as store:
        unpacked = Unpacked(alone, store, Workload(), closing)
        for number, path in enumerate(chosen):
            for name, given in unpacked(sight(str(about["name"])).read(about, path), stage).items():
                rows.setdefault(name, []).append(given)
            picture = Picture(number * num_rows, tuple(about["grid"]))
            texts.append(np.array(_prompt(tokenizer, words[number], picture, about, longest)))
            told((number + 1) / count, "looking at pictures")
    joined = {name: np.concatenate(parts) for name, parts in rows.items()}
    turns, angles = _turns(model, texts, picture.grid, longest)
    return Prompts(tuple(texts), turns, {**joined, **angles})


def _words(tokenizer: Tokenizer, pictures: Sequence[Path], text: Path | None, length: int) -> list[str]:
    """What stands after each picture: what is said of it, else so many tokens of the text, evenly from all of it."""
    from pintpot.packer.calibrate.texts import read_text

    found = tokenizer.encode(read_text(text), add_special=False)
    step = max(0, len(found) - length) // max(1, len(pictures) - 1)
    pieces = (tokenizer.decode(found[number * step : number * step + length]) for number in range(len(pictures)))
    return [said_of(path) or piece for path, piece in zip(pictures, pieces, strict=True)]


def _prompt(tokenizer: Tokenizer, words: str, picture: Picture, about: Mapping[str, Any], longest: int) -> list[int]:
    """What somebody asks who shows a picture and says these words, as the model's template has it."""
    from pintpot.runtime.showing import prompt_with, shown

    found = list(prompt_with(tokenizer, [shown(words, 1)], (picture,), about)[:longest])
    whole = found.count(picture.tokens[-1]) == 1 and len(found) > found.index(picture.tokens[-1]) + 2
    room = f"a picture takes {picture.num_rows} positions, which leaves no room for words in {longest}"
    need(whole, room, UsageError)
    return found


def _turns(
    model: Model, texts: Sequence[NDArray[Any]], grid: tuple[int, int, int], longest: int
) -> tuple[tuple[NDArray[Any], ...], dict[str, NDArray[Any]]]:
    """What each token turns by, and, where positions have several directions, the angles of pictures' rows."""
    import numpy as np

    from pintpot.model.config_sections import axes_of
    from pintpot.nets._decoder import ANGLES
    from pintpot.nets._rope import rope_tables
    from pintpot.runtime.pictures import Picture, Placed, picture_angles

    config = model.part(LANGUAGE).config
    if "mrope_section" not in config:
        return tuple(np.arange(len(text)) for text in texts), {}
    table, turns, angles = rope_tables(config, longest)["rope"], [], []
    axes = axes_of(config, table.shape[1] // 2)
    for text in texts:
        picture, placed = Picture(~int(text[text < 0].max()), grid), Placed()
        placed.begin((picture,))
        turns.append(np.array(placed.turns(text.tolist(), picture.first)[0]))
        angles.append(picture_angles(table, axes, placed.starts[picture.first], grid))
    return tuple(turns), {ANGLES: np.concatenate(angles)}


def _answer(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    from pintpot.model.read import describe

    model = describe(request["model"])
    need(model.digest == request["digest"], f"{request['model']} changed meanwhile", BadInput)
    text = None if request["text"] is None else Path(request["text"])
    found = prompts_of(model, [Path(path) for path in request["pictures"]], text, progress)
    found.save(Path(request["out"]))
    return {"prompts": len(found.texts)}


if __name__ == "__main__":
    from pintpot.packer.apart import serve

    serve(_answer)

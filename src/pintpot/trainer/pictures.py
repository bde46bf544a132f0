"""Pictures to learn from: lines of JSON, each an `image`, a path beside the file, and its `label`, a name or a number.

All lines are checked before anything begins: that pictures are there and can be read, and that the model knows their
labels. Pictures are decoded and made ready when their step comes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pintpot.errors import BadInput, UnsupportedModel, need
from pintpot.runtime.kinds import About
from pintpot.runtime.kinds._pictures import check_picture, open_picture, prepared
from pintpot.trainer.data import lines_of, parsed

NO_LABEL = -1
MOST_HELD_OUT = 512
PATH_BYTES = 400
"""What a path takes in memory, and what knows it."""


@dataclass(frozen=True)
class Pictures:
    """`paths` of S pictures, and `labels` int64 [S], the numbers of their classes; `about` says how they are read."""

    paths: tuple[Path, ...]
    labels: NDArray[np.int64]
    about: About
    names: tuple[str, ...] = ("",)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def num_bytes(self) -> int:
        """What they take in memory, undecoded."""
        return self.labels.nbytes + PATH_BYTES * len(self.paths)

    def take(self, rows: NDArray[np.integer]) -> Pictures:
        """Some of them, in the order of `rows`."""
        return Pictures(tuple(self.paths[int(row)] for row in rows), self.labels[rows], self.about)

    def values(self) -> NDArray[np.float32]:
        """All of them as the model takes them, [S, 3, H, W]. Raises BadInput for one that is not there any more."""
        height, width = self.about["size"]
        found = np.empty((len(self), 3, height, width), np.float32)
        for row, path in enumerate(self.paths):
            found[row] = prepared(open_picture(path), self.about["pictures"])
        return found


def read_pictures(path: Path, about: About) -> Pictures:
    """Every line of a file. Raises BadInput with the number of the line that is wrong, and what is wrong there."""
    labels = _numbers(about)
    paths, found = list[Path](), list[int]()
    for number, line in lines_of(path):
        where = f"{path}, line {number}"
        data = parsed(line, where)
        try:
            paths.append(_picture(data, path.parent))
            found.append(_label(data, about, labels))
        except BadInput as error:
            raise BadInput(f"{where}: {error}") from error
    need(bool(paths), f"{path} holds no line to learn from")
    return Pictures(tuple(paths), np.array(found, np.int64), about)


def about_pictures(config: Mapping[str, Any]) -> About:
    """How pictures are read, of a recorded classifier. Raises UnsupportedModel for a module of another kind."""
    about = config.get("kind") or {}
    good = about.get("name") == "vision" and about.get("task") == "classify"
    need(good, "of recorded modules those learn that tell pictures apart", UnsupportedModel)
    return dict(about)


def _picture(data: Mapping[str, Any], beside: Path) -> Path:
    keys = ", ".join(map(repr, list(data)[:5])) or "nothing"
    need("image" in data and "label" in data, f"has {keys}; 'image' and 'label' are wanted")
    named = data["image"]
    need(isinstance(named, str) and bool(named), f"'image' is {named!r:.40}, not a path")
    found = beside / str(named)
    need(found.is_file(), f"there is no picture {found}")
    check_picture(found)
    return found


def _numbers(about: About) -> Mapping[str, int]:
    """The numbers of classes by their names, as far as those tell them apart."""
    names: Sequence[str] = about["labels"]
    return {name: at for at, name in enumerate(names) if names.count(name) == 1}


def _label(data: Mapping[str, Any], about: About, numbers: Mapping[str, int]) -> int:
    label, names = data["label"], about["labels"]
    if isinstance(label, str):
        known = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        need(label in numbers, f"the model has no class {label!r:.60}; its {len(names)} are {known}")
        return numbers[label]
    need(type(label) is int, f"'label' is {label!r:.40}, neither a name nor a number")
    need(0 <= label < len(names), f"the model has no class {label}; they are numbered from 0 to {len(names) - 1}")
    return int(label)

"""One file per kind of model: what a person has becomes inputs, and what a module gives becomes an answer.

A file is a kind by being here; names with `_` in front are helpers. A kind keeps what it needs as plain JSON, `about`,
which travels inside the recording (`config["kind"]`, with the kind's `name`) into plans and packs; files that it names
there (`files`, of those that a pack may hold) travel beside it. Arrays are numpy's; no kind imports torch.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from numpy.typing import NDArray

from pintpot.errors import BadInput, UnsupportedModel, UsageError, need
from pintpot.meter.overlap import Agreed

About = Mapping[str, Any]
Arrays = Mapping[str, NDArray[Any]]
Item = TypeVar("Item")
SHAPES = ("batch", "image_size", "tokens", "fewer")
"""What may be asked about the inputs that a module is recorded for, in the words of `Published.shapes`."""


class Runs(Protocol):
    """A module that computes, be it packed or the unpacked one beside it."""

    def __call__(self, inputs: Arrays, stage: str = "") -> Arrays:
        """Inputs by name -> outputs by their place in the tree of what it gives; of one stage, where it has several."""

    def reset(self) -> None:
        """Forget what its stages keep from call to call."""


@dataclass(frozen=True, slots=True)
class Published:
    """A folder of transformers, as transformers reads it: what a kind decides by.

    `task` is the name of the table in which transformers lists the architecture, in lower case ("image_classification",
    "object_detection", "masked_lm", "" for a bare encoder); `config` has its defaults; `takes` are the arguments of its
    forward. `processor` holds the image processor's settings, with its defaults; `shapes` what was asked of SHAPES.
    """

    folder: Path
    architecture: str
    task: str
    config: Mapping[str, Any]
    takes: tuple[str, ...]
    processor: Mapping[str, Any] | None = None
    shapes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Given:
    """What a person gave, in their order."""

    images: Sequence[Path] = ()
    texts: Sequence[str] = ()
    labels: Sequence[int] = ()
    """What to draw; the first is drawn from `seed` (0), each further one from the next, in so many `steps`."""
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    audios: Sequence[Path] = ()
    language: str = ""
    """In which something is said, "en" for one; empty where the model is to find out."""
    tokens: Sequence[Sequence[int]] = ()
    """Texts as the ids of their tokens, after `texts`."""

    @property
    def names(self) -> frozenset[str]:
        """Of what something was given."""
        found = frozenset(name for name in ("images", "texts", "audios", "labels") if getattr(self, name))
        return found | {"texts"} if self.tokens else found


@dataclass(frozen=True, slots=True)
class Batch:
    """Inputs of one call, of the recorded shapes; row i is about `names[i]`, and rows beyond the names fill up.

    `places` are those of the names among all that was given, where they are not in its order.
    """

    inputs: Arrays
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    places: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What one thing that was given became: `data` as JSON, `text` in short for people."""

    name: str
    text: str
    data: Mapping[str, Any]
    picture: NDArray[Any] | None = None
    """What was drawn, of bytes [H, W] or [H, W, 3]."""


class Kind(Protocol):
    """What each file of this folder offers."""

    TAKES: frozenset[str]
    """Which fields of `Given` it reads."""

    def about(self, published: Published) -> dict[str, Any] | None:
        """What this kind has to know of a model, None for a model of another kind.

        `files` are copied beside the recording; `memory_bytes` is the most that reading a person's inputs takes; each
        of `narrower`, where it is there, says by which other values of its keys examples are recorded, too.
        Raises UnsupportedModel for a model of this kind that cannot be fed.
        """

    def examples(self, about: About) -> Arrays:
        """Inputs of the shapes to record, with values that the module may meet."""

    def read(self, about: About, folder: Path, given: Given) -> Iterator[Batch]:
        """A person's files or texts as inputs, call by call; `folder` holds the kind's files. Raises BadInput."""

    def compute(self, about: About, run: Runs, batch: Batch) -> Arrays:
        """What the module makes of a batch, with as many calls as that takes; the following read nothing else of it."""

    def answers(self, about: About, folder: Path, batch: Batch, outputs: Arrays) -> Iterator[Answer]:
        """One answer for each name of a batch."""

    def offers(self, about: About) -> str:
        """What a server offers of such a model: "embeddings", "transcriptions" or "images"; "" for nothing."""

    def effort(self, about: About, folder: Path, given: Given) -> float:
        """How many times the work of the planned workload it is to answer about everything that was given.

        Raises BadInput for what could not be read, as far as that is soon seen.
        """

    def samples(self, about: About, folder: Path, given: Given) -> Iterator[Batch]:
        """Inputs on which packed and unpacked are compared: of `given` what this kind reads, or else drawn."""

    def judged(self, about: About, batch: Batch, outputs: Arrays) -> Arrays:
        """The arrays [names, ...] by which an answer is judged: their cosine to the unpacked module's is promised."""

    def agreement(
        self, about: About, folder: Path, batch: Batch, reference: Arrays, test: Arrays
    ) -> tuple[Agreed, ...]:
        """How far both modules agree on a batch, in this kind's own measures; `folder` holds the kind's files."""


@cache
def kinds() -> tuple[str, ...]:
    """The kinds there are."""
    found = (info.name for info in pkgutil.iter_modules(__path__))
    return tuple(name for name in found if not name.startswith("_"))


@cache
def kind(name: str) -> Kind:
    """A kind by name. Raises UnsupportedModel for one without a file."""
    need(name in kinds(), f"no kind of model {name!r:.40}; there are {', '.join(kinds())}", UnsupportedModel)
    return cast(Kind, importlib.import_module(f"{__name__}.{name}"))


def kind_of(published: Published) -> tuple[Kind, dict[str, Any]]:
    """The kind that feeds a published model, and what it keeps of it. Raises UnsupportedModel where none does."""
    for name in kinds():
        found = kind(name)
        about = found.about(published)
        if about is not None:
            return found, {"name": name, **about}
    listed = ", ".join(published.takes[:6])
    raise UnsupportedModel(
        f"{published.folder.name}: no kind here ({', '.join(kinds())}) knows how to feed {published.architecture}, "
        f"which takes {listed}; build it yourself and give it to pintpot.adapt"
    )


def kept(config: Mapping[str, Any]) -> tuple[Kind, About] | None:
    """The kind of a recording and what it keeps; None where the module takes tensors alone. Raises BadInput."""
    about = config.get("kind")
    if about is None:
        return None
    need(isinstance(about, Mapping) and isinstance(about.get("name"), str), "a recording of no kind", BadInput)
    return kind(about["name"]), about


def side_by_side(items: Iterable[Item], batch: int) -> Iterator[tuple[Item, ...]]:
    """So many at a time, in their order; the last may be fewer."""
    left = iter(items)
    while some := tuple(islice(left, batch)):
        yield some


def check_given(found: Kind, given: Given, model: str) -> None:
    """Raise UsageError unless what was given is what this kind takes."""
    wanted = " and ".join(f"--{name.removesuffix('s')}" for name in sorted(found.TAKES))
    need(bool(given.names), f"{model} needs something to look at: {wanted}", UsageError)
    need(given.names == found.TAKES, f"{model} takes {wanted}", UsageError)

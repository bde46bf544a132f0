"""A step: one technique with its knobs set. It says what it changes, and never computes bytes or seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar

from pintpot.budget import Budget
from pintpot.contract.form import Form, WeightForm
from pintpot.contract.slots import Slots
from pintpot.contract.statistics import Block, InputStatistics, Sensitivity
from pintpot.contract.targets import overlap
from pintpot.errors import UsageError
from pintpot.machine.spec import Machine
from pintpot.model.spec import Model
from pintpot.program.spec import Work

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Facet(IntEnum):
    """What a step changes, in the order in which steps apply. Two steps clash on the same facet of the same weights."""

    WEIGHING = 0
    TRANSFORM = 1
    ORDER = 2
    SPARSITY = 3
    FORMAT = 4
    LEAVES = 5
    OUTLIERS = 6
    ROUNDING = 7
    ADAPT = 8
    LEARNING = 9
    FREEZING = 10
    TEACHING = 11
    ATTENTION = 12
    TOKENS = 13
    STEPS = 14
    REUSE = 15
    CACHE = 16
    CACHE_FORMAT = 17
    DRAFT = 18
    GRADIENT = 19
    ACTIVATIONS = 20
    FUNCTIONS = 21
    PATCHES = 22
    OPTIMIZER = 23
    TURNS = 24
    BATCHING = 25
    PLACE = 26
    PARALLEL = 27
    FILTERING = 28


TRANSFORMS = frozenset({Facet.TRANSFORM, Facet.ORDER})
"""Steps of these change the floats of a block before anything of it is rounded."""
CALIBRATED = TRANSFORMS | {Facet.WEIGHING, Facet.OUTLIERS, Facet.ROUNDING}
"""Steps of these have to see what meets a weight: their weights are made while calibrating, and not while packing."""


GENTLER = (Facet.WEIGHING, Facet.TRANSFORM, Facet.ORDER, Facet.ROUNDING)
"""Facets of steps that change neither bytes nor work: what a FORMAT step promised is only rounded with less harm."""


@dataclass(frozen=True, slots=True)
class SourceRows:
    """Some rows of one weight as its file holds them: `raw` uint8 [rows, row bytes] of encoding `source`."""

    source: str
    raw: NDArray[np.uint8]
    columns: int


@dataclass(frozen=True)
class Step:
    """The base of every technique; a technique is a frozen dataclass whose fields are its knobs.

    `paper` is where the idea comes from, `needs` the statistics that `transform`, `round` and `counts` want (MOMENTS,
    SCALES, GRADIENTS of `contract.statistics`). All verbs do nothing by default. A step that is there `for_memory` is
    taken for speed only where a plan is faster with it than prices are off.
    """

    paper: ClassVar[str]
    facet: ClassVar[Facet]
    needs: ClassVar[frozenset[str]] = frozenset()
    for_memory: ClassVar[bool] = False
    target: str = "all"

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def key(self) -> str | None:
        """The row of the table of degradation priors that this step falls under, None when it changes no value.

        It is about the words of answers, which are decoded after a prompt that was prefilled.
        """
        return None

    @property
    def prefill_key(self) -> str | None:
        """The row for the words of a prompt, as prefill reads them."""
        return self.key

    @property
    def wants(self) -> frozenset[str]:
        """The statistics that these knobs want, of those that the technique may need."""
        return self.needs

    @property
    def visits(self) -> int:
        """How often `round` goes over the columns of a weight, each time with all that they share with the others."""
        return 0

    def remains(self, weight: WeightForm) -> tuple[float, float]:
        """What share of what its format costs one weight is left, low..high, where this step rounds it more gently."""
        return 1.0, 1.0

    def check(self, model: Model, form: Form) -> None:
        """Raise NotApplicable, with the reason, where this step cannot apply to this model in this form."""

    def promise(self, form: Form) -> Form:
        """The form after this step."""
        return form

    def told(self, work: Work) -> tuple[str, ...]:
        """What whoever reads a plan ought to know of this step in it."""
        return ()

    def rewrite(self, work: Work, form: Form) -> Work:
        """The work after this step."""
        return work

    def convert(self, weight: WeightForm, rows: SourceRows) -> NDArray[np.uint8] | None:
        """Strips [num strips, strip bytes] of these rows in the promised format; None leaves them to another step."""
        return None

    def counts(self, found: Sensitivity) -> tuple[float, float] | None:
        """How often a word's row and a picture's count in what is seen of an op's inputs; None: once each."""
        return None

    def transform(self, block: Block) -> None:
        """Change the floats of a block in place: the network computes the same function, and rounds better."""

    def columns_apart(self, weights: Sequence[WeightForm], inputs: InputStatistics) -> NDArray[np.int64] | None:
        """Which columns [C], ascending, of the weights that share an input lie beside their grid; None: no such."""
        return None

    def round(
        self, weight: WeightForm, values: NDArray[np.float32], inputs: InputStatistics
    ) -> NDArray[np.uint8] | None:
        """Strips [num strips, strip bytes] of float32 [N, K] in the promised format; None rounds to nearest."""
        return None

    def install(self, slots: Slots) -> None:
        """Fill slots of an opened pack."""

    def clashes(self, other: Step) -> bool:
        return self.facet == other.facet and overlap(self.target, other.target)

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        """The settings of this technique that the planner should consider."""
        return ()

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, **{field.name: getattr(self, field.name) for field in fields(self)}}

    def __str__(self) -> str:
        knobs = ", ".join(f"{f.name}={getattr(self, f.name)}" for f in fields(self) if f.name != "target")
        return f"{self.name}({knobs})" + ("" if self.target == "all" else f" on {self.target}")


def step_from_json(data: Mapping[str, Any], classes: Mapping[str, type[Step]]) -> Step:
    """The step that `to_json` wrote. Raises UsageError for a technique or knob that is not known."""
    knobs = dict(data)
    name = knobs.pop("name", None)
    if name not in classes:
        raise UsageError(f"no technique {name!r}; there are {', '.join(sorted(classes))}")
    try:
        return classes[name](**knobs)
    except TypeError as error:
        raise UsageError(f"{name}: {error}") from error

"""SlimFit: blocks whose weights hardly moved of late are frozen for some steps, and have no gradients meanwhile."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from pintpot.budget import Train
from pintpot.contract.form import Form
from pintpot.contract.learning import LearningStep
from pintpot.contract.slots import Slots
from pintpot.contract.step import Facet
from pintpot.contract.training import LORA_A, LORA_B, block_of
from pintpot.contract.tutor import Tutor
from pintpot.errors import NotApplicable, need
from pintpot.model.spec import Model
from pintpot.program.spec import Op, Program, Segment, Stage, Work

if TYPE_CHECKING:
    import torch

SAMPLED = 1 << 14
"""Values of a tensor by which it is seen how far it moved: evenly spaced ones of larger tensors."""
MOST_WINDOWS = 3
"""So many windows in a row a block is frozen at most; then it is measured again."""
BACKWARD, STILL = "backward", "backward, some frozen"


@dataclass(frozen=True)
class SlimFit(LearningStep):
    """Every `window` steps the `share` of the blocks that changed least, relative to their size, are frozen.

    A frozen block computes no gradients of weights and keeps nothing for them; before the first block that is awake
    there is no way back at all, unless the vocabulary learns. All are awake for the first window.
    """

    paper: ClassVar[str] = "SlimFit, Ardakani et al. 2023, arXiv:2305.18513"
    facet: ClassVar[Facet] = Facet.FREEZING
    share: float = 0.5
    window: int = 10

    def check(self, model: Model, form: Form) -> None:
        super().check(model, form)
        need(0 < self.share < 1, f"of the blocks a share between 0 and 1 is frozen, not {self.share}", NotApplicable)
        need(self.window >= 1, f"a window is one step or more, not {self.window}", NotApplicable)
        gradients = form.training is None or not form.training.distance
        need(gradients, "steps from losses alone have no gradients that freezing could save", NotApplicable)

    @classmethod
    def choices(cls, train: Train) -> tuple[Self, ...]:
        return ()

    def rewrite(self, work: Work, form: Form) -> Work:
        """After the first window the backward of steps in which blocks are frozen: the last ones, the dear case."""
        return Work(tuple(one for stage in work.stages for one in self._split(stage)), work.key)

    def _split(self, stage: Stage) -> tuple[Stage, ...]:
        if stage.name != BACKWARD:
            return (stage,)
        ((extent, steps),) = stage.extents
        program = stage.programs[0]
        blocks = [segment.slot for segment in program.segments if segment.slot and "." in segment.slot]
        still = blocks[: int(self.share * len(blocks))]
        if not still or steps <= self.window:
            return (stage,)
        later = Stage(STILL, stage.part, (_without_gradients(program, still),), ((extent, steps - self.window),))
        return replace(stage, extents=((extent, self.window),)), later

    def install(self, slots: Slots) -> None:
        slots.tutors.append(Dynamics(self.share, self.window))


def _without_gradients(program: Program, blocks: Collection[str | None]) -> Program:
    ops: list[Op] = []
    segments: list[Segment] = []
    for segment in program.segments:
        own = program.ops[segment.first : segment.stop]
        if segment.slot in blocks:
            own = tuple(_still(op) for op in own if op.kind not in ("update", "store"))
        segments.append(Segment(len(ops), len(ops) + len(own), segment.slot))
        ops += own
    used = {name for op in ops for _, name in (*op.reads, *op.writes)}
    buffers = tuple(one for one in program.buffers if one.name in used)
    return Program(STILL, program.bounds, buffers, tuple(ops), tuple(segments))


def _still(op: Op) -> Op:
    """An op whose weights have no gradients: of what it goes back to only the rows are left."""
    if op.kind != "backward":
        return op
    knobs = tuple((key, False if key == "trained" else value) for key, value in op.attributes)
    return replace(op, writes=op.writes[:1], attributes=knobs)


class Dynamics(Tutor):
    """How far each block moved in the window behind, and which of them rest in this one."""

    def __init__(self, share: float, window: int) -> None:
        self._share, self._window = share, window
        self._values: dict[str, dict[str, torch.Tensor]] = {}
        self._before: dict[str, torch.Tensor] = {}
        self._state: dict[str, torch.Tensor] = {}

    def begin(self, values: Mapping[str, torch.Tensor]) -> None:
        for name, value in values.items():
            own = name.removesuffix(LORA_A).removesuffix(LORA_B)
            if "." in own:
                self._values.setdefault(block_of(own), {})[name] = value
        any_value = next(iter(values.values()))
        self._before = {name: _sample(one).clone() for own in self._values.values() for name, one in own.items()}
        count = len(self._values)
        self._state = {
            "slimfit.moved": any_value.new_zeros(count),
            "slimfit.windows": any_value.new_zeros(count),
            "slimfit.seen": any_value.new_zeros(1),
        }

    def tensors(self) -> Mapping[str, torch.Tensor]:
        return {**self._state, **{f"slimfit.{name}": one for name, one in self._before.items()}}

    def resting(self, step: int) -> frozenset[str]:
        moved, windows, seen = self._state.values()
        if step // self._window > int(seen):
            self._measure(moved, windows)
            self._choose(moved, windows)
            seen.fill_(step // self._window)
        return frozenset(name for name, count in zip(self._values, windows.tolist(), strict=True) if count)

    def _measure(self, moved: torch.Tensor, windows: torch.Tensor) -> None:
        """What was awake: the sum of what its values moved, over the sum of their magnitudes."""
        for at, own in enumerate(self._values.values()):
            pairs = [(_sample(value), self._before[name]) for name, value in own.items()]
            if not int(windows[at]):
                far = sum(float((now - before).abs().sum()) for now, before in pairs)
                moved[at] = far / max(1e-30, sum(float(before.abs().sum()) for _, before in pairs))
            for now, before in pairs:
                before.copy_(now)

    def _choose(self, moved: torch.Tensor, windows: torch.Tensor) -> None:
        """The least moved are frozen, for one window more if they are already, and not for more than some in a row."""
        order = sorted(range(len(moved)), key=lambda at: (float(moved[at]), at))
        free = [at for at in order if int(windows[at]) < MOST_WINDOWS]
        frozen = set(free[: int(self._share * len(order))])
        for at in range(len(order)):
            windows[at] = int(windows[at]) + 1 if at in frozen else 0


def _sample(value: torch.Tensor) -> torch.Tensor:
    return value.view(-1)[:: -(-value.numel() // SAMPLED)]

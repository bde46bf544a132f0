"""S-STE: a model learns while rows meet weights of which two of four are zero, by a function that never jumps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from pintpot.budget import Train
from pintpot.contract.form import Form
from pintpot.contract.learning import LearningStep
from pintpot.contract.slots import Slots
from pintpot.contract.step import Facet
from pintpot.contract.tutor import Tutor
from pintpot.errors import Diverged, NotApplicable, need
from pintpot.model.spec import Model
from pintpot.program.spec import Buffer, Op, Program, Segment, Stage, Work

if TYPE_CHECKING:
    import torch

PRUNED = ".pruned"
"""Behind the name of a weight: as rows meet it."""


@dataclass(frozen=True)
class SSte(LearningStep):
    """Dense weights learn by the gradients of sparse ones: `scale` S(w), S(w) = w less the second smallest of four.

    The scale is that of the least squared distance from w to what rows meet, one for each matrix, taken once at the
    start. What is left at the end is what rows met. With `estimated` weights learn by an unbiased 2:4 estimate of their
    outputs' gradients, as in the paper, and not by these themselves: a tensor core is faster with it, a processor only
    adds noise. The paper's products in 8-bit floats are left out: no processor here multiplies those, so that they
    would be expanded first and rounded for nothing.
    """

    paper: ClassVar[str] = "S-STE, Hu et al. 2024, arXiv:2409.09099"
    facet: ClassVar[Facet] = Facet.SPARSITY
    estimated: bool = False

    def check(self, model: Model, form: Form) -> None:
        super().check(model, form)
        pruned = [weight for weight in form.weights if _prunes(weight.name, len(weight.shape), form)]
        need(bool(pruned), "no matrix of a block learns itself, and adapters would fill zeros (full)", NotApplicable)
        odd = [weight.name for weight in pruned if weight.shape[1] % 4]
        need(not odd, f"rows of {', '.join(odd[:3])} are no whole fours", NotApplicable)

    @classmethod
    def choices(cls, train: Train) -> tuple[Self, ...]:
        return ()

    def rewrite(self, work: Work, form: Form) -> Work:
        """Every block's matrices are pruned anew whenever the block is computed."""
        return Work(tuple(self._pruning(stage, form) for stage in work.stages), work.key)

    def _pruning(self, stage: Stage, form: Form) -> Stage:
        program = stage.programs[0]
        ops: list[Op] = []
        segments: list[Segment] = []
        for segment in program.segments:
            first, own = len(ops), program.ops[segment.first : segment.stop]
            met = {name: program.shape(name) for op in own if op.kind == "forward" for name in _weights(op, program)}
            names = {name for name, shape in met.items() if _prunes(name, len(shape), form)}
            ops += (Op("prune", (("weight", name),), (("out", name + PRUNED),)) for name in sorted(names))
            ops += (self._meeting(op, names) for op in own)
            segments.append(Segment(first, len(ops), segment.slot))
        made = dict.fromkeys(str(op.read("weight")) for op in ops if op.kind == "prune")
        more = tuple(Buffer(name + PRUNED, program.shape(name), "f32", "buffers", "step") for name in made)
        return replace(stage, programs=(_with(program, more, ops, segments),))

    def _meeting(self, op: Op, names: set[str]) -> Op:
        """As it reads pruned weights, and learns by estimates."""
        met = [name.removesuffix(".floats") for name in op.read_all("weight")]
        more = tuple(("pruned", name + PRUNED) for name in met if name in names and op.kind != "update")
        if not more:
            return op
        knobs = (("estimated", True),) if self.estimated and op.get("of") == "linear" else ()
        return replace(op, reads=(*op.reads, *more), attributes=(*op.attributes, *knobs))

    def install(self, slots: Slots) -> None:
        slots.tutors.append(Softened())


def _with(program: Program, more: tuple[Buffer, ...], ops: list[Op], segments: list[Segment]) -> Program:
    return Program(program.name, program.bounds, (*program.buffers, *more), tuple(ops), tuple(segments))


def _weights(op: Op, program: Program) -> Iterator[str]:
    for name in op.read_all("weight"):
        own = name.removesuffix(".floats")
        if own in program.by_name:
            yield own


def _prunes(name: str, num_axes: int, form: Form) -> bool:
    how = form.training
    return "." in name and num_axes == 2 and how is not None and how.changes(form.weights.by_name[name])


class Softened(Tutor):
    """Scales by name; weights as rows meet them."""

    def __init__(self) -> None:
        self._scales: dict[str, torch.Tensor] = {}

    def begin(self, values: Mapping[str, torch.Tensor]) -> None:
        from pintpot.kernels.torch.two_four import softened

        for name, value in values.items():
            if "." in name and value.dim() == 2:
                sparse = softened(value)
                size = sparse.square().sum().clamp_min(1e-30)
                self._scales[name] = ((value * sparse).sum() / size).reshape(1)

    def tensors(self) -> Mapping[str, torch.Tensor]:
        return {f"s_ste.{name}": scale for name, scale in self._scales.items()}

    def met(self, name: str, value: torch.Tensor) -> torch.Tensor:
        from pintpot.kernels.torch.two_four import softened

        scale = self._scales.get(name)
        return value if scale is None else softened(value).mul_(scale)

    def left(self, name: str, value: torch.Tensor) -> torch.Tensor:
        from pintpot.kernels.torch.two_four import is_two_four

        found = self.met(name, value)
        need(name not in self._scales or is_two_four(found), f"{name} is not 2:4 after learning", Diverged)
        return found

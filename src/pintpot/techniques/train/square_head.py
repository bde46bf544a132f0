"""SquareHead: a sparse model learns what the dense one holds after every block, beside the words themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from pintpot.budget import Train
from pintpot.contract.form import Form
from pintpot.contract.learning import LearningStep
from pintpot.contract.slots import Slots
from pintpot.contract.step import Facet
from pintpot.contract.training import block_of
from pintpot.contract.tutor import Tutor
from pintpot.errors import NotApplicable, need
from pintpot.formats import encoding
from pintpot.model.spec import Model
from pintpot.program.spec import Buffer, Op, Program, Segment, Work

if TYPE_CHECKING:
    import torch

TEACHER, TAUGHT = "teacher", "teacher."
AHEAD_BLOCKS = 3
"""Blocks of the teacher as floats that are in memory beside the states that it leaves: the one that comes, what it is
decoded from, and what was freed between states that stay. SmolLM2 took 87 MB beside states of 73."""


@dataclass(frozen=True)
class SquareHead(LearningStep):
    """The loss grows by `weight` times |s - t|^2 / |t|^2, the mean over tokens, of each block: s is what it leaves.

    t is what the teacher's block leaves, the model as it came; each token counts by its own size, since single ones
    are a hundred times as large as the others and would be all that is learned. The teacher's weights are read block by
    block in every step, for one way forward.
    """

    paper: ClassVar[str] = "Kurtic et al. 2023, arXiv:2310.06927"
    facet: ClassVar[Facet] = Facet.TEACHING
    weight: float = 1.0

    def check(self, model: Model, form: Form) -> None:
        super().check(model, form)
        need(self.weight > 0, f"a loss counts more than 0 times, not {self.weight}", NotApplicable)
        gradients = form.training is None or not form.training.distance
        need(gradients, "steps from losses alone have no gradients to which a teacher could add", NotApplicable)

    @classmethod
    def choices(cls, train: Train) -> tuple[Self, ...]:
        return ()

    def rewrite(self, work: Work, form: Form) -> Work:
        """A way forward more, over weights as the model's files hold them, and what it leaves after every block."""
        forward = work.stage("forward")
        program = _taught(forward.programs[0], form)
        first = replace(forward, name=TEACHER, programs=(program,))
        return Work((first, *work.stages), work.key)

    def install(self, slots: Slots) -> None:
        slots.tutors.append(Features(self.weight))


def _taught(program: Program, form: Form) -> Program:
    """A forward program whose weights come for their block alone, and whose states have names of their own."""
    buffers = {one.name: one for one in program.buffers}
    saved = {name for op in program.ops for role, name in op.writes if role == "saved"}
    rows = {name for name, one in buffers.items() if one.shape[0] == "tokens" and len(one.shape) == 2}
    states = rows - saved  # nothing goes back through a teacher
    for name in sorted(states):
        buffers[TAUGHT + name] = Buffer(TAUGHT + name, buffers[name].shape, "f32", "activations", "session")
    ops: list[Op] = []
    segments: list[Segment] = []
    for segment in program.segments:
        first = len(ops)
        own = [op for op in program.ops[segment.first : segment.stop] if op.kind == "forward"]
        matrices = {_own(name) for op in own if op.get("of") == "linear" for name in op.read_all("weight")}
        ops += _looked_up(own, form) if own[0].get("of") == "embed" else _arriving(sorted(matrices), form, buffers)
        ops += (_renamed(op, states, matrices) for op in own)
        segments.append(Segment(first, len(ops), segment.slot))
    used = {name for op in ops for _, name in (*op.reads, *op.writes)}
    kept = tuple(one for name, one in buffers.items() if name in used)
    sizes: dict[str, int] = {}
    for weight in form.weights:
        if weight.is_matrix and "." in weight.name:
            sizes[block_of(weight.name)] = sizes.get(block_of(weight.name), 0) + weight.shape[0] * weight.shape[1]
    ahead = Buffer(TAUGHT + "ahead", (AHEAD_BLOCKS * max(sizes.values(), default=1),), "f32", "buffers", "session")
    return Program(TEACHER, program.bounds, (*kept, ahead), tuple(ops), tuple(segments))


def _looked_up(own: list[Op], form: Form) -> Iterator[Op]:
    one = form.weights.by_name[_own(str(own[0].read("weight")))]
    row_bytes = encoding(one.source).row_bytes(one.shape[1])
    yield Op("fetch", (), (), (("bytes", row_bytes), ("per_token", True)), lane="read")


def _arriving(names: list[str], form: Form, buffers: dict[str, Buffer]) -> Iterator[Op]:
    """Weights of a block are read as the model's files hold them, and become floats."""
    forms = [form.weights.by_name[name] for name in names]
    away = sum(one.shape[0] * encoding(one.source).row_bytes(one.shape[1]) for one in forms)
    if away:
        yield Op("fetch", (), (), (("bytes", away),), lane="read")
    computed_in = "f32" if form.training is None else form.training.computed_in
    for one in forms:
        source, floats = f"{TAUGHT}{one.name}.source", TAUGHT + one.name
        buffers[source] = Buffer(source, one.shape, one.source, "buffers", "step")
        buffers[floats] = Buffer(floats, one.shape, computed_in, "buffers", "step")
        yield Op("expand", (("weight", source),), (("out", floats),))


def _renamed(op: Op, states: set[str], matrices: set[str]) -> Op:
    def told(name: str) -> str:
        return TAUGHT + _own(name) if name in states or _own(name) in matrices else name

    reads = tuple((role, told(name)) for role, name in op.reads if role not in ("adapter", "pruned"))
    return replace(op, reads=reads, writes=tuple((role, told(name)) for role, name in op.writes if role != "saved"))


def _own(name: str) -> str:
    return name.removesuffix(".floats")


class Features(Tutor):
    """By the states after a block: the gradient of their squared distance from the teacher's, over its square.

    The mean over tokens.
    """

    wants_teacher = True

    def __init__(self, weight: float) -> None:
        self._weight = weight

    def pulled(self, states: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor | None:
        sizes = wanted.square().sum(dim=1, keepdim=True).clamp_min(1e-30)
        return (states - wanted).mul_(2 * self._weight / len(wanted)).div_(sizes)

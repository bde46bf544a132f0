"""The blocks of a decoder, as whoever goes through it block by block wants them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from pintpot.budget import Workload
from pintpot.contract.form import CacheForm, Form
from pintpot.contract.training import block_of
from pintpot.errors import UnsupportedModel, need
from pintpot.model.spec import Part
from pintpot.nets import family
from pintpot.program.blocks import BlockOps, cut_blocks
from pintpot.program.spec import Op, Program, Segment


def decoder_blocks(part: Part, form: Form, length: int) -> tuple[Program, Op, list[BlockOps], Op]:
    """A family's prefill over one text: the program, its embedding, its blocks, and its head."""
    page = CacheForm().page_tokens
    context = -(-length // page) * page
    plain = replace(form, cache=CacheForm("f32"), chunk=context)
    program = family(part.family).work(part.config, plain, Workload(context=context)).stage("prefill").programs[0]
    stop = next(index for index, op in enumerate(program.ops) if op.kind == "select")
    head = next(op for op in program.ops[stop:] if op.kind == "linear")
    need(program.ops[0].kind == "embed", f"{part.family} does not begin with an embedding", UnsupportedModel)
    owner = {weight.name: block_of(weight.name) for weight in form.weights}
    return program, program.ops[0], cut_blocks(program, program.ops[1:stop], owner), head


@dataclass(frozen=True)
class Pass:
    """The ops of one stage so far, cut where blocks end."""

    ops: list[Op]
    segments: list[Segment]

    def add(self, name: str, *ops: Iterable[Op]) -> None:
        first = len(self.ops)
        self.ops.extend(op for some in ops for op in some)
        self.segments.append(Segment(first, len(self.ops), name))

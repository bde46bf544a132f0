"""The channels of the whole network are rotated by orthogonal matrices before rounding, so that none stands out.

QuaRot: Ashkboos et al. 2024, arXiv:2404.00456. The stream between blocks is rotated by what writes and reads it: the
gains of the norms, which see lengths alone, go into the matrices that follow; embedding, `o` and `down` write rotated
channels, all others read them. So are the values of each head, by `v` and `o`. What meets `down` is rotated as it
arrives, in blocks. Sizes that are no power of two have Hadamard matrices side by side, mixed by a Hartley matrix
(Bracewell 1983); signs that depend on the size alone come before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import shake_128
from typing import TYPE_CHECKING, ClassVar

from pintpot.contract.form import Form, matches
from pintpot.contract.rotation import LEAST, MOST, Forms, Rotation, fitting, is_low_bit, reachable, value_rows
from pintpot.contract.statistics import Block
from pintpot.errors import NotApplicable, need
from pintpot.model.names import POST_NORMS
from pintpot.model.spec import Model
from pintpot.program.ops.linear import gated
from pintpot.program.spec import Op, Work

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


@dataclass(frozen=True)
class QuaRot(Rotation):
    """The stream, the values of heads, and what meets `down`, in blocks of up to so many channels (0: not).

    With the stream it is about "all" weights, without it about "blocks".
    """

    paper: ClassVar[str] = "QuaRot, Ashkboos et al. 2024, arXiv:2404.00456"
    stream: bool = True
    heads: bool = True
    down: int = 512

    def check(self, model: Model, form: Form) -> None:
        wanted = "all" if self.stream else "blocks"
        need(self.target == wanted, f"these knobs rotate {wanted!r}, not {self.target!r}", NotApplicable)
        power = self.down == 0 or (LEAST <= self.down <= MOST and self.down & (self.down - 1) == 0)
        need(power, f"a block has {LEAST} to {MOST} columns, a power of two, not {self.down}", NotApplicable)
        need(self.stream or self.heads or self.down > 0, "nothing would be rotated with these knobs", NotApplicable)
        normed = self.stream and any(weight.role in POST_NORMS for weight in form.weights)
        need(not normed, "a norm between a product and the stream has gains that cannot be moved", NotApplicable)
        routed = self.stream and any(weight.experts > 1 for weight in form.weights)
        need(not routed, "experts share a norm with the scores that choose them, and only they move", NotApplicable)
        tied = self.stream and "head" not in form.weights.names
        need(not tied, "embedding and head are one matrix, and only the head can take up the last norm", NotApplicable)

    def rewrite(self, work: Work, form: Form) -> Work:
        """Raises NotApplicable where a weight is kept in a format that only its file's values have."""
        fixed = [w for w in form.weights if w.is_matrix and matches(self.target, w.name) and not reachable(w)]
        names = ", ".join(f"{w.name} in {w.format}" for w in fixed[:2])
        need(not fixed, f"rotated values cannot be kept as {names}", NotApplicable)
        given = any(op.read("given") for program in work.programs() for op in program.ops if op.kind == "embed")
        need(not (self.stream and given), "what images become would meet a stream that is turned", NotApplicable)
        return super().rewrite(work, form)

    def online(self, op: Op, ops: Sequence[Op], forms: Forms) -> int:
        names = op.read_all("weight") if op.kind == "linear" and gated(op) else ()
        rounded = bool(names) and any(is_low_bit(forms[name]) for name in names)
        return fitting(self.down, forms[names[0]].shape[1]) if self.down and rounded else 0

    def transform(self, block: Block) -> None:
        from pintpot.formats.hadamard import rotate_columns

        values = block.values
        for op in block.ops:
            if self.stream:
                self._turn_stream(block, op)
            if self.heads and op.kind == "linear":
                self._turn_heads(block, op)
            size = self.online(op, block.ops, block.forms)
            for name in op.read_all("weight") if size else ():
                values[name] = rotate_columns(values[name], size)

    def _turn_stream(self, block: Block, op: Op) -> None:
        """What an op reads of the stream, and what it writes there."""
        values, names = block.values, op.read_all("weight")
        if op.get("prologue") == "rmsnorm":
            norm = str(op.read("norm"))
            for name in names:
                values[name] = turned(values[name] * values[norm])
            values[norm] = values[norm] * 0 + 1
        elif op.kind == "embed":
            values[names[0]] = turned(values[names[0]])
        if op.read("residual") is not None:
            for name in (*names, *op.read_all("bias")):
                values[name] = _contiguous(turned(_contiguous(values[name].T)).T)

    def _turn_heads(self, block: Block, op: Op) -> None:
        from pintpot.formats.hadamard import rotate_columns, rotate_rows

        attend = next((other for other in block.ops if other.kind == "attend"), None)
        size = 0 if attend is None else fitting(MOST, attend.get("head_dim"))
        rows = value_rows(op, block.ops, size)
        for name in op.read_all("weight") if rows else ():
            block.values[name] = rotate_columns(block.values[name], size)
        for name in rows:
            block.values[name] = rotate_rows(block.values[name], size)


def turned(values: Floats) -> Floats:
    """Float32 [..., D] times the orthogonal matrix of the stream, [D, D]."""
    import numpy as np

    from pintpot.formats.hadamard import rotate_columns

    columns = values.shape[-1]
    size = columns & -columns
    found = values * _signs(columns)
    if size > 1:
        found = rotate_columns(found, size)
    if size == columns:
        return found
    blocks = found.reshape(-1, columns // size, size)
    mixed: Floats = np.matmul(_hartley(columns // size), blocks).reshape(values.shape)
    return mixed


def _hartley(size: int) -> Floats:
    """cos + sin of 2 pi i j / size, over sqrt(size): symmetric, and its own inverse."""
    import numpy as np

    angles = 2 * np.pi * (np.outer(np.arange(size), np.arange(size)) % size) / size
    return np.asarray((np.cos(angles) + np.sin(angles)) / np.sqrt(size), np.float32)


def _signs(size: int) -> Floats:
    import numpy as np

    bits = np.unpackbits(np.frombuffer(shake_128(b"signs of a stream").digest(-(-size // 8)), np.uint8))
    return np.where(bits[:size], np.float32(-1), np.float32(1))


def _contiguous(values: Floats) -> Floats:
    import numpy as np

    return np.ascontiguousarray(values)

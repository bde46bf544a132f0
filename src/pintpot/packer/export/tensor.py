"""One tensor of the exported file, and its rows in the order and the encoding that the file wants, some at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import lcm, prod
from typing import TYPE_CHECKING, Any, Literal

from pintpot.contract.form import STRIP_ROWS, WeightForm
from pintpot.errors import UnsupportedModel, need
from pintpot.formats import chunk_rows, encoding
from pintpot.packer.export.strips import PackedWeights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]

Order = Literal["as it is", "pairs to halves", "halves to pairs"]
"""Of the rows of each head of q and k: Hugging Face has halves; GGUF's architecture `llama` has pairs side by side."""


@dataclass(frozen=True)
class Tensor:
    """`name` in the file; `dtype` an encoding that files hold. Without a `weight` it is `values`, one axis in float32.

    It has the rows of its weight from `first_row` on: those of an expert where files have a tensor for each. `exact`
    says whether `dtype` holds every value of the packed format.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    weight: WeightForm | None = None
    values: tuple[float, ...] = ()
    order: Order = "as it is"
    head_dim: int = 0
    exact: bool = True
    first_row: int = 0

    @property
    def rows(self) -> int:
        """Rows of a matrix, of all experts that it holds; 1 of a vector."""
        return prod(self.shape[:-1])

    @property
    def num_bytes(self) -> int:
        return self.rows * encoding(self.dtype).row_bytes(self.shape[-1])


class Rounded:
    """How far rounded values are from those of the pack."""

    def __init__(self) -> None:
        self._error = self._size = 0.0

    @property
    def relative(self) -> float:
        """Root of the squared error over the root of the squared values."""
        return float((self._error / self._size) ** 0.5) if self._size else 0.0

    def add(self, values: NDArray[np.float32], back: NDArray[np.float32]) -> None:
        import numpy as np

        self._size += float(np.square(values, dtype=np.float64).sum())
        self._error += float(np.square(back.astype(np.float64) - values).sum())


def data_of(tensor: Tensor, weights: PackedWeights, rounded: Rounded) -> Iterator[Bytes]:
    """The bytes of a tensor in file order; what was lost by rounding is added to `rounded`."""
    import numpy as np

    if tensor.weight is not None and tensor.weight.is_matrix:
        yield from _matrix(tensor, tensor.weight, weights, rounded)
        return
    values = np.array(tensor.values, np.float32) if tensor.weight is None else weights.vector(tensor.weight)
    rows = _in_order(values.reshape(-1, 1), tensor)
    yield np.ascontiguousarray(_narrowed(rows.reshape(1, -1), tensor, rounded)).reshape(-1)


def _matrix(tensor: Tensor, weight: WeightForm, weights: PackedWeights, rounded: Rounded) -> Iterator[Bytes]:
    import numpy as np

    columns, end = weight.shape[1], tensor.first_row + tensor.rows
    # Whole heads, so that their rows can change places, and whole strips.
    unit = STRIP_ROWS if tensor.order == "as it is" else lcm(STRIP_ROWS, tensor.head_dim)
    step = unit * max(1, chunk_rows(columns) // unit)
    for start in range(tensor.first_row, end, step):
        stop = min(start + step, end)
        first, last = start // STRIP_ROWS, -(-stop // STRIP_ROWS)
        strips = weights.strips(weight, first, last - first)
        data = _encoded(strips, weight, stop - start, tensor, rounded)
        yield np.ascontiguousarray(_in_order(data, tensor)).reshape(-1)


def _encoded(strips: Bytes, weight: WeightForm, rows: int, tensor: Tensor, rounded: Rounded) -> Bytes:
    """Rows of the tensor's encoding, uint8 [rows, row bytes]."""
    from pintpot.formats.blocks import block_type, to_blocks
    from pintpot.formats.convert import encode
    from pintpot.formats.source import decode
    from pintpot.formats.tiles import unpack

    columns = weight.shape[1]
    if block_type(weight.format, columns) == tensor.dtype:
        return to_blocks(strips, weight.format, rows, columns)
    values = unpack(strips, weight.format, rows, columns)
    if encoding(tensor.dtype).kind == "float":
        return _narrowed(values, tensor, rounded)
    packed_as = encoding(tensor.dtype).packed_as
    blocks = to_blocks(encode(values, packed_as), packed_as, rows, columns)
    rounded.add(values, decode(blocks, tensor.dtype, columns))
    return blocks


def _narrowed(values: NDArray[np.float32], tensor: Tensor, rounded: Rounded) -> Bytes:
    """Float32 [N, K] in the tensor's float type, uint8 [N, row bytes]."""
    import numpy as np

    from pintpot.formats.source import decode
    from pintpot.formats.tiles import narrow

    words = narrow(values, tensor.dtype).view(np.uint8)
    if tensor.dtype != "f32":
        rounded.add(values, decode(words, tensor.dtype, values.shape[1]))
    return words


def _in_order(rows: NDArray[Any], tensor: Tensor) -> NDArray[Any]:
    """Rows of whole heads, [N, X], in the file's order."""
    if tensor.order == "as it is":
        return rows
    heads, half = len(rows) // tensor.head_dim, tensor.head_dim // 2
    need(heads * tensor.head_dim == len(rows), f"{tensor.name} does not hold whole heads", UnsupportedModel)
    parts = (half, 2) if tensor.order == "pairs to halves" else (2, half)
    swapped = rows.reshape(heads, *parts, -1).swapaxes(1, 2)
    return swapped.reshape(rows.shape)

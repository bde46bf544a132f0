"""What was exported: where it is, how large, in which types, and what was rounded on the way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pintpot.packer.export.tensor import Rounded, Tensor


@dataclass(frozen=True, slots=True)
class TypeShare:
    """How much of the file is written in one type, and, where values were rounded, how far they are off."""

    dtype: str
    num_tensors: int
    num_values: int
    num_bytes: int
    rounded_from: tuple[str, ...] = ()
    relative_error: float = 0.0


@dataclass(frozen=True, slots=True)
class Exported:
    """`kind` is "gguf" or "safetensors"; `bits` are those of one weight of the matrices; `notes` are for people."""

    path: Path
    kind: str
    num_bytes: int
    bits: float
    types: tuple[TypeShare, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Exported:
        types = tuple(TypeShare(**{**item, "rounded_from": tuple(item["rounded_from"])}) for item in data["types"])
        return cls(**{**data, "path": Path(data["path"]), "types": types, "notes": tuple(data["notes"])})


class Tally:
    """Gathers the shares of the types while tensors are written."""

    def __init__(self) -> None:
        self._tensors: dict[tuple[str, bool], list[Tensor]] = defaultdict(list)
        self._rounded: dict[tuple[str, bool], Rounded] = defaultdict(Rounded)

    def of(self, tensor: Tensor) -> Rounded:
        """Where to count what a tensor loses by rounding."""
        key = (tensor.dtype, tensor.exact)
        self._tensors[key].append(tensor)
        return self._rounded[key]

    def shares(self) -> tuple[TypeShare, ...]:
        """The most bytes first."""
        made = [self._share(key, tensors) for key, tensors in self._tensors.items()]
        return tuple(sorted(made, key=lambda share: -share.num_bytes))

    def bits(self) -> float:
        """Bits of one value of the matrices, scales included."""
        matrices = [one for tensors in self._tensors.values() for one in tensors if len(one.shape) > 1]
        values = sum(_num_values(tensor) for tensor in matrices)
        return 8 * sum(tensor.num_bytes for tensor in matrices) / values if values else 0.0

    def _share(self, key: tuple[str, bool], tensors: Sequence[Tensor]) -> TypeShare:
        sources = {tensor.weight.format for tensor in tensors if tensor.weight is not None and not tensor.exact}
        return TypeShare(
            dtype=key[0],
            num_tensors=len(tensors),
            num_values=sum(map(_num_values, tensors)),
            num_bytes=sum(tensor.num_bytes for tensor in tensors),
            rounded_from=tuple(sorted(sources)),
            relative_error=self._rounded[key].relative,
        )


def rounding_note(share: TypeShare) -> str | None:
    """What was rounded, in words; None where every value is the pack's own."""
    if not share.rounded_from or not share.relative_error:
        return None
    sources = " and ".join(share.rounded_from)
    return (
        f"{share.num_tensors} tensors of {sources} were rounded to {share.dtype.upper()}, "
        f"{share.relative_error:.1e} off (root mean square, relative)"
    )


def _num_values(tensor: Tensor) -> int:
    count = 1
    for axis in tensor.shape:
        count *= axis
    return count

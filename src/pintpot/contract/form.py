"""A form: how a model is kept. Per weight its format and its place; the cache; the activations; the ring."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache

from pintpot.contract.targets import LOOKED_UP, SHARED
from pintpot.contract.targets import matches as matches
from pintpot.errors import NotApplicable, need
from pintpot.formats import STRIP_ROWS as STRIP_ROWS
from pintpot.formats import apart, encoding
from pintpot.model.spec import Model
from pintpot.program.spec import Table

PAGE_TOKENS = 32


@dataclass(frozen=True, slots=True)
class WeightForm:
    """How one weight is kept. Rows [0, ram_rows) rest in RAM, the others on disk, streamed through the ring.

    `source` is the encoding in the model's own files; `packed` says that `format` is one of the tile layouts.
    """

    name: str
    shape: tuple[int, ...]
    source: str
    format: str
    ram_rows: int
    packed: bool = False

    @property
    def role(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def is_matrix(self) -> bool:
        return len(self.shape) == 2

    @property
    def may_stream(self) -> bool:
        """Whether rows of it may be read from disk: it is used once in a pass."""
        return self.is_matrix and self.role != SHARED

    @property
    def num_strips(self) -> int:
        return -(-self.shape[0] // STRIP_ROWS)

    @property
    def ram_strips(self) -> int:
        return -(-self.ram_rows // STRIP_ROWS)

    @property
    def in_grid(self) -> WeightForm:
        """The same weight with no columns kept apart."""
        return replace(self, format=encoding(self.format).grid)

    @property
    def strip_bytes(self) -> int:
        return _strip_bytes(self.format, self.shape[1])

    @property
    def ram_bytes(self) -> int:
        shape = self.shape
        if len(shape) != 2:
            return 4 * shape[0]
        return -(-self.ram_rows // STRIP_ROWS) * _strip_bytes(self.format, shape[1])

    @property
    def disk_bytes(self) -> int:
        rows = self.shape[0]
        if self.ram_rows >= rows or len(self.shape) != 2:
            return 0
        strips = -(-rows // STRIP_ROWS) + -self.ram_rows // STRIP_ROWS
        return strips * _strip_bytes(self.format, self.shape[1])

    @property
    def num_bytes(self) -> int:
        return self.ram_bytes + self.disk_bytes


@cache
def _strip_bytes(name: str, columns: int) -> int:
    return encoding(name).strip_bytes(columns)


class Weights(Table[WeightForm]):
    """The weights of a form, in the model's order, and what is often asked of all of them."""

    @cached_property
    def by_name(self) -> dict[str, WeightForm]:
        return {weight.name: weight for weight in self}

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(self.by_name)

    @cached_property
    def ram_bytes(self) -> int:
        return sum([weight.ram_bytes for weight in self])

    @cached_property
    def disk_bytes(self) -> int:
        return sum([weight.disk_bytes for weight in self if weight.ram_rows < weight.shape[0]])

    @property
    def num_bytes(self) -> int:
        return self.ram_bytes + self.disk_bytes

    @cached_property
    def vector_bytes(self) -> int:
        """Norms and biases, and what is used several times, which are always in RAM."""
        return sum(weight.ram_bytes for weight in self if not weight.may_stream)

    @cached_property
    def matrices(self) -> tuple[tuple[str, int, int], ...]:
        """Of each matrix that may be read from disk its name, its strips, and the bytes of one."""
        return tuple([(weight.name, weight.num_strips, weight.strip_bytes) for weight in self if weight.may_stream])

    @cached_property
    def num_values(self) -> Mapping[str, int]:
        """Values of all matrices by format."""
        values: Counter[str] = Counter()
        for weight in self:
            if weight.is_matrix:
                values[weight.format] += weight.shape[0] * weight.shape[1]
        return values

    @cached_property
    def sources(self) -> frozenset[str]:
        """The encodings that the matrices come in."""
        return frozenset(weight.source for weight in self if weight.is_matrix)

    @cached_property
    def unpacked(self) -> tuple[str, ...]:
        """Matrices that no step has given one of the packed formats."""
        return tuple(weight.name for weight in self if weight.is_matrix and not weight.packed)

    @cached_property
    def largest_strip_bytes(self) -> int:
        return max((weight.strip_bytes for weight in self if weight.is_matrix), default=0)

    @cached_property
    def looked_up(self) -> frozenset[str]:
        """Matrices of which a pass needs single rows only: an embedding that is not also the head."""
        own = (weight.name for weight in self if weight.is_matrix and weight.name.endswith(f".{LOOKED_UP}"))
        return frozenset({*own, *({"embed"} if "head" in self.names else ())})

    @cached_property
    def passing_bytes(self) -> int:
        """Bytes of the matrices of which every pass needs all rows."""
        return sum(weight.num_bytes for weight in self if weight.may_stream and weight.name not in self.looked_up)


@dataclass(frozen=True, slots=True)
class CacheForm:
    """The key-value cache: its format, and which positions stay visible (`window` 0: all of them)."""

    format: str = "f16"
    window: int = 0
    sinks: int = 0
    page_tokens: int = PAGE_TOKENS


@dataclass(frozen=True, slots=True)
class RingForm:
    """The ring through which streamed weights pass: `in_flight` direct reads of `slot_bytes` side by side."""

    slot_bytes: int
    num_slots: int
    in_flight: int

    @property
    def num_bytes(self) -> int:
        return self.slot_bytes * self.num_slots


@dataclass(frozen=True, slots=True)
class ActivationForm:
    """How rows meet low-bit weights: float32, int8 or int8x2.

    `prefill` is about the blocks while a prompt is read; `decode` about all that is computed for the words of answers,
    the head in both stages with it.
    """

    prefill: str = "float32"
    decode: str = "float32"


@dataclass(frozen=True)
class Form:
    """Everything about how a model is kept and computed that a step can change.

    `activation` is how rows meet low-bit weights; `chunk` is the widest prefill in tokens.
    """

    weights: Weights
    cache: CacheForm = CacheForm()
    activation: ActivationForm = ActivationForm()
    chunk: int = 512
    ring: RingForm | None = None

    def packed(self, target: str, choose: Callable[[str], str]) -> Form:
        """This form with every matrix that `target` names packed in the format that `choose` has for its source."""
        formats = {source: choose(source) for source in self.weights.sources}
        changed = [
            WeightForm(w.name, w.shape, w.source, formats[w.source], w.ram_rows, True)
            if w.is_matrix and matches(target, w.name)
            else w
            for w in self.weights
        ]
        return replace(self, weights=_shared(Weights(changed)))

    def rounded(self, target: str, name: str) -> Form:
        """The same with the format `name`; a matrix whose own packed format takes no more bytes keeps that."""

        def changed(weight: WeightForm) -> WeightForm:
            if not weight.is_matrix or not matches(target, weight.name):
                return weight
            kept, columns = encoding(weight.source).packed_as, weight.shape[1]
            chosen = kept if _strip_bytes(kept, columns) <= _strip_bytes(name, columns) else name
            return WeightForm(weight.name, weight.shape, weight.source, chosen, weight.ram_rows, True)

        return replace(self, weights=_shared(Weights([changed(weight) for weight in self.weights])))

    def need_rounding(self, target: str, name: str) -> None:
        """Raises NotApplicable where the matrices that `target` names come in no more bits than the format has."""
        touched = [w for w in self.weights if w.is_matrix and matches(target, w.name)]
        need(bool(touched), f"the model has no weights in {target!r}", NotApplicable)
        before = sum(encoding(encoding(w.source).packed_as).bits * w.shape[0] * w.shape[1] for w in touched)
        before /= sum(w.shape[0] * w.shape[1] for w in touched)
        after = encoding(name).bits
        odd = [w for w in touched if not encoding(name).fits(w.shape[1])]
        whole = ", ".join(f"{w.name} of {w.shape[1]}" for w in odd[:3])
        need(not odd, f"columns of {whole} are not whole blocks of {name}", NotApplicable)
        need(after < before, f"{after:.4g} bits a weight are no fewer than the {before:.3g} it comes in", NotApplicable)

    def with_columns_apart(self, target: str, num_columns: int) -> Form:
        """This form with so many columns kept apart of every matrix in low bits that `target` names."""

        def changed(weight: WeightForm) -> WeightForm:
            low_bit = weight.is_matrix and weight.packed and encoding(weight.format).kind != "float"
            if not low_bit or not matches(target, weight.name):
                return weight
            return replace(weight, format=apart(weight.format, num_columns))

        return replace(self, weights=_shared(Weights([changed(weight) for weight in self.weights])))

    def left(self, names: Container[str]) -> Form:
        """This form with these matrices as plain float32, all values in a row, which no kernel of ours multiplies."""

        def changed(weight: WeightForm) -> WeightForm:
            if weight.name not in names or not weight.is_matrix:
                return weight
            count = weight.shape[0] * weight.shape[1]
            return WeightForm(weight.name, (count,), weight.source, "f32", count)

        return replace(self, weights=_shared(Weights([changed(weight) for weight in self.weights])))

    def packed_each(self, formats: Mapping[str, str]) -> Form:
        """This form with each matrix that `formats` names packed in the format named for it."""
        changed = [
            WeightForm(w.name, w.shape, w.source, formats[w.name], w.ram_rows, True)
            if w.is_matrix and w.name in formats
            else w
            for w in self.weights
        ]
        return replace(self, weights=_shared(Weights(changed)))

    @property
    def weight_bytes(self) -> int:
        return self.weights.num_bytes

    @property
    def ram_bytes(self) -> int:
        return self.weights.ram_bytes

    @property
    def disk_bytes(self) -> int:
        return self.weights.disk_bytes


@lru_cache(maxsize=64)
def _shared(weights: Weights) -> Weights:
    """One object for equal weights, so that finding what is known of them compares nothing."""
    return weights


def source_form(model: Model) -> Form:
    """The form of a model nobody has touched: every weight in its own encoding, all of it in RAM."""
    return Form(
        Weights(
            WeightForm(w.name, w.shape, w.dtype, w.dtype if len(w.shape) == 2 else "f32", w.shape[0])
            for part in model.parts
            for w in part.weights()
        )
    )

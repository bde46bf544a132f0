"""A form: how a model is kept. Per weight its format and its place; the cache; the activations; the ring."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from pintpot.contract.targets import FIXED_ROLES
from pintpot.contract.targets import VOCABULARY_ROLES as VOCABULARY_ROLES
from pintpot.contract.targets import matches as matches
from pintpot.contract.targets import overlap as overlap
from pintpot.contract.training import TrainingForm
from pintpot.contract.weights import LEFT_BYTES as LEFT_BYTES
from pintpot.contract.weights import STRIP_ROWS as STRIP_ROWS
from pintpot.contract.weights import WeightForm as WeightForm
from pintpot.contract.weights import Weights as Weights
from pintpot.contract.weights import bytes_of_strip
from pintpot.errors import NotApplicable, need
from pintpot.formats import apart, encoding
from pintpot.model.spec import Model

PAGE_TOKENS = 32


@dataclass(frozen=True, slots=True)
class CacheForm:
    """The key-value cache: its format, and which positions stay visible (`window` 0: all of them).

    `lent` positions of each sequence have pages, in the mean, which all share; 0: all that a context holds.
    """

    format: str = "f16"
    window: int = 0
    sinks: int = 0
    page_tokens: int = PAGE_TOKENS
    lent: int = 0


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

    `activation` is how rows meet low-bit weights; `chunk` is the widest prefill in tokens; `training` is how the model
    learns, None where it does not.
    """

    weights: Weights
    cache: CacheForm = CacheForm()
    activation: ActivationForm = ActivationForm()
    chunk: int = 512
    ring: RingForm | None = None
    training: TrainingForm | None = None

    def packed(self, target: str, choose: Callable[[str], str]) -> Form:
        """This form with every matrix that `target` names packed in the format that `choose` has for its source."""
        formats = {source: choose(source) for source in self.weights.sources}
        changed = [
            WeightForm(w.name, w.shape, w.source, formats[w.source], w.ram_rows, True, w.experts)
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
            chosen = kept if bytes_of_strip(kept, columns) <= bytes_of_strip(name, columns) else name
            return WeightForm(weight.name, weight.shape, weight.source, chosen, weight.ram_rows, True, weight.experts)

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
        """This form with so many columns kept apart of every matrix in low bits that `target` names; not of experts."""

        def changed(weight: WeightForm) -> WeightForm:
            low_bit = weight.is_matrix and weight.packed and encoding(weight.format).kind != "float"
            if not low_bit or weight.experts > 1 or not matches(target, weight.name):
                return weight
            return replace(weight, format=apart(weight.format, num_columns))

        return replace(self, weights=_shared(Weights([changed(weight) for weight in self.weights])))

    def left(self, names: Container[str], kept: str = "f32") -> Form:
        """This form with these matrices plain, all values in a row, which no kernel of ours multiplies.

        Rows of float32 are counted in values, of bf16 in words of two.
        """

        def changed(weight: WeightForm) -> WeightForm:
            if weight.name not in names:
                return weight
            if not weight.is_matrix:  # as a pack has it
                return replace(weight, format=kept)
            count = -(-weight.shape[0] * weight.shape[1] // (4 // LEFT_BYTES[kept]))
            return WeightForm(weight.name, (count,), weight.source, kept, count)

        return replace(self, weights=_shared(Weights([changed(weight) for weight in self.weights])))

    def packed_each(self, formats: Mapping[str, str]) -> Form:
        """This form with each matrix that `formats` names packed in the format named for it."""
        changed = [
            WeightForm(w.name, w.shape, w.source, formats[w.name], w.ram_rows, True, w.experts)
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
            _source(WeightForm(w.name, w.shape, w.dtype, w.dtype, w.shape[0] // w.experts, False, w.experts))
            for part in model.parts
            for w in part.weights()
        )
    )


def _source(weight: WeightForm) -> WeightForm:
    if not weight.is_matrix:
        return replace(weight, format="f32")
    fixed = weight.role in FIXED_ROLES
    return replace(weight, format=encoding(weight.source).packed_as, packed=True) if fixed else weight

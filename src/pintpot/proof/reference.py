"""A network streamed: float32 arithmetic over weights read some rows at a time, all texts in one pass.

Of the unpacked model it is what a packed model's answers are compared with. Of the packed path nothing is used but the
program itself, and the bytes of a pack where these are what is asked about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pintpot.contract.form import ActivationForm, CacheForm, Form, source_form
from pintpot.contract.step import Step
from pintpot.kernels.reference.linear import round_rows
from pintpot.model.spec import Model, Weight
from pintpot.model.store import Store
from pintpot.packer.calibrate.forward import Forward
from pintpot.packer.calibrate.source import RowSource, whole
from pintpot.packer.calibrate.source import head_rows as head_rows
from pintpot.program.ops.linear import FLOAT_FORMATS, PLANES
from pintpot.program.spec import Op
from pintpot.proof.strips import Dequantized

Floats = NDArray[np.float32]
BASE_BYTES = 75_000_000
"""An interpreter with numpy, its buffers for products, and a chunk of rows on its way."""
ARRAYS_PER_TOKEN = 6
"""How many arrays of the widest activation are alive at once, the temporary ones of numpy among them."""
ROUNDED_ARRAYS_PER_TOKEN = 10
"""The same where rows are rounded before they meet weights."""
MOST_LOGITS = 1 << 18
"""Of a run of words for all tokens that are compared."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Network:
    """What a pass computes: a model in some form, rewritten by `steps`, and the values of each of its weights.

    Vectors are float32 [N]; matrices are arrays or give runs of rows, as `RowSource` does. The last `num_words` tokens
    of every text are words of answers: their rows meet low-bit weights as the form's decode stage has it.
    """

    model: Model
    store: Store
    form: Form
    weights: Mapping[str, Any]
    steps: tuple[Step, ...] = ()
    num_words: int = 0

    @property
    def is_rounded(self) -> bool:
        """Whether rows are rounded before they meet weights."""
        return self.form.activation != ActivationForm()

    def meets(self, name: str, rows: Floats, planes: int | NDArray[np.int64]) -> Floats:
        """What of rows [T, K] in so many int8 planes meets a weight."""
        low_bit = self.form.weights.by_name[name].format not in FLOAT_FORMATS
        kept = self.weights[name]
        exact = kept.columns_apart() if isinstance(kept, Dequantized) else None
        return round_rows(rows, planes, exact) if low_bit and np.any(planes) else rows

    def head(self, states: Floats) -> Iterator[tuple[int, Floats]]:
        """Logits [T, n] of states [T, D] for words [first, first + n), all words in order."""
        name = "head" if "head" in self.weights else "embed"
        met = self.meets(name, states, PLANES[self.form.activation.decode])
        num_words = max(1, MOST_LOGITS // len(states))
        for first, part in self.weights[name]:
            for start in range(0, len(part), num_words):
                yield first + start, met @ part[start : start + num_words].T


def unpacked(model: Model, store: Store) -> Network:
    """The model as its files hold it, in float32."""
    weights = {weight.name: source_values(store, weight) for weight in model.part("language").weights()}
    return Network(model, store, replace(source_form(model), cache=CacheForm("f32")), weights)


def source_values(store: Store, weight: Weight) -> Any:
    """A matrix in runs of rows, a vector [N] whole."""
    return RowSource(store, weight) if len(weight.shape) == 2 else whole(store, weight)


def texts_per_pass(model: Model, text_tokens: int, budget_bytes: int, rounded: bool = False) -> int:
    """How many texts of so many tokens may go through a block together inside a budget; at least one."""
    config = model.part("language").config
    pairs = config.get("num_experts_per_tok", 1)
    widest = max(2 * pairs * config["intermediate_size"], (3 + pairs) * config["hidden_size"])
    arrays = ROUNDED_ARRAYS_PER_TOKEN if rounded else ARRAYS_PER_TOKEN
    per_text = 4 * arrays * text_tokens * (widest + text_tokens)
    return max(1, int((budget_bytes - BASE_BYTES) // per_text))


def hidden_states(model: Model, texts: list[list[int]], progress: Progress | None = None) -> list[Floats]:
    """What `states_of` gives for the unpacked model."""
    with Store(model) as store:
        return states_of(unpacked(model, store), texts, progress)


def states_of(network: Network, texts: list[list[int]], progress: Progress | None = None) -> list[Floats]:
    """Normalized hidden states before the output head, float32 [T, D] for each text of T tokens.

    All texts go through a block before the next block's weights are read.
    """
    lengths, planes = [len(text) for text in texts], _planes(network, texts)
    forward = Forward(network.model, network.store, max(lengths), network.form, network.steps)
    total = sum(op.kind == "linear" for block in forward.blocks for op in block.ops)
    done = count(1)

    def met(op: Op, rows: Floats) -> None:
        if progress is not None:
            progress(next(done), total)

    def meets(name: str, rows: Floats, tokens: Any) -> Floats:
        return network.meets(name, rows, planes if tokens is None else planes[tokens])

    states = forward.embedded(texts, network.weights["embed"])
    for block in forward.blocks:
        values = {name: network.weights[name] for name in block.weights}
        states = forward.run(block, values, states, lengths, met, meets)
    states = forward.final(states, network.weights["norm"])
    return [np.ascontiguousarray(part) for part in np.split(states, np.cumsum(lengths)[:-1])]


def _planes(network: Network, texts: list[list[int]]) -> NDArray[np.int64]:
    """For each token of all texts the int8 planes in which its rows meet low-bit weights."""
    prefill, decoding = (PLANES[kind] for kind in (network.form.activation.prefill, network.form.activation.decode))
    words = [min(network.num_words, len(text)) for text in texts]
    each = [np.repeat((prefill, decoding), (len(text) - num, num)) for text, num in zip(texts, words, strict=True)]
    return np.concatenate(each)

"""The unpacked model, streamed: float32 arithmetic over weights read some rows at a time, all texts in one pass.

This is what a packed model's answers are compared with. Nothing of the packed path is used but the program itself.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import numpy as np
from numpy.typing import NDArray

from pintpot.model.spec import Model
from pintpot.model.store import Store
from pintpot.packer.calibrate.forward import Forward
from pintpot.packer.calibrate.source import head_rows as head_rows
from pintpot.program.spec import Op

Floats = NDArray[np.float32]
BASE_BYTES = 75_000_000
"""An interpreter with numpy, its buffers for products, and a chunk of rows on its way."""
ARRAYS_PER_TOKEN = 6
"""How many arrays of the widest activation are alive at once, the temporary ones of numpy among them."""
Progress = Callable[[int, int], None]


def texts_per_pass(model: Model, text_tokens: int, budget_bytes: int) -> int:
    """How many texts of so many tokens may go through a block together inside a budget; at least one."""
    config = model.part("language").config
    widest = max(2 * config["intermediate_size"], 4 * config["hidden_size"])
    per_text = 4 * ARRAYS_PER_TOKEN * text_tokens * (widest + text_tokens)
    return max(1, int((budget_bytes - BASE_BYTES) // per_text))


def hidden_states(model: Model, texts: list[list[int]], progress: Progress | None = None) -> list[Floats]:
    """Normalized hidden states before the output head, float32 [T, D] for each text of T tokens.

    All texts go through a block before the next block's weights are read.
    """
    lengths = [len(text) for text in texts]
    with Store(model) as store:
        forward = Forward(model, store, max(lengths))
        total = sum(op.kind == "linear" for block in forward.blocks for op in block.ops)
        done = count(1)

        def met(op: Op, rows: Floats) -> None:
            if progress is not None:
                progress(next(done), total)

        states = forward.embedded(texts)
        for block in forward.blocks:
            states = forward.run(block, forward.streamed(block), states, lengths, met)
        states = forward.final(states)
    return [np.ascontiguousarray(part) for part in np.split(states, np.cumsum(lengths)[:-1])]

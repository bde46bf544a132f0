"""SmolLM2 of a GGUF file as others have it: weights read by the `gguf` package, the network of transformers.

    network = Network(file)
    network.logits(tokens)                # float32 [tokens, vocabulary], all of it in float32
    network.logits(tokens, rounded=True)  # what meets a matrix is rounded first, as llama.cpp does it on a CPU

llama.cpp rounds the rows that meet a matrix by that matrix's type: to halves for F16, and for blocks in groups of 32 or
256 columns to 8 bits. With a cache in float32 it computes all else in float32.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from test_equal_tokens import SMOLLM2
from tiny import deinterleave, gguf_name, torch_model_of_gguf

Type = gguf.GGMLQuantizationType
Floats = NDArray[np.float32]
_COLUMNS = {
    Type.Q4_0: 32, Type.Q4_1: 32, Type.Q5_0: 32, Type.Q5_1: 32, Type.Q8_0: 32, Type.MXFP4: 32, Type.Q4_K: 256,
    Type.Q6_K: 256,
}  # fmt: skip
"""Of the rows that meet it, columns that share a scale."""
_WITH_MINIMUM = {Type.Q4_1: 20, Type.Q5_1: 24}
"""Bytes of a block. Its minimum meets the sum of the rounded columns, which is kept in half precision."""


class Network:
    """See above."""

    def __init__(self, file: Path) -> None:
        self.rounds = False
        self._model = torch_model_of_gguf(file, SMOLLM2)
        tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
        for name, module in self._model.named_modules():
            if isinstance(module, torch.nn.Linear):
                tied = f"{name}.weight" == "lm_head.weight" and "output.weight" not in tensors
                tensor = tensors[gguf_name("model.embed_tokens.weight" if tied else f"{name}.weight")]
                heads = {"q_proj": SMOLLM2.heads, "k_proj": SMOLLM2.kv_heads}.get(name.split(".")[-1], 0)
                # A way that torch's modules offer to replace what they compute.
                module.forward = _Product(self, module.weight, tensor, heads)  # type: ignore[method-assign]

    def logits(self, tokens: list[int], *, rounded: bool = False) -> Floats:
        """Of every position what comes next, float32 [tokens, vocabulary]."""
        self.rounds = rounded
        with torch.inference_mode():
            found: Floats = self._model(torch.tensor([tokens])).logits[0].numpy()
        return found


class _Product:
    """Rows times one matrix [N, K]."""

    def __init__(self, network: Network, weight: torch.Tensor, tensor: Any, heads: int) -> None:
        self._network, self._weight, self._type = network, weight, tensor.tensor_type
        self._minima = _minima(tensor, heads) if self._type in _WITH_MINIMUM else None

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        if not self._network.rounds or self._type == Type.F32:
            return rows @ self._weight.T
        if self._type == Type.F16:
            return rows.half().float() @ self._weight.T
        kept, unsummed = _in_8_bits(rows, _COLUMNS[self._type])
        product = kept @ self._weight.T
        return product if self._minima is None else product + unsummed @ self._minima.T


def _in_8_bits(rows: torch.Tensor, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rounded rows [..., K], and by what the kept sum of each group is off theirs, [..., K / columns]."""
    parts = rows.unflatten(-1, (-1, columns))
    largest = parts.abs().amax(-1, keepdim=True)
    codes = torch.where(largest > 0, torch.round(parts * (127 / largest)), 0.0)
    exact = largest / 127
    scale = exact.half().float() if columns == 32 else exact
    sums = codes.sum(-1, keepdim=True)
    unsummed = (sums * exact).half().float() - sums * scale
    return (codes * scale).flatten(-2), unsummed.squeeze(-1)


def _minima(tensor: Any, heads: int) -> torch.Tensor:
    """The minimum of each block, float32 [N, K / 32]."""
    blocks = tensor.data.reshape(len(tensor.data), -1, _WITH_MINIMUM[tensor.tensor_type])
    minima = np.ascontiguousarray(blocks[..., 2:4]).view(np.float16)[..., 0].astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(deinterleave(minima, heads) if heads else minima))

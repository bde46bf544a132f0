"""airllm: layers read from files of their own, one after another, while transformers computes."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from contenders import Config
from contenders.accelerate import THREADS, generate

CONFIGS = (
    Config("airllm", "airllm", "reading ahead", task="streaming bf16", knobs={"prefetching": True}),
    Config("airllm", "airllm", "not reading ahead", task="streaming bf16", knobs={"prefetching": False}),
)


class Layered:
    """A model that airllm has cut into files. The first opening of a model cuts it, which takes its whole memory."""

    def __init__(self, model: str, prefetching: bool) -> None:
        import torch
        from airllm import AutoModel

        torch.set_num_threads(THREADS)
        self._model = AutoModel.from_pretrained(
            model,
            device="cpu",
            dtype=torch.bfloat16,
            prefetching=prefetching,
            layer_shards_saving_path=f"{model}-airllm",
        )
        self.versions = {name: version(name) for name in ("airllm", "transformers", "torch")}

    def answers(self, prompts: list[list[int]], number: int) -> dict[str, Any]:
        """See `contenders.Peer`."""
        return generate(self._model, self._model.tokenizer, prompts, number)


def open_peer(**knobs: Any) -> Layered:
    """Open a model; see `Layered`."""
    return Layered(**knobs)

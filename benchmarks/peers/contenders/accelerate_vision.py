"""A vision transformer of transformers over accelerate's device map: what does not fit is read in its turn."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import Any

from contenders import Config

CONFIGS = (
    Config("accelerate_vision", "accelerate", "all on disk", task="vision", knobs={"in_ram": 0}),
    Config("accelerate_vision", "accelerate", "200 MB in RAM", task="vision", knobs={"in_ram": 200_000_000}),
)
THREADS = 2


class Offloaded:
    """A model whose layers lie in RAM up to a number of bytes, and on disk from there on."""

    def __init__(self, model: str, in_ram: int) -> None:
        import torch
        from transformers import ViTModel

        torch.set_num_threads(THREADS)
        where: dict[str, Any] = {"device_map": {"": "disk"}}
        if in_ram:
            where = {"device_map": "auto", "max_memory": {"cpu": in_ram}}
        self._model = ViTModel.from_pretrained(
            model, dtype=torch.float32, add_pooling_layer=False, offload_folder=f"{model}-offload", **where
        ).eval()
        self.versions = {name: version(name) for name in ("transformers", "accelerate", "torch")}

    def forward(self, batch: int, times: int, answer: str) -> dict[str, Any]:
        """See `contenders.pintpot_module`."""
        import numpy as np
        import torch
        from pixels import picture

        pixels, seconds = picture(batch), []
        with torch.inference_mode():
            for _ in range(times):
                started = time.perf_counter()
                given = self._model(pixel_values=pixels)
                seconds.append(time.perf_counter() - started)
        np.save(answer, given.last_hidden_state.numpy(), allow_pickle=False)
        return {"seconds": seconds}


def open_peer(**knobs: Any) -> Offloaded:
    """Open a model; see `Offloaded`."""
    return Offloaded(**knobs)

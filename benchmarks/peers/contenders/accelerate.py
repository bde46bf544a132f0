"""transformers with accelerate's device map: what does not fit stays in the files and is read when its turn comes."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import Any

from contenders import Config

CONFIGS = (
    Config("accelerate", "accelerate", "all on disk", task="streaming bf16", knobs={"in_ram": 0}),
    Config("accelerate", "accelerate", "400 MB in RAM", task="streaming bf16", knobs={"in_ram": 400_000_000}),
)
THREADS = 2


class Clock:
    """Stands where transformers wants a streamer: times each word, and makes it text."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self._asked = tokenizer, False
        self.times: list[float] = []
        self.text = ""

    def put(self, value: Any) -> None:
        """The first value is the prompt itself."""
        if self._asked:
            self.text += self._tokenizer.decode(value.flatten().tolist())
            self.times.append(time.perf_counter())
        self._asked = True

    def end(self) -> None:
        """Nothing is held back."""


def generate(model: Any, tokenizer: Any, prompts: list[list[int]], number: int) -> dict[str, Any]:
    """See `contenders.Peer`; for everything that has transformers' `generate`."""
    import torch

    clock = Clock(tokenizer)
    (tokens,) = prompts
    ids = torch.tensor([tokens])
    started = time.perf_counter()
    with torch.inference_mode():
        model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=number, min_new_tokens=number, do_sample=False,
            use_cache=True, streamer=clock,
        )  # fmt: skip
    return {
        "number": len(clock.times), "first_number": 1, "first_s": clock.times[0] - started,
        "rest_s": clock.times[-1] - clock.times[0], "texts": [clock.text],
    }  # fmt: skip


class Offloaded:
    """A model whose layers lie in RAM up to a number of bytes, and on disk from there on."""

    def __init__(self, model: str, in_ram: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(THREADS)
        where: dict[str, Any] = {"device_map": {"": "disk"}}
        if in_ram:
            where = {"device_map": "auto", "max_memory": {"cpu": in_ram}}
        self._model = AutoModelForCausalLM.from_pretrained(
            model, dtype=torch.bfloat16, offload_folder=f"{model}-offload", low_cpu_mem_usage=True, **where
        )
        self._tokenizer = AutoTokenizer.from_pretrained(model)
        self.versions = {name: version(name) for name in ("transformers", "accelerate", "torch")}

    def answers(self, prompts: list[list[int]], number: int) -> dict[str, Any]:
        """See `contenders.Peer`."""
        return generate(self._model, self._tokenizer, prompts, number)


def open_peer(**knobs: Any) -> Offloaded:
    """Open a model; see `Offloaded`."""
    return Offloaded(**knobs)

"""peft beside transformers: adapters on q and v of a model that is not packed, or in bitsandbytes' NF4; and none."""

from __future__ import annotations

import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from contenders import Config

CONFIGS = (
    Config("peft_lora", "peft", "LoRA, bf16", task="learning bf16", knobs={"kind": "bf16"}),
    Config("peft_lora", "peft", "LoRA, float32", task="learning float32", knobs={"kind": "float32"}),
    Config("peft_lora", "peft", "QLoRA, bitsandbytes", task="learning nf4", knobs={"kind": "nf4"}),
    Config("peft_lora", "transformers", "every weight, float32", task="learning full", knobs={"kind": "full"}),
)
THREADS = 2


class Learning:
    """A model with adapters that learn by PyTorch's AdamW. In the file lie words and labels, [2, steps, B, S]."""

    def __init__(self, model: str, adapters: str, sequences: str, rate: float, kind: str) -> None:
        import numpy as np
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(THREADS)
        self._tokens = np.load(sequences, allow_pickle=False)
        floats = torch.float32 if kind in ("float32", "full") else torch.bfloat16
        more = _four_bits() if kind == "nf4" else {}
        found = AutoModelForCausalLM.from_pretrained(model, dtype=floats, **more)
        adapted = found if kind == "full" else PeftModel.from_pretrained(found, adapters, is_trainable=True)
        self._model = adapted.train()
        learns = [one for one in self._model.parameters() if one.requires_grad]
        self._optimizer = torch.optim.AdamW(learns, lr=rate, weight_decay=0.0)
        names = ("peft", "transformers", "torch", *(("bitsandbytes",) if kind == "nf4" else ()))
        self.versions = {name: version(name) for name in names}

    def learn(self, steps: int) -> dict[str, Any]:
        """So many steps: their `losses` in nats, `seconds` of each, and the process's `peak_bytes` so far."""
        import torch

        losses, seconds = [], []
        for step in range(steps):
            started = time.perf_counter()
            ids, labels = (torch.from_numpy(one[step]).long() for one in self._tokens)
            loss = self._model(input_ids=ids, labels=labels).loss
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
            losses.append(loss.item())
            seconds.append(time.perf_counter() - started)
        status = Path("/proc/self/status").read_text()
        peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
        return {"losses": losses, "seconds": seconds, "peak_bytes": 1024 * peak}


def _four_bits() -> dict[str, Any]:
    import torch
    from transformers import BitsAndBytesConfig

    how = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )  # fmt: skip
    return {"quantization_config": how, "device_map": "cpu"}


def open_peer(**knobs: Any) -> Learning:
    """Open a model; see `Learning`."""
    return Learning(**knobs)

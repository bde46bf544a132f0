"""A described model run by the numpy reference backend in float64, from its own files: the truth for small shapes."""

from __future__ import annotations

import numpy as np

from pintpot.budget import Workload
from pintpot.contract.form import CacheForm, source_form
from pintpot.formats.source import decode
from pintpot.kernels.reference import Call, Memory, run
from pintpot.model.spec import Model
from pintpot.model.store import Store
from pintpot.nets import family
from pintpot.nets._rope import rope_tables


def source_memory(model: Model) -> Memory:
    """Every weight of a model, decoded, in float64."""
    memory: Memory = {}
    with Store(model) as store:
        for weight in model.part("language").weights():
            values = decode(store.read(weight), weight.dtype, weight.shape[-1])
            memory[weight.name] = values.reshape(weight.shape).astype(np.float64) + weight.plus
    return memory


class ReferenceModel:
    """Logits of every position of a text."""

    def __init__(self, model: Model, chunk: int = 512, context: int = 128) -> None:
        from dataclasses import replace

        part = model.part("language")
        self.chunk = chunk
        form = replace(source_form(model), chunk=chunk, cache=CacheForm("f32"))
        self.work = family(part.family).work(part.config, form, Workload(context=context))
        self.memory = source_memory(model)
        factors = self.memory.get("rope_freqs")
        for name, table in rope_tables(part.config, context, factors).items():
            self.memory[name] = table.astype(np.float64)
        self.program = self.work.stage("prefill").programs[0]
        for buffer in self.program.buffers:
            if buffer.holder == "cache":
                self.memory[buffer.name] = np.full(self.program.shape(buffer.name), np.nan)

    def logits(self, tokens: list[int]) -> np.ndarray:
        pages = tuple(range(self.program.shape("layers.0.k_cache")[0]))[::-1]
        found = []
        for first in range(0, len(tokens), self.chunk):
            part = np.array(tokens[first : first + self.chunk])
            rows = tuple(range(len(part)))
            positions = np.arange(first, first + len(part))
            run(self.program, self.memory, Call(part, positions, np.zeros_like(part), rows, (pages,)), stop=-1)
            found.append(self.memory["logits"])
        return np.concatenate(found)

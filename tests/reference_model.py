"""A described model run by the numpy reference backend in float64, from its own files: the truth for small shapes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pintpot.budget import Workload
from pintpot.contract.form import CacheForm, source_form
from pintpot.formats.source import decode
from pintpot.kernels.reference import Call, Memory, run
from pintpot.model.config_sections import axes_of
from pintpot.model.spec import Model
from pintpot.model.store import Store
from pintpot.nets import family
from pintpot.nets._decoder import ANGLES
from pintpot.nets._rope import rope_tables
from pintpot.runtime.pictures import Picture, Placed, picture_angles


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

    def __init__(self, model: Model, chunk: int = 512, context: int = 128, given: int = 0) -> None:
        from dataclasses import replace

        part = model.part("language")
        self.chunk, self.config = chunk, part.config
        self.pictures: tuple[Picture, ...] = ()
        form = replace(source_form(model), chunk=chunk, cache=CacheForm("f32"))
        self.work = family(part.family).work(part.config, form, Workload(context=context, given=given))
        self.memory = source_memory(model)
        factors = self.memory.get("rope_freqs")
        for name, table in rope_tables(part.config, context, factors).items():
            self.memory[name] = table.astype(np.float64)
        self.program = self.work.stage("prefill").programs[0]
        for buffer in self.program.buffers:
            if buffer.holder == "cache" or buffer.name.startswith("given"):
                self.memory[buffer.name] = np.full(self.program.shape(buffer.name), np.nan)

    def show(self, picture: Picture, rows: Mapping[str, np.ndarray]) -> None:
        """Put in place what a picture became; its first row is number `picture.first` of those given."""
        self.pictures = (*self.pictures, picture)
        for name, values in rows.items():
            self.memory[name][picture.first : picture.first + picture.num_rows] = values

    def turns(self, tokens: list[int]) -> np.ndarray | None:
        """What each token turns by, after the angles of pictures were put in place."""
        if ANGLES not in self.memory:
            return None
        placed = Placed()
        placed.begin(self.pictures)
        turns, _ = placed.turns(tokens, 0)
        axes, table = axes_of(self.config, self.memory["rope"].shape[1] // 2), self.memory["rope"]
        for picture in self.pictures:
            angles = picture_angles(table, axes, placed.starts[picture.first], picture.grid)
            self.memory[ANGLES][picture.first : picture.first + picture.num_rows] = angles
        return np.array(turns)

    def logits(self, tokens: list[int]) -> np.ndarray:
        pages = tuple(range(self.program.shape("layers.0.k_cache")[0]))[::-1]
        found, turns = [], self.turns(tokens)
        for first in range(0, len(tokens), self.chunk):
            part = np.array(tokens[first : first + self.chunk])
            rows = tuple(range(len(part)))
            positions = np.arange(first, first + len(part))
            turned = None if turns is None else turns[first : first + len(part)]
            call = Call(part, positions, np.zeros_like(part), rows, (pages,), turns=turned)
            run(self.program, self.memory, call, stop=-1)
            found.append(self.memory["logits"])
        return np.concatenate(found)

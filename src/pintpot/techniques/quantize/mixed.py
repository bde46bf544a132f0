"""Each weight in a format of its own, as whoever weighed all of them against each other chose it.

That losses of single weights add up while they are small, so that formats can be chosen weight by weight under one
budget: Malinovskii et al. 2024, arXiv:2411.17525. Values are rounded to nearest, as for one format for all.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from pintpot.contract.form import Form, matches
from pintpot.contract.rounding import Converting
from pintpot.errors import NotApplicable, need
from pintpot.formats import KERNEL_FORMATS, encoding
from pintpot.model.spec import Model

_OF_A_LAYER = re.compile(r"layers\.(\d+)\.(\w+)")
_LAYERS = re.compile(r"layers\.([\d,-]+)\.(\w+)")
_MOST_LAYERS = 100_000


@dataclass(frozen=True)
class Mixed(Converting):
    """`formats` lists each format with the weights that it keeps: "sym4 layers.0-3,7.q layers.2.o; sym8 embed"."""

    paper: ClassVar[str] = "Malinovskii et al. 2024, arXiv:2411.17525"
    formats: str = ""

    @property
    def key(self) -> str:
        """No prior knows a mixture: it is weighed by the model's own table."""
        return "mixed"

    def check(self, model: Model, form: Form) -> None:
        chosen = read_formats(self.formats)
        there = {w.name: w for w in form.weights if w.is_matrix and matches(self.target, w.name)}
        strangers, loose = sorted(chosen.keys() - there.keys()), sorted(there.keys() - chosen.keys())
        need(not strangers, f"the model has no weights {', '.join(strangers[:3])} in {self.target!r}", NotApplicable)
        need(not loose, f"no format is named for {', '.join(loose[:3])}", NotApplicable)
        for name, kept in chosen.items():
            source, columns = there[name].source, there[name].shape[1]
            need(kept in KERNEL_FORMATS, f"{name}: weights in {source} cannot be kept as {kept}", NotApplicable)
            whole = f"{name}: {columns} columns are not whole blocks of {kept}, of {encoding(kept).block_columns} each"
            need(encoding(kept).fits(columns), whole, NotApplicable)

    def promise(self, form: Form) -> Form:
        return form.packed_each(read_formats(self.formats))

    def __str__(self) -> str:
        """How many weights each format keeps, and a mark of which they are."""
        counts = [(kept, len(_names(listed))) for kept, listed in _parts(self.formats)]
        mark = hashlib.blake2s(self.formats.encode(), digest_size=4).hexdigest()
        told = ", ".join(f"{count} {kept}" for kept, count in sorted(counts, key=lambda pair: -pair[1]))
        return f"{self.name}({told}; {mark})" + ("" if self.target == "all" else f" on {self.target}")


def write_formats(chosen: Mapping[str, str]) -> str:
    """Format by weight name, as the knob of `Mixed`: the same choice gives the same text."""
    by_format: dict[str, list[str]] = {}
    for name, kept in chosen.items():
        by_format.setdefault(kept, []).append(name)
    return "; ".join(" ".join((kept, *_joined(by_format[kept]))) for kept in sorted(by_format))


@lru_cache(maxsize=64)
def read_formats(text: str) -> Mapping[str, str]:
    """What `write_formats` wrote. Raises NotApplicable for anything else."""
    chosen: dict[str, str] = {}
    for kept, listed in _parts(text):
        for name in _names(listed):
            need(name not in chosen, f"{name} has two formats, {chosen.get(name)} and {kept}", NotApplicable)
            chosen[name] = kept
    return chosen


def _parts(text: str) -> list[tuple[str, tuple[str, ...]]]:
    parts = [part.split() for part in text.split(";")]
    need(all(len(part) > 1 for part in parts), f"{text[:60]!r} is no list of formats and weights", NotApplicable)
    return [(part[0], tuple(part[1:])) for part in parts]


def _joined(names: Iterable[str]) -> list[str]:
    """Names with the layers of each role in one word, sorted."""
    layers: dict[str, list[int]] = {}
    joined = []
    for name in names:
        found = _OF_A_LAYER.fullmatch(name)
        if found:
            layers.setdefault(found[2], []).append(int(found[1]))
        else:
            joined.append(name)
    return sorted(joined + [f"layers.{_ranges(sorted(found))}.{role}" for role, found in layers.items()])


def _ranges(numbers: list[int]) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


@lru_cache(maxsize=1024)
def _names(listed: tuple[str, ...]) -> tuple[str, ...]:
    names: list[str] = []
    for word in listed:
        found = _LAYERS.fullmatch(word)
        if found is None:
            names.append(word)
            continue
        for run in found[1].split(","):
            first, dash, last = run.partition("-")
            whole = first.isdigit() and (last.isdigit() if dash else True)
            need(whole, f"{word[:60]!r} names no layers", NotApplicable)
            start, stop = int(first), int(last or first)
            need(start <= stop < _MOST_LAYERS, f"{word[:60]!r} names no layers", NotApplicable)
            names += [f"layers.{layer}.{found[2]}" for layer in range(start, stop + 1)]
    return tuple(names)

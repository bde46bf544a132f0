"""Streaming: everybody inside the same memory cap, one at a time, each over files that are not in the page cache."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import drop_pages, whisper
from contenders import Config, configs
from models import forms, prompt
from own import pack_streamed, streamed_bytes
from process import Process
from quiet import Watch
from verdicts import Ratio

from pintpot.errors import DoesNotFit, PintpotError
from pintpot.meter.cap import Cap
from pintpot.meter.clock import quantile
from pintpot.stream.reader import disk_rate

if TYPE_CHECKING:
    from bench import Record

PROMPT, CONTEXT = 16, 256
READ_BYTES, READ_BLOCK, READ_IN_FLIGHT, READ_S = 256 << 20, 1 << 20, 4, 0.5
OWN = "Pintpot"


@dataclass(frozen=True)
class Faster:
    """`own`, a configuration of Pintpot, must be so many times faster than the best of a group."""

    own: str
    group: str
    at_least: float


@dataclass(frozen=True)
class Capped:
    """One model in so much memory; `output` words an answer, the first of them not counted."""

    name: str
    model: str
    task: str
    memory: int
    output: int
    rounds: int
    wanted: tuple[Faster, ...]
    quick: bool = False

    def measure(self, quick: bool) -> dict[str, Any]:
        """Rounds of one answer by each contender, opened for it; those that are killed are out."""
        model = forms(self.model)["as is"]
        entrants = {config.label: (config, self._knobs(config, model)) for config in configs(self.task)}
        found: dict[str, list[dict[str, Any]]] = {label: [] for label in entrants}
        failed: dict[str, str] = {}
        packs = {
            label: streamed_bytes(Path(knobs["model"])) for label, (c, knobs) in entrants.items() if c.group == OWN
        }
        for turn in range(self.rounds):
            whisper(f"  round {turn + 1} of {self.rounds}")
            for label, (config, knobs) in entrants.items():
                if label in failed:
                    continue
                try:
                    found[label].append(self._answer(config, knobs, turn))
                except PintpotError as error:
                    failed[label] = f"{'killed' if isinstance(error, DoesNotFit) else 'failed'}: {error}"
                    whisper(f"  {label}: {failed[label]}")
        return {"finals": {label: seen for label, seen in found.items() if seen}, "failed": failed, "disk_bytes": packs}

    def _knobs(self, config: Config, model: Path) -> dict[str, Any]:
        if config.group == OWN:
            folder = pack_streamed(
                model, memory=self.memory, context=CONTEXT, prompt=PROMPT, output=self.output, **config.knobs
            )
            return {"model": str(folder)}
        if config.module == "airllm" and not Path(f"{model}-airllm").exists():
            whisper("  airllm cuts the model into its files ...")
            with Process(config.module, {"model": str(model)} | config.knobs):
                pass
        extra = {"context": CONTEXT, "cache": "f16"} if config.module == "llama_cpp" else {}
        return {"model": str(model)} | extra | config.knobs

    def _answer(self, config: Config, knobs: dict[str, Any], turn: int) -> dict[str, Any]:
        files = list(_files(Path(knobs["model"])))
        drop_pages(files)
        largest = max(files, key=lambda path: path.stat().st_size)
        size = min(READ_BYTES, largest.stat().st_size // READ_BLOCK * READ_BLOCK)
        plain = disk_rate(largest, 0, size, in_flight=READ_IN_FLIGHT, block=READ_BLOCK, seconds=READ_S)
        with Cap(self.memory) as cap, Process(config.module, knobs, cap) as process:
            with Watch([process.pid]) as watch:
                answer = process.answers([prompt(PROMPT, turn)], self.output)
            opened = process.open_s
        each = answer["rest_s"] / (answer["number"] - answer["first_number"])
        return {
            "token_s": each, "first_s": answer["first_s"], "open_s": opened, "foreign": watch.foreign,
            "disk": plain.bytes_per_s, "peak": cap.report.peak_bytes,
        }  # fmt: skip

    def show(self, record: Record, found: dict[str, Any]) -> None:
        """The table and the verdicts."""
        record.say(f"\n{self.name}")
        rows = [(label, *_row(seen)) for label, seen in found["finals"].items()]
        columns = ("", "s a token (quarters)", "first word s", "opening s", "peak MB", "others' share", "disk GB/s")
        record.table(columns, rows)
        for label, why in found["failed"].items():
            record.say(f"{label} {why}")
        for wanted in self.wanted:
            self._verdict(record, found["finals"], wanted)

    def _verdict(self, record: Record, finals: dict[str, Any], wanted: Faster) -> None:
        own = f"{OWN}, {wanted.own}"
        peers = {label: _middle(seen) for label, seen in finals.items() if label.startswith(wanted.group)}
        what = f"{self.name}: {own}, beside {wanted.group}"
        if own not in finals or not peers:
            record.verdict(what, "not both ran", f"{wanted.at_least:g}", False)
            return
        best = min(peers, key=partial(_of, peers))
        pairs = [
            (b["token_s"] / a["token_s"], max(a["foreign"], b["foreign"]))
            for a, b in zip(finals[own], finals[best], strict=False)
        ]
        ratio = Ratio.of(pairs)
        holds = ratio.quiet and ratio.middle >= wanted.at_least
        record.verdict(what, f"{ratio}; {best}", f"{wanted.at_least:g}", holds)


def _files(model: Path) -> Iterable[Path]:
    """The model's own files, and those that a contender made of them."""
    for place in (model, *model.parent.glob(f"{model.name}-*")):
        if place.is_file():
            yield place
        elif place.is_dir() and (place == model or place.name.startswith(model.name)):
            yield from (path for path in place.rglob("*") if path.is_file())


def _row(seen: list[dict[str, Any]]) -> tuple[str, ...]:
    times = [one["token_s"] for one in seen]
    first, opened, foreign, disk = (
        statistics.median(one[key] for one in seen) for key in ("first_s", "open_s", "foreign", "disk")
    )
    peaks = [one["peak"] for one in seen if one["peak"] is not None]
    return (
        f"{_middle(seen):.3f} ({quantile(times, 0.25):.3f} to {quantile(times, 0.75):.3f})", f"{first:.2f}",
        f"{opened:.2f}", f"{max(peaks) / 1e6:.0f}" if peaks else "?", f"{foreign:.1%}", f"{disk / 1e9:.2f}",
    )  # fmt: skip


def _middle(seen: list[dict[str, Any]]) -> float:
    return statistics.median(float(one["token_s"]) for one in seen)


def _of(values: dict[str, float], key: str) -> float:
    return values[key]

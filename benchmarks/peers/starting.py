"""Starting: whole processes, from their beginning to the first word, over files that are not in the page cache."""

from __future__ import annotations

import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import OUT, cli, code_digest, drop_pages, probed_machine, whisper
from capped import READ_BLOCK, READ_BYTES, READ_IN_FLIGHT, READ_S
from contenders import Config, configs
from environment import has_native
from models import forms, question
from process import Process
from quiet import Watch
from verdicts import Ratio

from pintpot.errors import PintpotError, need
from pintpot.meter.clock import quantile
from pintpot.stream.reader import disk_rate

if TYPE_CHECKING:
    from bench import Record

PROMPT, OUTPUT, CONTEXT = "Why is the sky blue?", 2, 1024
FEWEST, SHORTER = 3, 3


@dataclass(frozen=True)
class Starting:
    """Pintpot must speak within `most_s`, or within reading its pack from the disk and `beyond_disk_s`."""

    name: str
    model: str
    rounds: int
    most_s: float = 0.0
    beyond_disk_s: float = 0.0
    quick: bool = False

    def measure(self, quick: bool) -> dict[str, Any]:
        """Rounds in which everybody starts once, after one round that fills the page cache with libraries."""
        files = forms(self.model)
        entrants = {
            config.label: (config, self._knobs(config, files[config.source]))
            for config in configs("start")
            if config.source in files and (config.module != "llama_cpp" or has_native())
        }
        found: dict[str, list[dict[str, float]]] = {label: [] for label in entrants}
        failed: dict[str, str] = {}
        rounds = max(FEWEST, self.rounds // SHORTER) if quick else self.rounds
        for turn in range(rounds + 1):
            whisper(f"  round {turn} of {rounds}")
            for label, (config, knobs) in entrants.items():
                if label in failed:
                    continue
                try:
                    seen = _start(config, knobs)
                except PintpotError as error:
                    failed[label] = str(error)
                    continue
                found[label] += [seen] * (turn > 0)
        return {"starts": found, "failed": failed}

    def _knobs(self, config: Config, model: Path) -> dict[str, Any]:
        if config.module != "pintpot":
            return {"model": str(model), "context": CONTEXT, "cache": "f16"} | config.knobs
        folder = OUT / "packs" / "peers" / f"{model.stem}-start-{code_digest()}"
        if not folder.exists():
            probed_machine()
            command = cli("pack", str(model), "--context", str(CONTEXT), "-o", str(folder), "-q")
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return {"model": str(folder)}

    def show(self, record: Record, found: dict[str, Any]) -> None:
        """The table and the verdict."""
        record.say(f"\n{self.name}: seconds from the start of the process to its first word")
        rows = []
        for label, seen in found["starts"].items():
            values = [one["seconds"] for one in seen]
            if values:
                foreign = statistics.median(one["foreign"] for one in seen)
                cells = [f"{quantile(values, share):.3f}" for share in (0, 0.25, 0.5, 0.75, 1)]
                rows.append((label, *cells, f"{foreign:.1%}"))
        record.table(("", "least", "25%", "median", "75%", "most", "others' share"), rows)
        for label, why in found["failed"].items():
            record.say(f"{label} failed: {why}")
        own = next(seen for label, seen in found["starts"].items() if label.startswith("Pintpot"))
        seen = Ratio.of([(one["seconds"], one["foreign"]) for one in own])
        due = self.most_s or statistics.median(one["reading_s"] for one in own) + self.beyond_disk_s
        record.verdict(self.name, f"{seen} s", f"{due:.3f} s", seen.quiet and seen.middle <= due)


def _start(config: Config, knobs: dict[str, Any]) -> dict[str, float]:
    model = Path(knobs["model"])
    files = [path for path in model.iterdir() if path.is_file()] if model.is_dir() else [model]
    drop_pages(files)
    largest = max(files, key=lambda path: path.stat().st_size)
    size = min(READ_BYTES, largest.stat().st_size // READ_BLOCK * READ_BLOCK)
    plain = disk_rate(largest, 0, size, in_flight=READ_IN_FLIGHT, block=READ_BLOCK, seconds=READ_S)
    reading = sum(path.stat().st_size for path in files) / plain.bytes_per_s
    seconds, foreign = _own_start(model) if config.module == "pintpot" else _peer_start(config, knobs)
    return {"seconds": seconds, "foreign": foreign, "reading_s": reading}


def _own_start(pack: Path) -> tuple[float, float]:
    """`pintpot run`, as a person starts it."""
    arguments = ["run", str(pack), "-p", PROMPT, "--temperature", "0", "--max-tokens", str(OUTPUT), "-q"]
    started = time.perf_counter()
    with subprocess.Popen(cli(*arguments), stdout=subprocess.PIPE, bufsize=0) as process:
        need(process.stdout is not None, "no pipe", PintpotError)
        with Watch([process.pid]) as watch:
            begun = process.stdout.read(1) if process.stdout is not None else b""
            seconds = time.perf_counter() - started
        rest = process.stdout.read() if process.stdout is not None else b""
    need(process.returncode == 0 and bool((begun + rest).strip()), f"run ended with {process.returncode}", PintpotError)
    return seconds, watch.foreign


def _peer_start(config: Config, knobs: dict[str, Any]) -> tuple[float, float]:
    """A Python process that opens the model and answers."""
    tokens = question(PROMPT)
    started = time.perf_counter()
    process = Process(config.module, knobs)
    watch = Watch([process.pid])
    watch.begin()
    with process:
        opened = time.perf_counter() - started
        answer = process.answers([tokens], OUTPUT)
        watch.end()
    return opened + answer["first_s"], watch.foreign

"""A vision transformer of three times the memory budget, under one real cap for all."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import OUT, drop_pages, whisper
from contenders import Config, configs
from process import Process
from quiet import Watch
from verdicts import Ratio
from vision import model_folder, pack_vision

from pintpot.errors import DoesNotFit, PintpotError, need
from pintpot.meter.cap import Cap

if TYPE_CHECKING:
    from bench import Record

ORDER = 5
OWN, CALLS, ALIKE = "Pintpot", 3, 0.9999
SAME, RESIDENT = f"{OWN}, the same weights", f"{OWN}, resident"
FASTER, SLOWER = 1.5, 1.15


@dataclass(frozen=True)
class Vision:
    """`batch` pictures at once through weights of `times` the memory; the first call of each opening is not counted."""

    name: str
    batch: int
    times: float
    rounds: int
    quick: bool = False

    def measure(self, quick: bool) -> dict[str, Any]:
        """Rounds of a few calls by each contender, opened for them; those that are killed are out."""
        weights = model_folder() / "model.safetensors"
        memory = round(weights.stat().st_size / self.times)
        found: dict[str, list[dict[str, Any]]] = {}
        failed: dict[str, str] = {}
        entrants = [(config, self._knobs(config, memory)) for config in configs("vision")]
        for turn in range(self.rounds):
            whisper(f"  round {turn + 1} of {self.rounds}")
            for config, knobs in entrants:
                if config.label in failed:
                    continue
                try:
                    one = self._forward(config, knobs, memory)
                    found.setdefault(config.label, []).append(one)
                except PintpotError as error:
                    failed[config.label] = f"{'killed' if isinstance(error, DoesNotFit) else 'failed'}: {error}"
                    whisper(f"  {config.label}: {failed[config.label]}")
        need(SAME in found and RESIDENT in found, f"Pintpot failed: {failed}", PintpotError)
        return {"finals": found, "failed": failed, "memory": memory, "alike": _alike(list(found))}

    def _knobs(self, config: Config, memory: int) -> dict[str, Any]:
        if config.group != OWN:
            return {"model": str(model_folder()), **config.knobs}
        room = None if config.knobs.get("resident") else memory
        return {"model": str(pack_vision(self.batch, room, bool(config.knobs["chosen"])))}

    def _forward(self, config: Config, knobs: dict[str, Any], memory: int) -> dict[str, Any]:
        model = Path(knobs["model"])
        drop_pages(path for path in model.rglob("*") if path.is_file())
        limit = None if config.knobs.get("resident") else Cap(memory)
        answer = OUT / "peers" / f"{_file_name(config.label)}.npy"
        if limit is None:
            with Process(config.module, knobs) as process:
                return self._asked(process, answer) | {"peak": None}
        with limit, Process(config.module, knobs, limit) as process:
            found = self._asked(process, answer)
        return found | {"peak": limit.report.peak_bytes}

    def _asked(self, process: Process, answer: Path) -> dict[str, Any]:
        process.ask("forward", batch=self.batch, times=1, answer=str(answer))
        with Watch([process.pid]) as watch:
            given = process.ask("forward", batch=self.batch, times=CALLS, answer=str(answer))
        seconds = statistics.median(given["seconds"])
        return {"batch_s": seconds, "open_s": process.open_s, "foreign": watch.foreign}

    def show(self, record: Record, found: dict[str, Any]) -> None:
        """The table and the verdicts."""
        record.say(f"\n{self.name}: a cap of {found['memory'] / 1e6:.0f} MB")
        rows = []
        for label, seen in found["finals"].items():
            peaks = [one["peak"] for one in seen if one["peak"] is not None]
            rows.append((
                label, f"{_middle(seen):.2f}", f"{statistics.median(one['open_s'] for one in seen):.2f}",
                f"{max(peaks) / 1e6:.0f}" if peaks else "no cap",
                f"{statistics.median(one['foreign'] for one in seen):.1%}", f"{found['alike'][label]:.6f}",
            ))  # fmt: skip
        record.table(("", "s a batch", "opening s", "peak MB", "others' share", "cosine with resident"), rows)
        for label, why in found["failed"].items():
            record.say(f"{label} {why}")
        same = [label for label in found["finals"] if label != f"{OWN}, as planned"]
        least = min(found["alike"][label] for label in same)
        record.verdict(f"{self.name}: all of the same weights give the same", f"{least:.6f}", str(ALIKE), least > ALIKE)
        finals = found["finals"]
        beside = _ratio(finals[SAME], finals[RESIDENT])
        record.verdict(f"{self.name}: beside resident", str(beside), f"at most {SLOWER}", beside.middle <= SLOWER)
        peers = [label for label in finals if not label.startswith(OWN)]
        if not peers:
            record.verdict(f"{self.name}: beside accelerate", "accelerate did not live", f"{FASTER}", False)
            return
        best = min(peers, key=lambda label: _middle(finals[label]))
        ratio = _ratio(finals[best], finals[SAME])
        record.verdict(f"{self.name}: beside {best}", str(ratio), f"at least {FASTER}", ratio.middle >= FASTER)


def _file_name(label: str) -> str:
    return label.replace(", ", "-").replace(" ", "-")


def _alike(labels: list[str]) -> dict[str, float]:
    """Of each contender's answer the cosine with that of all weights in RAM."""
    import numpy as np

    found = {label: np.load(OUT / "peers" / f"{_file_name(label)}.npy").astype(np.float64).ravel() for label in labels}
    wanted = found[RESIDENT]
    return {
        label: float(one @ wanted / np.linalg.norm(one) / np.linalg.norm(wanted)) for label, one in found.items()
    }  # fmt: skip


def _middle(seen: list[dict[str, Any]]) -> float:
    return statistics.median(float(one["batch_s"]) for one in seen)


def _ratio(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> Ratio:
    pairs = zip(one, other, strict=False)
    return Ratio.of([(a["batch_s"] / b["batch_s"], max(a["foreign"], b["foreign"])) for a, b in pairs])


CASES = (Vision("ViT-g of 4 GB in a third of it", batch=1, times=3.0, rounds=3),)

"""A contest: the same question to all, side by side, and what must come of it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contenders import configs
from environment import has_native
from models import TRAINED, forms
from own import figures, pack_as_stored
from process import Process
from quiet import MOST
from rounds import METRICS, Entrant, Task, fact, heats, rounds

from pintpot.errors import PintpotError, need
from pintpot.meter.clock import quantile

if TYPE_CHECKING:
    from bench import Record

OWN = "Pintpot"
PEERS, LIMIT, FLOOR = "the best peer", "the limit", "the floor"
QUICK_ROUNDS, FEWEST_PAIRS = 7, 3


@dataclass(frozen=True)
class Wanted:
    """`at_least` times what `against` reaches: the best peer, a group of them, the limit (decode), the floor (prefill).

    `ram_over`: only where RAM reads so many bytes a second.
    """

    metric: str
    at_least: float
    against: str = PEERS
    ram_over: float = 0.0


@dataclass(frozen=True)
class Contest:
    """One case of reading a prompt and writing an answer."""

    name: str
    model: str
    prompt: int
    output: int
    cache: str = "f16"
    rounds: int = 15
    quick: bool = False
    together: bool = True
    wanted: tuple[Wanted, ...] = ()

    def measure(self, quick: bool) -> dict[str, Any]:
        """Heats and rounds; everything that was seen."""
        files = forms(self.model)
        context = -(-(self.prompt + self.output + 32) // 256) * 256
        entrants, packs, known = [], {}, dict[str, str]()
        for config in configs("answering"):
            if config.source not in files or (quick and not config.quick):
                continue
            if config.module == "llama_cpp" and not has_native():
                continue
            knobs: dict[str, Any] = {"model": str(files[config.source])}
            if config.module == "pintpot":
                folder = self._pack(files[config.source], context, **config.knobs)
                packs[config.label] = figures(folder)
                knobs = {"model": str(folder)}
            else:
                knobs |= {"context": context, "cache": self.cache} | config.knobs
            entrants.append(Entrant(config, knobs))
        for source in files if self.model == TRAINED else ():
            with Process("pintpot", {"model": str(self._pack(files[source], context, planes=2))}) as process:
                known[source] = fact(process)
        task = Task(self.prompt, self.output, known)
        finalists, rows = heats(_unlike(entrants), task)
        failed = [row for row in rows if row["group"] == OWN and "failed" in row]
        need(not failed, f"Pintpot failed: {failed}", PintpotError)
        need_bytes = round(max(one["token_bytes"] for one in packs.values()))
        limits = {"num_bytes": need_bytes, "threads": round(max(one["threads"] for one in packs.values()))}
        number = min(self.rounds, QUICK_ROUNDS) if quick else self.rounds
        return {"heats": rows, "packs": packs, **rounds(finalists, limits, task, number, self.together)}

    def _pack(self, model: Path, context: int, planes: int) -> Path:
        load = {"context": context, "prompt": self.prompt, "output": self.output}
        return pack_as_stored(model, cache=self.cache, planes=planes, **load)

    def show(self, record: Record, found: dict[str, Any]) -> None:
        """A table of all, one of the machine, and the verdicts."""
        finals = found["finals"]
        record.say(f"\n{self.name}{'' if self.cache == 'f16' else ', cache in 8 bits'}")
        rows = []
        for label, samples in finals.items():
            quiet = [one for one in samples if one["foreign"] <= MOST]
            foreign = [one["foreign"] for one in samples]
            rows.append((
                label, *(_spread([one[metric] for one in samples]) for metric in METRICS),
                f"{len(quiet)} of {len(samples)}", f"{statistics.median(foreign):.1%}",
                f"{statistics.median(one['machine']['read'] for one in samples) / 1e9:.1f}",
                f"{1e6 * statistics.median(one['machine']['barrier_s'] for one in samples):.2f}",
            ))  # fmt: skip
        columns = ("in the rounds", "decode tokens/s", "prefill tokens/s", "quiet", "others' share")
        record.table((*columns, "reads GB/s", "barrier us"), rows)
        record.say("not in the rounds: " + "; ".join(_heat(row) for row in found["heats"] if _label(row) not in finals))
        self._agreement(record, finals)
        for wanted in self.wanted:
            self._verdict(record, found, wanted)

    def _agreement(self, record: Record, finals: dict[str, Any]) -> None:
        """How far the peers' greedy words are those of Pintpot: only trained weights say something."""
        own = next(samples for label, samples in finals.items() if label.startswith(OWN))
        if self.model == TRAINED:
            same = {
                label: statistics.median(_same(a["text"], b["text"]) for a, b in zip(own, samples, strict=True))
                for label, samples in finals.items()
            }
            shares = [f"{label} {count:.0f}" for label, count in same.items() if finals[label] is not own]
            record.say("characters of an answer before it first differs from Pintpot's, median: " + "; ".join(shares))

    def _verdict(self, record: Record, found: dict[str, Any], wanted: Wanted) -> None:
        finals = found["finals"]
        label = _own_label(finals, wanted.metric)
        own = finals[label]
        reads = statistics.median(one["machine"]["read"] for one in own)
        if reads < wanted.ram_over:
            record.say(f"not asked  {self.name}: {wanted.at_least:g} times, as RAM reads {reads / 1e9:.0f} GB/s only")
            return
        if wanted.against in (LIMIT, FLOOR):
            pairs = [(_share(one, found["packs"][label], self, wanted), one["foreign"]) for one in own]
            against = wanted.against
        else:
            best = _best(finals, wanted)
            if best is None:
                record.verdict(f"{self.name}, {wanted.metric}", f"no {wanted.against} ran", "one", False)
                return
            against = best
            pairs = [
                (a[wanted.metric] / b[wanted.metric], max(a["foreign"], b["foreign"]))
                for a, b in zip(own, finals[against], strict=True)
            ]
        quiet = [ratio for ratio, foreign in pairs if foreign <= MOST]
        counted = quiet if len(quiet) >= FEWEST_PAIRS else [ratio for ratio, _ in pairs]
        marked = "" if counted is quiet else ", NEVER QUIET"
        middle = statistics.median(counted)
        quarters = f"{quantile(counted, 0.25):.2f} to {quantile(counted, 0.75):.2f}"
        text = f"{middle:.2f} ({quarters}, {len(counted)} pairs{marked})"
        what = f"{self.name}: {wanted.metric}, {label}, beside {against}"
        record.verdict(what, text, f"{wanted.at_least:g}", middle >= wanted.at_least)


def _unlike(entrants: list[Entrant]) -> list[Entrant]:
    """Without those that would run the very same: a model that comes as Q4_0 has one form only."""
    seen: list[tuple[str, dict[str, Any]]] = []
    kept = []
    for one in entrants:
        mark = (one.config.module, one.knobs)
        if mark not in seen:
            seen.append(mark)
            kept.append(one)
    return kept


def _own_label(finals: dict[str, Any], metric: str) -> str:
    """The configuration of Pintpot that stands for a figure."""
    standing = [config for config in configs("answering") if config.group == OWN and metric in config.stands_for]
    return next(one.label for one in standing if one.label in finals)


def _best(finals: dict[str, Any], wanted: Wanted) -> str | None:
    def fits(label: str) -> bool:
        return not label.startswith(OWN) and (wanted.against == PEERS or label.startswith(wanted.against))

    known = {label: statistics.median(one[wanted.metric] for one in finals[label]) for label in finals if fits(label)}
    return max(known, key=lambda label: known[label]) if known else None


def _share(one: dict[str, Any], pack: dict[str, float], case: Contest, wanted: Wanted) -> float:
    """Of the limit of decoding (plain reads of the same bytes), or of the floor of a prompt (arithmetic alone)."""
    machine = one["machine"]
    if wanted.against == LIMIT:
        return float(one["decode"] * pack["token_bytes"] / machine["read"])
    floor_s = pack["int8"] / machine["int8"] + pack["float"] / machine["float"]
    return float(one["prefill"] * floor_s / case.prompt)


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({quantile(values, 0.25):.1f} to {quantile(values, 0.75):.1f})"


def _label(row: dict[str, Any]) -> str:
    return f"{row['group']}, {row['name']}"


def _heat(row: dict[str, Any]) -> str:
    if "failed" in row:
        return f"{_label(row)} failed: {row['failed']}"
    best = [max(one[metric] for one in row["samples"]) for metric in METRICS]
    return f"{_label(row)} {best[0]:.0f} and {best[1]:.0f}"


def _same(one: str, other: str) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))

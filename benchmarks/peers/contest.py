"""A contest: the same questions to all, side by side, and what must come of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contenders import Config, configs
from environment import has_native
from models import TRAINED, forms
from own import figures, pack_as_stored
from rounds import Entrant, Task, heats, rounds
from verdicts import OWN, Wanted, show

from pintpot.errors import PintpotError, need

if TYPE_CHECKING:
    from bench import Record

HEATS, FEWEST_ROUNDS, SHORTER = 2, 3, 5


@dataclass(frozen=True)
class Contest:
    """One case of reading prompts and writing answers, `sequences` of them side by side."""

    name: str
    model: str
    prompt: int
    output: int
    cache: str = "f16"
    sequences: int = 1
    rounds: int = 15
    quick: bool = False
    together: bool = True
    wanted: tuple[Wanted, ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is compared, in tokens a second; `load` counts answers over prompts and answers together."""
        return ("decode", "prefill") if self.sequences == 1 else ("load", "decode")

    @property
    def configs(self) -> tuple[Config, ...]:
        """Who may take part."""
        return configs("answering" if self.sequences == 1 else "batches")

    @property
    def context(self) -> int:
        """Positions of each sequence."""
        return -(-(self.prompt + self.output + 32) // 256) * 256

    def measure(self, quick: bool) -> dict[str, Any]:
        """Heats and rounds; everything that was seen."""
        files = forms(self.model)
        entrants, packs = [], {}
        for config in self.configs if len(set(files.values())) > 1 else map(_family, self.configs):
            if config.source not in files or (quick and not config.quick):
                continue
            if config.module == "llama_cpp" and not has_native():
                continue
            if config.group == OWN:
                folder = self._pack(files[config.source], **config.knobs)
                packs[config.label] = figures(folder)
                entrants.append(Entrant(config, {"model": str(folder)}))
            else:
                knobs = {"model": str(files[config.source]), "context": self.context, "cache": self.cache}
                knobs |= {"sequences": self.sequences} if self.sequences > 1 else {}
                entrants.append(Entrant(config, knobs | config.knobs))
        task = Task(self.prompt, self.output, self.sequences, self.metrics, self.model == TRAINED)
        finalists, rows = heats(_unlike(entrants), task, 1 if quick else HEATS)
        failed = [row for row in rows if row["group"] == OWN and "failed" in row]
        need(not failed, f"Pintpot failed: {failed}", PintpotError)
        step_bytes = round(max(one["step_bytes"] for one in packs.values()))
        limits = {"num_bytes": step_bytes, "threads": round(max(one["threads"] for one in packs.values()))}
        number = max(FEWEST_ROUNDS, self.rounds // SHORTER) if quick else self.rounds
        finals = rounds(finalists, limits, task, number, self.together)
        return {"metrics": self.metrics, "heats": rows, "packs": packs, "finals": finals}

    def _pack(self, model: Path, planes: tuple[int, int] | None) -> Path:
        load = {"context": self.context, "prompt": self.prompt, "output": self.output, "batch": self.sequences}
        return pack_as_stored(model, cache=self.cache, planes=planes, **load)

    def show(self, record: Record, found: dict[str, Any]) -> None:
        """A table of all, one of the machine, and the verdicts."""
        standing = {metric: _standing(self.configs, found["finals"], metric) for metric in self.metrics}
        title = f"{self.name}{'' if self.cache == 'f16' else ', cache in 8 bits'}"
        for label, pack in found["packs"].items():
            record.say(f"{label}: int8 rows in {pack['decode_planes']:.0f} planes in decode")
        show(record, title, found, standing, self.wanted, trained=self.model == TRAINED, prompt=self.prompt)


def _family(config: Config) -> Config:
    """Of a model with one form only all that a peer can do competes with itself."""
    return replace(config, group=config.group.partition(",")[0])


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


def _standing(among: tuple[Config, ...], finals: dict[str, Any], metric: str) -> str:
    """The configuration of Pintpot that stands for a figure."""
    return next(one.label for one in among if metric in one.stands_for and one.label in finals)

"""Learning: `pintpot tune` and peft in turn, each a whole process, from the same adapters over the same sequences.

Losses of one long run each are compared before anything is timed. What is asked of Pintpot is to learn in half of the
peak that the peer had: that is its budget.
"""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import OUT, cli, smollm2, whisper
from contenders import Config, configs
from process import Process
from texts import wikipedia_paragraphs
from verdicts import Ratio

if TYPE_CHECKING:
    from bench import Record

LENGTH, SEQUENCES, RANK, ALPHA, RATE = 256, 4, 8, 16.0, 5e-4
COMPARED, TIMED, SHORTER = 50, 8, 10
APART, FASTER, SMALLER = 0.01, 1.2, 0.5
PATIENCE_S = 3600.0
IGNORED = -100
"""The label of a place whose word transformers does not learn."""


@dataclass(frozen=True)
class Learning:
    """One arithmetic: LoRA where weights are not packed, QLoRA where they are, or every weight (`method`).

    Where weights are rounded otherwise than the peer's losses are told, not compared.
    """

    name: str
    task: str
    method: str
    arithmetic: str
    rounds: int = 5
    quick: bool = False
    compared: bool = True
    rate: float = RATE

    def measure(self, quick: bool) -> dict[str, Any]:
        """The long runs, and rounds of short ones."""
        data, folder = prepared()
        (config,) = configs(self.task)
        steps = SHORTER if quick else COMPARED
        whisper(f"  {steps} steps each")
        theirs = self._theirs(config, folder, steps)
        memory = round(SMALLER * theirs["peak_bytes"])
        ours = self._ours(data, steps, memory)
        rounds = []
        for turn in range(2 if quick else self.rounds):
            whisper(f"  round {turn + 1} of {2 if quick else self.rounds}")
            rounds.append({"ours": self._ours(data, TIMED, memory), "theirs": self._theirs(config, folder, TIMED)})
        return {"ours": ours, "theirs": theirs, "rounds": rounds, "memory": memory, "label": config.label}

    def _ours(self, data: Path, steps: int, memory: int) -> dict[str, Any]:
        folder = OUT / "peers" / f"learned-{time.time_ns()}"
        command = cli(
            "tune", str(smollm2()), str(data), "-o", str(folder), "--memory", f"{memory // 1_000_000}MB",
            "--method", self.method, "--steps", str(steps), "--length", str(LENGTH), "--sequences", str(SEQUENCES),
            *([] if self.method == "full" else ["--rank", str(RANK), "--alpha", str(ALPHA), "--targets", "q,v"]),
            "--arithmetic", self.arithmetic, "--learning-rate", str(self.rate), "--schedule", "constant",
            "--warmup", "0", "--threads", "2", "--json",
        )  # fmt: skip
        done = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        measured = done["measured"]
        return {
            "losses": done["losses"], "tokens_per_s": measured["tokens_per_s"], "peak_bytes": measured["peak_bytes"],
            "promised_bytes": done["promised"]["memory_bytes"][1],
        }  # fmt: skip

    def _theirs(self, config: Config, folder: Path, steps: int) -> dict[str, Any]:
        knobs = {
            "model": str(folder / "model"), "adapters": str(folder / "adapters"),
            "sequences": str(folder / "sequences.npy"), "rate": self.rate,
        }  # fmt: skip
        with Process(config.module, knobs | config.knobs) as process:
            found = process.ask("learn", steps=steps, patience_s=PATIENCE_S)
        return {**found, "tokens_per_s": steps * SEQUENCES * LENGTH / sum(found["seconds"])}

    def show(self, record: Record, found: dict[str, Any]) -> None:
        """The table and the verdicts: losses first."""
        ours, theirs, rounds = found["ours"], found["theirs"], found["rounds"]
        record.say(f"\n{self.name}: {SEQUENCES} x {LENGTH} tokens, {self.method}, {found['label']} in turn")
        rows = []
        for label, key in (("Pintpot", "ours"), (found["label"], "theirs")):
            speed = Ratio.of([(one[key]["tokens_per_s"], 0.0) for one in rounds])
            peak = max(one[key]["peak_bytes"] for one in (found, *rounds)) / 1e6
            rows.append((label, str(speed), f"{peak:.0f}", f"{found[key]['losses'][-1]:.4f}"))
        record.table(("", "tokens a second", "peak, MB", "last loss"), rows)
        apart = max(abs(a - b) / b for a, b in zip(ours["losses"], theirs["losses"], strict=True))
        told = f"{apart:.2%} of {len(ours['losses'])} steps"
        if self.compared:
            record.verdict(f"{self.name}: losses apart at most", told, f"{APART:.0%}", apart <= APART)
        else:
            record.say(f"losses apart at most {told}: the weights are rounded otherwise")
        if self.compared and apart > APART:
            return
        ratio = Ratio.of([(one["ours"]["tokens_per_s"] / one["theirs"]["tokens_per_s"], 0.0) for one in rounds])
        record.verdict(f"{self.name}: speed over peft's", str(ratio), f"{FASTER}", ratio.middle >= FASTER)
        own = max(one["ours"]["peak_bytes"] for one in (found, *rounds))
        peak = own / min(one["theirs"]["peak_bytes"] for one in (found, *rounds))
        record.verdict(f"{self.name}: peak over peft's", f"{peak:.2f}", f"{SMALLER}", peak <= SMALLER)
        promised = ours["promised_bytes"]
        told = f"{own / 1e6:.0f} MB"
        record.verdict(f"{self.name}: peak", told, f"at most {promised / 1e6:.0f} MB", own <= promised)


def prepared() -> tuple[Path, Path]:
    """The text as data for `pintpot tune`; and a folder with the dequantized model, first adapters and sequences."""
    import numpy as np

    from pintpot.contract.form import source_form
    from pintpot.contract.training import TrainingForm
    from pintpot.model.read import describe
    from pintpot.model.store import Store
    from pintpot.techniques.adapt.low_rank import LowRank
    from pintpot.techniques.place.offloaded import Offloaded
    from pintpot.trainer.adapters import save_adapters
    from pintpot.trainer.learned import Learned
    from pintpot.trainer.packing import NOT_LEARNED, Order
    from pintpot.trainer.reading import read_sequences
    from pintpot.trainer.weights import Weights
    from pintpot.trainer.whole import save_whole

    folder, data = OUT / "peers" / "learning", OUT / "peers" / "learning.jsonl"
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "adapters").mkdir(exist_ok=True)
    data.write_text(json.dumps({"text": "\n\n".join(wikipedia_paragraphs(360))}) + "\n")
    model = describe(str(smollm2()))
    form = LowRank(rank=RANK, alpha=ALPHA, roles="q,v").promise(source_form(model))
    learns, _ = read_sequences(model, data, LENGTH, seed=0)
    order = Order(len(learns), SEQUENCES, seed=0)
    steps = [learns.take(order.rows(step)) for step in range(COMPARED)]
    tokens, targets = (np.stack([getattr(one, name) for one in steps]) for name in ("tokens", "targets"))
    # The word that is learned at a place is the label of the next one; what fills a sequence up is learned by nobody.
    labels = np.full(tokens.shape, IGNORED, np.int64)
    labels[:, :, 1:] = np.where(targets == NOT_LEARNED, IGNORED, targets)[:, :, :-1]
    np.save(folder / "sequences.npy", np.stack((tokens, labels)), allow_pickle=False)
    with Store(model) as store:
        weights = Weights(model, store, Offloaded().promise(form), ())
        save_whole(folder / "model", model, lambda name: iter([weights.source(name)]))
        weights.close()
    save_adapters(folder / "adapters", model, form.training or TrainingForm(), Learned.adapters(form, 0).values)
    return data, folder

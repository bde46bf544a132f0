"""Proving: the measured run and the limit take turns in processes of their own, then quality, then the verdicts."""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from pintpot import __version__
from pintpot.api import this_machine
from pintpot.errors import BadInput, UsageError, need
from pintpot.meter.agreement import Agreement, Interval
from pintpot.model.tokens import Tokenizer, from_folder
from pintpot.packer.manifest import Manifest, read_manifest
from pintpot.planner.plan import Plan
from pintpot.proof.judge import Measured, judge
from pintpot.proof.proof import Proof
from pintpot.proof.remember import remember_proof
from pintpot.proof.report import write_proof_report
from pintpot.proof.worker import Worker

Progress = Callable[[float, str], None]
DEFAULT_RUNS = 5
TEXT_TOKENS = 256
MAX_TEXTS = 6
Texts = list[list[int]]


def prove(
    pack: Path,
    *,
    text: Path | None = None,
    runs: int = DEFAULT_RUNS,
    html: Path | None = None,
    profile: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Proof:
    """Measure a pack against its plan's promises, each over the median of `runs` runs, and write an HTML report.

    Every process of the proof keeps to the budget and has its own line. When the source is gone, speed and memory are
    proved and the proof says so. Raises BadPack, UsageError for a text that is too short.
    """
    need(runs >= 1, f"{runs} runs measure nothing; use 1 or more", UsageError)
    manifest, digest = read_manifest(pack)
    tell = progress or (lambda share, what: None)
    tokenizer = Tokenizer.load(from_folder(pack))
    texts = _texts(text, tokenizer, manifest.plan)
    with tempfile.TemporaryDirectory(prefix="pintpot-") as scratch:
        states = Path(scratch) / "states.npy"
        measured = _measure(pack, manifest, texts, states, runs, profile, threads, tell)
        agreement, notes = _quality(pack, texts, states, measured, tell)
    proof = judge(pack, digest, manifest.plan, measured, agreement, runs)
    proof = replace(proof, environment=_environment(), notes=(*proof.notes, *notes))
    machine = this_machine()
    remember_proof(machine, manifest.plan, proof, measured)
    path = write_proof_report(proof, manifest.plan, html or pack.with_name(pack.name + ".proof.html"))
    tell(1.0, "proved")
    return replace(proof, report_path=path)


def _texts(text: Path | None, tokenizer: Tokenizer, plan: Plan) -> Texts:
    """Texts of equal length for the comparison: consecutive pieces of one file."""
    if text is None:
        words = files("pintpot.proof").joinpath("text.txt").read_text(encoding="utf-8")
    else:
        try:
            words = text.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{text} cannot be read as text: {error}") from error
    tokens = tokenizer.encode(words, add_special=False)
    length = min(TEXT_TOKENS, plan.budget.workload.context)
    whole = [tokens[first : first + length] for first in range(0, len(tokens), length)]
    texts = [piece for piece in whole if len(piece) == length][:MAX_TEXTS]
    need(bool(texts), f"the text has {len(tokens)} tokens; at least {length} are needed", UsageError)
    return texts


def _measure(
    pack: Path,
    manifest: Manifest,
    texts: Texts,
    states: Path,
    runs: int,
    profile: bool,
    threads: int | None,
    tell: Progress,
) -> Measured:
    plan = manifest.plan
    passing = manifest.slots[: manifest.num_passing]
    disk = {
        "disk_offset": passing[0][0] if passing else 0,
        "disk_bytes": sum(slot.num_bytes for _, _, slot in passing),
        "slot_bytes": plan.form.ring.slot_bytes if plan.form.ring else 4 << 20,
        "in_flight": plan.form.ring.in_flight if plan.form.ring else 4,
    }
    prompt = [token for piece in texts for token in piece]
    used = threads or plan.threads
    with Worker("measured", pack, str(threads or 0)) as worker:
        opened = worker.ask("opened")
        found: list[dict[str, Any]] = []
        limits: list[dict[str, Any]] = []
        with Worker("limit", pack, str(plan.form.ram_bytes), str(used)) as limit:
            worker.ask("run", tokens=prompt)
            for index in range(runs):
                tell(0.05 + 0.5 * index / runs, f"run {index + 1} of {runs}")
                limits.append(limit.ask("measure", **disk))
                found.append(worker.ask("run", tokens=prompt))
        ops = worker.ask("profile", tokens=prompt) if profile else None
        tell(0.6, "answers of the pack")
        hidden = worker.ask("hidden", texts=texts, path=str(states))
        peak = max(hidden["peak_bytes"], found[-1]["peak_bytes"])
    return Measured(opened, tuple(found), tuple(limits), {"measured run": peak}, ops)


def _quality(
    pack: Path, texts: Texts, states: Path, measured: Measured, tell: Progress
) -> tuple[Agreement | None, tuple[str, ...]]:
    """The agreement with the unpacked model, None with the reason when its files are gone."""
    key = hashlib.sha256(repr(texts).encode()).hexdigest()[:16]
    try:
        with Worker("quality", pack) as worker:
            tell(0.65, "answers of the unpacked model")
            worker.ask("reference", texts=texts, key=key)
            tell(0.9, "comparing")
            answer = worker.ask("compare", texts=texts, path=str(states))
    except BadInput as error:
        return None, (f"quality was not measured: {error}",)
    measured.peaks["reference"] = answer["peak_bytes"]
    fields = answer["agreement"]
    return Agreement(**{**fields, "kl": Interval(**fields["kl"])}), ()


def _environment() -> dict[str, str]:
    return {
        "pintpot": __version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "threads": str(len(os.sched_getaffinity(0))),
    }

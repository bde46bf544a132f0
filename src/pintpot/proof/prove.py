"""Proving: the measured run and the limit take turns in processes of their own, then quality, then the verdicts."""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from pintpot import __version__
from pintpot.errors import BadInput, UsageError, need
from pintpot.machine.here import this_machine
from pintpot.machine.spec import Machine
from pintpot.meter.agreement import Agreement, Interval
from pintpot.meter.clock import median
from pintpot.meter.overlap import Agreed
from pintpot.model.joined import VISION
from pintpot.nets.adapted import measured_blocks
from pintpot.packer.manifest import Manifest, read_manifest
from pintpot.planner.plan import Plan
from pintpot.proof.asked import ANSWER_SECONDS, SEEN, Answers, Asked, Texts
from pintpot.proof.judge import Measured, Quality, judge
from pintpot.proof.module_batches import given_for
from pintpot.proof.of_module import measure_module
from pintpot.proof.proof import MAX_TEXTS, TEXT_TOKENS, USUAL_TOKENS, Proof, StepQuality
from pintpot.proof.remember import remember_proof
from pintpot.proof.report import write_proof_report
from pintpot.proof.worker import Worker
from pintpot.runtime.pricing import here_of, priced_here

Progress = Callable[[float, str], None]
DEFAULT_RUNS = 5
FEWEST_WORDS = 4
"""Words of answers are compared for some time, half of each text at most, and so many however slow the model is."""
_QUALITY_FROM = 0.4
"""Of a proof's time, what the runs take."""


def prove(
    pack: Path,
    *,
    text: Path | None = None,
    images: Sequence[Path] = (),
    audios: Sequence[Path] = (),
    runs: int = DEFAULT_RUNS,
    html: Path | None = None,
    profile: bool = False,
    threads: int | None = None,
    tokens: int | None = None,
    steps: bool = False,
    module: str | Callable[[], Any] | None = None,
    progress: Progress | None = None,
) -> Proof:
    """Measure a pack against its plan's promises, each over the median of `runs` runs, and write an HTML report.

    Quality is judged on `tokens` tokens of the text at most, or on pictures where a model sees; `steps` also tells what
    each step of the plan did to it. Where blocks of a module were measured and not recorded, `module` builds it, or is
    the name of what does, such as "mynets:build".
    Every process of the proof keeps to the budget and has its own line. When the source is gone, speed and memory are
    proved and the proof says so. Raises BadPack, DoesNotFit, UsageError for a text that is too short.
    """
    need(runs >= 1, f"{runs} runs measure nothing; use 1 or more", UsageError)
    pack = pack.resolve()
    manifest, digest = read_manifest(pack)
    machine = this_machine()
    manifest, _ = priced_here(manifest, here_of(machine), threads)
    tell = progress or (lambda share, what: None)
    peaks = {"packing": manifest.packing.peak_bytes}
    notes: list[str] = []
    _plan_again(pack, peaks, notes)
    if manifest.tokenizer is None:
        need(not (tokens or steps or profile), "a module's proof has no such parts", UsageError)
        given, code = given_for(manifest.plan.config, text, images, audios), _code(manifest.plan, module)
        measured, quality = measure_module(pack, manifest, _disk(manifest), runs, peaks, notes, tell, given, code)
        return _judged(pack, digest, machine, manifest, measured, quality, runs, notes, html, tell)
    texts = _texts(pack, text, manifest.plan, tokens, peaks)
    found = sum(map(len, texts))
    if tokens is not None and found < tokens:
        notes.append(f"quality was judged by {found} tokens, for the text has no {tokens}; give a longer one")
    elif tokens is not None and found > tokens:
        notes.append(f"quality was judged by {found} tokens, for texts of {len(texts[0])} are read whole")
    window = manifest.plan.form.cache.window
    tested = not window or len(texts[0]) > window
    if not tested:
        notes.append(
            f"quality was not measured: texts of {len(texts[0])} tokens fit the window of {window}, so nothing is "
            "forgotten; give a longer one with --text"
        )
    with tempfile.TemporaryDirectory(prefix="pintpot-") as scratch:
        answers = Answers(texts, Path(scratch), _answer_seconds(tokens))
        measured = _measure(pack, manifest, answers, Asked(runs, profile), peaks, tell)
        quality = _quality(pack, answers, steps, peaks, notes, tell) if tested else Quality()
    return _judged(pack, digest, machine, manifest, measured, quality, runs, notes, html, tell, found)


def _judged(
    pack: Path,
    digest: str,
    machine: Machine,
    manifest: Manifest,
    measured: Measured,
    quality: Quality,
    runs: int,
    notes: list[str],
    html: Path | None,
    tell: Progress,
    text_tokens: int = 0,
) -> Proof:
    """The verdicts: remembered, and written as a page."""
    proof = judge(pack, digest, manifest.plan, measured, quality, runs)
    merged = manifest.source.merged
    told = () if merged is None else (f"{merged}; quality is against the model with them in float",)
    proof = replace(
        proof,
        environment=_environment(manifest.plan),
        notes=(*proof.notes, *told, *notes),
        text_tokens=text_tokens,
    )
    remember_proof(machine, manifest, proof, measured)
    path = write_proof_report(proof, manifest.plan, html or pack.with_name(pack.name + ".proof.html"))
    tell(1.0, "proved")
    return replace(proof, report_path=path)


def _code(plan: Plan, module: str | Callable[[], Any] | None) -> str:
    """What builds the module whose blocks were measured. Raises UsageError where it is wanted and was not given."""
    measured = [path for part in plan.parts for path in measured_blocks(part.config)]
    if not measured:
        return ""
    why = (
        f"{', '.join(measured[:3])} were measured and not recorded; name what builds the module: module='mynets:build'"
    )
    need(module is not None, why, UsageError)
    from pintpot.runtime.own_code import code_of

    return code_of(module)


def _plan_again(pack: Path, peaks: dict[str, int], notes: list[str]) -> None:
    try:
        with Worker("planning", pack) as worker:
            peaks["planning"] = worker.ask("plan")["peak_bytes"]
    except BadInput as error:
        notes.append(f"planning was not measured: {error}")


def _answer_seconds(tokens: int | None) -> float:
    """Whoever asks for more tokens has more time."""
    return ANSWER_SECONDS * max(1.0, (tokens or 0) / USUAL_TOKENS)


def _texts(pack: Path, text: Path | None, plan: Plan, tokens: int | None, peaks: dict[str, int]) -> Texts:
    if text is None:
        words = files("pintpot.proof").joinpath("text.txt").read_text(encoding="utf-8")
    else:
        try:
            words = text.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{text} cannot be read as text: {error}") from error
    # Of twice the window, the second half has something to forget.
    wanted = [max(TEXT_TOKENS, 2 * plan.form.cache.window), TEXT_TOKENS]
    with Worker("texts", pack) as worker:
        for most in wanted:
            length = min(most, plan.budget.workload.context)
            number = MAX_TEXTS if tokens is None else max(1, -(-tokens // length))
            found = worker.ask("cut", words=words, length=length, most=number)
            if found["texts"]:
                break
    need(found["texts"], f"the text has {found['num_tokens']} tokens; at least {length} are needed", UsageError)
    peaks["reading the text"] = found["peak_bytes"]
    return cast(Texts, found["texts"])


def _measure(
    pack: Path,
    manifest: Manifest,
    answers: Answers,
    asked: Asked,
    peaks: dict[str, int],
    tell: Progress,
) -> Measured:
    plan, disk = manifest.plan, _disk(manifest)
    prompt = [token for piece in answers.texts for token in piece]
    found: list[dict[str, Any]] = []
    limits: list[dict[str, Any]] = []
    with Worker("measured", pack, str(plan.threads)) as worker:
        opened = worker.ask("opened")
        with Worker("limit", pack, str(plan.form.ram_bytes), str(plan.threads)) as limit:
            worker.ask("speak", tokens=prompt)
            worker.ask("run", tokens=prompt)
            for index in range(asked.runs):
                tell(0.05 + 0.3 * index / asked.runs, f"run {index + 1} of {asked.runs}")
                limits.append(limit.ask("measure", **disk))
                found.append(worker.ask("run", tokens=prompt))
        peaks["measured run"], peaks["timing the hardware"] = found[-1]["peak_bytes"], limits[-1]["peak_bytes"]
        ops = worker.ask("profile", tokens=prompt) if asked.profile else None
    with Worker("measured", pack, str(plan.threads), "every row") as worker:
        tell(0.35, "answers of the pack")
        worker.ask("hidden", **answers.prompts)
        if any(part.name == VISION for part in plan.parts):
            worker.ask("see", path=answers.seen)
        answers.num_words = _num_words(answers, median([run["step_s"] for run in found]))
        peaks["answering the text"] = worker.ask("hidden", **answers.words)["peak_bytes"]
    return Measured(opened, tuple(found), tuple(limits), peaks, ops)


def _disk(manifest: Manifest) -> dict[str, int]:
    """What the limit reads of a pack's file: what every pass reads, as it reads it."""
    passing, ring = manifest.slots[: manifest.num_passing], manifest.plan.form.ring
    return {
        "disk_offset": passing[0][0] if passing else 0,
        "disk_bytes": sum(slot.num_bytes for _, _, slot in passing),
        "slot_bytes": ring.slot_bytes if ring else 4 << 20,
        "in_flight": ring.in_flight if ring else 4,
    }


def _num_words(answers: Answers, step_s: float) -> int:
    texts = answers.texts
    in_time = int(answers.seconds / (len(texts) * step_s))
    return max(1, min(len(texts[0]) // 2, max(FEWEST_WORDS, in_time)))


def _quality(
    pack: Path, answers: Answers, steps: bool, peaks: dict[str, int], notes: list[str], tell: Progress
) -> Quality:
    """The agreement with the unpacked model; nothing, with a note that says why, when its files are gone."""
    key = hashlib.sha256(repr(answers.texts).encode()).hexdigest()[:16]
    try:
        with Worker("quality", pack) as worker:
            parts = _parts(tell, worker.ask("networks")["number"] if steps else 0)
            worker.follow("reference", next(parts), texts=answers.texts, key=key)
            words = worker.follow("compare", next(parts), **answers.words)
            prompts = worker.follow("compare", next(parts), **answers.prompts)
            seen = worker.ask("see", path=answers.seen) if Path(answers.seen).is_file() else None
            asked = {"texts": answers.texts, "num_words": answers.num_words}
            alone = worker.follow("weights", next(parts), **asked)
            each = worker.follow("steps", next(parts), **asked) if steps else {"steps": []}
    except BadInput as error:
        notes.append(f"quality was not measured: {error}")
        return Quality()
    peaks["judging quality"] = (each if steps else alone)["peak_bytes"]
    return Quality(
        answers=_agreement(words["agreement"]),
        prompts=_agreement(prompts["agreement"]),
        answers_of_weights=_agreement(alone["answers"]),
        prompts_of_weights=_agreement(alone["prompts"]),
        steps=tuple(map(_step, each["steps"])),
        agreements=() if seen is None else (Agreed(SEEN, seen["cosine"], seen["rows"]),),
    )


def _parts(tell: Progress, num_networks: int) -> Iterator[Callable[[float], None]]:
    """Progress for each part of judging quality, by how many networks it walks through."""
    parts = {
        "answers of the unpacked model": 1.0, "comparing answers": 0.2, "comparing prompts": 0.2,
        "the weights alone": 1.0, "step by step": float(num_networks),
    }  # fmt: skip
    first, total = _QUALITY_FROM, sum(parts.values())
    for what, walked in parts.items():
        last = first + (1 - _QUALITY_FROM) * walked / total
        yield _within(tell, first, last, f"quality: {what}")
        first = last


def _agreement(fields: dict[str, Any]) -> Agreement:
    return Agreement(**{**fields, "kl": Interval(**fields["kl"])})


def _step(fields: dict[str, Any]) -> StepQuality:
    alone = None if fields["alone"] is None else _agreement(fields["alone"])
    return StepQuality(tuple(fields["steps"]), alone, _agreement(fields["after"]), Interval(**fields["added"]))


def _within(tell: Progress, first: float, last: float, what: str) -> Callable[[float], None]:
    """Tells shares of a part of the whole, from now on."""
    tell(first, what)
    return lambda share: tell(first + share * (last - first), what)


def _environment(plan: Plan) -> dict[str, str]:
    return {
        "pintpot": __version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "threads": str(plan.threads),
        "cores": str(len(os.sched_getaffinity(0))),
    }

"""The receipt as a page: verdicts first, then promises beside measurements, memory by holder, quality, and the plan."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from pathlib import Path

from pintpot.meter.agreement import Agreement, Interval
from pintpot.planner.plan import Plan
from pintpot.proof.html import Figure, KeyFigures, Plot, Section, Table, Text, Verdict, Words, write_report
from pintpot.proof.proof import Proof, Row
from pintpot.proof.svg import Promise, Stack, memory_stacks, promise_bars
from pintpot.units import format_bytes, format_rate, format_seconds

PLOTTED = ("memory", "prefill", "decode", "forward", "first token", "degradation", "prompt degradation")
MAX_PROFILE_ROWS = 40


def write_proof_report(proof: Proof, plan: Plan, path: Path) -> Path:
    """Write the report of one proof and return where it is."""
    verdict = "every promise held" if proof.holds else f"{len(proof.shortfalls)} of its promises not held"
    verdict += f", {len(proof.undecided)} not decided" if proof.undecided else ""
    title = f"{proof.model_name} in {format_bytes(plan.budget.memory_bytes)}"
    return write_report(path, title, _sections(proof, plan), f"{proof.machine_name}; {verdict}")


def amount(row: Row, value: float | None) -> str:
    """A value of a row, in its unit."""
    if value is None:
        return "not measured"
    if row.unit == "bytes":
        return format_bytes(value)
    if row.unit == "seconds":
        return format_seconds(value)
    if row.unit.endswith("/s"):
        return format_rate(value, "tok/s" if row.unit == "tokens/s" else row.unit)
    return f"{value:.4f} nats" if row.unit == "nats" else f"{value:.3g} {row.unit}"


def _sections(proof: Proof, plan: Plan) -> list[Section]:
    sections: list[Section] = [KeyFigures(tuple(_figure(row) for row in proof.rows if row.what in PLOTTED))]
    sections.append(Plot("Promised and measured", promise_bars([_promise(row) for row in _plotted(proof)])))
    sections.append(_rows_table(proof))
    sections += _memory(proof, plan)
    sections += _quality(proof)
    sections.append(
        Text("The plan", (*(f"{step}   {step.paper}" for step in plan.steps), f"binds: {proof.binds}"), True)
    )
    sections += _profile(proof)
    if proof.notes:
        sections.append(Text("Notes", proof.notes))
    environment = [f"{key} {value}" for key, value in proof.environment.items()]
    sections.append(Text("Where this was measured", (", ".join(environment), f"pack {proof.pack_digest}")))
    return sections


def _plotted(proof: Proof) -> list[Row]:
    return [row for row in proof.rows if row.what in PLOTTED]


def _figure(row: Row) -> Figure:
    value: Words = amount(row, row.measured)
    if row.holds is not None:
        value = Verdict(amount(row, row.measured), row.holds)
    share = row.share_of_limit
    promised = f"{between(row, row.promised_low, row.promised_high)} promised"
    note = promised if share is None else f"{share:.0%} of the limit"
    return Figure(row.what, value, note)


def _promise(row: Row) -> Promise:
    return Promise(
        row.what,
        lambda value: amount(row, value),
        row.promised_low,
        row.promised_high,
        row.measured,
        row.limit,
        row.holds,
    )


def between(row: Row, low: float, high: float | None) -> str:
    """What lies between two values of a row; without an end, how much at least."""
    return f"{amount(row, low)} or more" if high == inf else f"{amount(row, low)} to {amount(row, high)}"


def _rows_table(proof: Proof) -> Table:
    rows = []
    for row in proof.rows:
        share = row.share_of_limit
        spread = "" if row.low is None else between(row, row.low, row.high)
        verdict = Verdict(row.verdict, row.holds)
        rows.append(
            (
                row.what,
                between(row, row.promised_low, row.promised_high),
                amount(row, row.measured),
                spread,
                "" if share is None else f"{share:.0%}",
                verdict,
            )
        )
    columns = ("", "promised", "measured", "spread", "of the limit", "verdict")
    return Table(
        "Promises", columns, tuple(rows), note=" ".join((f"Medians of {proof.num_runs} runs.", *_undecided(proof)))
    )


def _undecided(proof: Proof) -> Iterator[str]:
    """What nobody can tell from so few words, and how many tokens would decide it."""
    for row in proof.undecided:
        needed = proof.tokens_needed(row)
        enough = f"about {needed} tokens of text would decide" if needed else "no number of tokens is known to decide"
        yield f"{row.what}: not decided by {proof.text_tokens} tokens of text; {enough}."


def _memory(proof: Proof, plan: Plan) -> list[Section]:
    promised = Stack(
        "promised", tuple((h.name, float(h.promised_high)) for h in proof.holders), float(plan.budget.memory_bytes)
    )
    held = tuple((h.name, float(max(0, h.measured))) for h in proof.holders if h.measured is not None)
    measured = Stack("measured", held, float(plan.budget.memory_bytes))
    names = tuple(holder.name for holder in proof.holders)
    rows = tuple(
        (
            h.name,
            f"{format_bytes(h.promised_low)} to {format_bytes(h.promised_high)}",
            "not measured alone" if h.measured is None else format_bytes(h.measured),
        )
        for h in proof.holders
    )
    peaks = tuple(
        (
            p.process,
            format_bytes(p.peak_bytes),
            format_bytes(p.budget_bytes),
            Verdict("within" if p.holds else "over", p.holds),
        )
        for p in proof.peaks
    )
    return [
        Plot("Memory by what holds it", memory_stacks((promised, measured), format_bytes, names)),
        Table("Memory", ("", "promised", "measured alone"), rows),
        Table("Every process against the budget", ("", "peak", "budget", ""), peaks),
    ]


def _quality(proof: Proof) -> list[Section]:
    kinds = (
        ("answers", proof.answers),
        ("prompts", proof.prompts),
        ("answers, weights alone", proof.answers_of_weights),
        ("prompts, weights alone", proof.prompts_of_weights),
    )
    if proof.likeness:
        return [_alike(proof), *_agreements(proof)]
    known = [(name, dict(_agreed(found))) for name, found in kinds if found is not None]
    if not known:
        return []
    names, columns = ("", *(name for name, _ in known)), [cells for _, cells in known]
    rows: tuple[tuple[Words, ...], ...] = tuple((what, *(cells[what] for cells in columns)) for what in columns[0])
    note = (
        "Against the unpacked model in float32. Answers: the last words of each text, decoded one by one after the "
        "rest of it as a prompt. Prompts: all words of the texts, as prefill reads them. Weights alone: the same words "
        "where the pack's weights meet float32 arithmetic and a float32 cache."
    )
    return [Table("Quality", names, rows, note=note), *_steps(proof), *_agreements(proof)]


def _alike(proof: Proof) -> Table:
    """Each output beside the unpacked module's."""
    columns = ("", "inputs", "1 minus the cosine (95% interval)", "PSNR", "same largest value")
    rows = tuple(
        (one.output, str(one.num_inputs), _small(one.lacking), f"{one.psnr_db:.1f} dB", f"{one.top1:.2%}")
        for one in proof.likeness
    )
    return Table("Quality", columns, rows, note="Against the unpacked module in float32, on the same inputs.")


def _agreements(proof: Proof) -> list[Section]:
    """In the measures of the model's kind."""
    rows = tuple((one.what, one.told, str(one.count)) for one in proof.agreements)
    return [Table("Agreement with the unpacked model", ("", "", "of so many"), rows)] if rows else []


def _small(found: Interval) -> str:
    return _interval(found, ".2e")


def _steps(proof: Proof) -> list[Section]:
    """What each step did to the words of answers."""
    if not proof.steps:
        return []
    rows = tuple(
        (
            ", ".join(step.steps),
            "" if step.alone is None else _interval(step.alone.kl),
            _interval(step.added),
            _interval(step.after.kl),
            f"{step.after.kl_p99:.4f}",
            f"{step.after.top1:.2%}",
            f"{step.after.perplexity_test:.3f}",
        )
        for step in proof.steps
    )
    columns = ("", "alone", "added", "with those before it", "99th percentile", "same likeliest word", "perplexity")
    note = (
        "Mean KL divergence in nats a token (95% interval) on the words of answers, by the reference in float32. "
        "Alone: the unpacked model with this step only; added: the difference to the row before, word by word."
    )
    return [Table("Quality, step by step", columns, rows, note=note)]


def _interval(found: Interval, form: str = ".4f") -> str:
    if found.high == inf:
        return f"{found.mean:{form}} (too little text for an interval)"
    return f"{found.mean:{form}} ({found.low:{form}} to {found.high:{form}})"


def _agreed(found: Agreement) -> Iterator[tuple[str, str]]:
    yield "words, in texts", f"{found.num_tokens} in {found.num_sequences}"
    yield "KL divergence in nats, mean (95% interval)", _interval(found.kl)
    yield "KL divergence, 99th percentile", f"{found.kl_p99:.4f} nats"
    yield "KL divergence, largest", f"{found.kl_max:.4f} nats"
    yield "same likeliest word", f"{found.top1:.2%}"
    yield "perplexity, unpacked and packed", f"{found.perplexity_reference:.3f} and {found.perplexity_test:.3f}"


def _profile(proof: Proof) -> list[Section]:
    if not proof.profile:
        return []
    longest = sorted(proof.profile, key=lambda row: -row[1])[:MAX_PROFILE_ROWS]
    bars = [Promise(name, format_seconds, 0.0, floor, seconds) for name, seconds, floor in longest]
    return [Plot("Where a decode step's time goes, beside each op's floor", promise_bars(bars))]

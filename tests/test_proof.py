"""Proofs: every process inside the budget with its own line, verdicts by the median, and what is said when it fails."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from packing import BLOCKS, MACHINE, STREAMED, pack_apart_of, pack_of, plan_of
from reference_model import ReferenceModel
from tiny import Tiny, write_gguf, write_hf

from pintpot.contract.step import Facet, Step
from pintpot.errors import BadInput, BadPack, DoesNotFit, PintpotError, UsageError
from pintpot.formats.convert import encode
from pintpot.formats.tiles import unpack
from pintpot.machine.here import this_machine
from pintpot.meter.agreement import Agreement, Comparison, Interval
from pintpot.model.read import describe
from pintpot.packer.manifest import read_manifest, with_digest
from pintpot.packer.pack import write_pack
from pintpot.packer.raw import MANIFEST
from pintpot.planner.make import make_plan
from pintpot.planner.memory import Recalled, recall
from pintpot.planner.names import LOADER
from pintpot.planner.plan import Degradation, Plan
from pintpot.planner.sensitivity import table_key
from pintpot.proof.judge import Measured, Quality, judge
from pintpot.proof.measured import Answerer
from pintpot.proof.proof import Proof
from pintpot.proof.prove import _texts, prove
from pintpot.proof.quality import Answerer as Judging
from pintpot.proof.reference import hidden_states, texts_per_pass
from pintpot.proof.source import source_model
from pintpot.proof.steps import strides
from pintpot.proof.worker import Worker, ask
from pintpot.runtime.engine import Engine
from pintpot.runtime.request import Request
from pintpot.runtime.scheduler import Drawn
from pintpot.techniques.batch.prefill_chunk import PrefillChunk
from pintpot.techniques.cache.eight_bit import EightBitCache
from pintpot.techniques.cache.sink_window import SinkWindow
from pintpot.techniques.quantize.int8_activations import Int8Activations
from pintpot.techniques.quantize.round_to_nearest import RoundToNearest

TINY = Tiny(hidden=128, intermediate=256, layers=3, heads=4, kv_heads=2, vocab=768, seed=61)
PROCESSES = {
    "planning", "packing", "reading the text", "measured run", "timing the hardware", "answering the text",
    "judging quality",
}  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("proof") / "model.gguf", TINY, "q8_0")


@pytest.fixture(scope="module")
def pack(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("proof") / "pack"
    return pack_apart_of(source, folder, (*BLOCKS, STREAMED), memory_bytes=400_000_000)


@pytest.fixture(scope="module")
def proof(pack: Path) -> Proof:
    return prove(pack, runs=2, profile=True)


def test_every_promise_has_its_row(proof: Proof) -> None:
    rows = {row.what: row for row in proof.rows}
    assert set(rows) == {
        "memory", "prefill", "decode", "first token", "opening", "degradation", "limit of degradation",
        "prompt degradation", "disk reads per token",
    }  # fmt: skip
    for row in proof.rows:
        assert row.measured is not None
        assert row.low is not None
        assert row.high is not None
        assert row.promised_low <= row.promised_high
        assert row.low <= row.measured <= row.high
    assert rows["memory"].holds
    assert rows["degradation"].holds
    assert rows["disk reads per token"].holds
    assert rows["decode"].share_of_limit > 0
    assert rows["memory"].measured == next(peak.peak_bytes for peak in proof.peaks if peak.process == "measured run")


def test_an_answer_of_one_word_still_has_a_step(source: Path, tmp_path: Path) -> None:
    found = Answerer(pack_of(source, tmp_path / "pack", output=1), "1").run(list(range(32)))
    assert found["step_s"] > 0
    assert found["step_tokens"] == 1


def test_every_process_has_its_line_inside_the_budget(proof: Proof) -> None:
    assert {peak.process for peak in proof.peaks} == PROCESSES
    for peak in proof.peaks:
        assert peak.budget_bytes == 400_000_000
        assert peak.holds
        assert peak.peak_bytes > 15_000_000


def test_every_holder_is_promised_and_measured(proof: Proof) -> None:
    assert len(proof.holders) >= 8
    for holder in proof.holders:
        assert holder.measured is not None, holder.name
        assert 0 <= holder.promised_low <= holder.promised_high


def test_quality_is_measured_against_the_unpacked_model(proof: Proof) -> None:
    for agreement in (proof.answers, proof.prompts):
        assert agreement is not None
        assert 0 < agreement.kl.mean < 0.05
        assert agreement.top1 > 0.8
        assert agreement.num_sequences == 6
        assert str(agreement.num_tokens) in proof.report_path.read_text()
    # Texts of 128 tokens: of each the second half is an answer. The last word of a text has none after it.
    assert (proof.answers.num_tokens, proof.prompts.num_tokens) == (6 * 63, 6 * 127)


def test_what_was_measured_flows_back(proof: Proof, pack: Path) -> None:
    manifest, _ = read_manifest(pack)
    found = recall(table_key(source_model(manifest)), this_machine().fingerprint)
    assert proof.answers is not None
    assert proof.prompts is not None
    known, *_ = found.degradation.values()
    assert known.low <= proof.answers.kl.mean <= known.high
    assert (known.mean, known.num_tokens) == (proof.answers.kl.mean, proof.answers.num_tokens)
    assert known.prefill_low <= proof.prompts.kl.mean <= known.prefill_high
    assert "interpreter and libraries" in found.holders
    assert len([rate for rate in this_machine().rates if rate.what == "read"]) >= 1


def test_a_plan_after_a_proof_promises_what_a_run_takes(proof: Proof, pack: Path) -> None:
    """The holders as they were measured, those that are computed as they are: no less than the program's own peak."""
    manifest, _ = read_manifest(pack)
    plan, source = manifest.plan, source_model(manifest)
    known = recall(table_key(source), this_machine().fingerprint)
    again = make_plan(source, this_machine(), plan.budget, measured_bytes=known.holders)
    spans = {holder.name: holder.high for holder in again.cost.holders}
    promised = sum(spans[h.name] if h.name in known.holders else h.high for h in plan.cost.holders)
    words = " ".join(f"word{index}" for index in range(20))
    for asked in ("hi", words):
        command = [sys.executable, "-m", "pintpot", "run", str(pack), "-p", asked, "--max-tokens", "60", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        taken = json.loads(done.stdout)["summary"]["memory_bytes"]
        assert known.holders[LOADER][0] > 0
        assert taken <= promised, asked


def test_the_process_that_is_measured_is_that_of_a_run(pack: Path) -> None:
    """What the command has imported and an answer in words takes is in what `opened` and `run` tell."""
    script = (
        "import sys; from pathlib import Path; from pintpot.proof.measured import Answerer; "
        "answerer = Answerer(Path(sys.argv[1]), '1'); answerer.speak(list(range(3, 60))); "
        "print('pintpot.cli.run' in sys.modules, answerer.run([5, 6, 7])['grown_bytes'] > 0)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(pack)], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["True", "True"], done.stderr


def test_states_are_written_without_numpy(pack: Path, tmp_path: Path) -> None:
    """It would be sixteen megabytes more than was promised of a run, and these processes keep to the same budget."""
    script = (
        "import sys; from pathlib import Path; from pintpot.proof.measured import Answerer; "
        "answerer = Answerer(Path(sys.argv[1]), '1', 'every row'); "
        "answerer.hidden([[5, 6, 7, 8], [9, 10, 11, 12]], sys.argv[2], 3); print('numpy' in sys.modules)"
    )
    command = [sys.executable, "-c", script, str(pack), str(tmp_path / "states.npy")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout == "False\n", done.stderr
    states = np.load(tmp_path / "states.npy", allow_pickle=False)
    assert (states.shape, states.dtype) == ((6, TINY.hidden), np.float32)
    assert np.isfinite(states).all()
    assert states.any(axis=1).all()


def test_what_was_measured_of_one_training_is_not_told_of_another(proof: Proof, source: Path, tmp_path: Path) -> None:
    other = write_gguf(tmp_path / "model.gguf", replace(TINY, seed=TINY.seed + 1), "q8_0")
    one, two = describe(str(source)), describe(str(other))
    assert one.digest == two.digest, "the headers say the same"
    known, unknown = (recall(table_key(model), this_machine().fingerprint) for model in (one, two))
    assert proof.answers is not None
    assert known.degradation
    assert not unknown.degradation


def test_a_proof_is_json_and_a_page(proof: Proof) -> None:
    data = json.loads(json.dumps(proof.to_json()))
    assert data["pintpot_proof"] == 2
    assert data["holds"] is proof.holds
    assert {row["what"] for row in data["rows"]} == {row.what for row in proof.rows}
    assert proof.report_path is not None
    page = proof.report_path.read_text()
    assert page.startswith("<!doctype html>")
    assert all(process in page for process in PROCESSES)
    assert "<script" not in page


def test_a_profile_names_every_op(proof: Proof) -> None:
    assert len(proof.profile) > 3 * 5
    assert {name.split()[0] for name, _, _ in proof.profile} >= {"embed", "linear", "attend", "sample", "fetch"}
    assert all(seconds >= 0 and floor >= 0 for _, seconds, floor in proof.profile)


def test_without_its_source_speed_and_memory_are_proved(source: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(source, tmp_path / "model.gguf"))
    folder = pack_of(copy, tmp_path / "pack", BLOCKS)
    copy.unlink()
    proof = prove(folder, runs=1)
    assert proof.answers is proof.prompts is None
    for what in ("degradation", "limit of degradation", "prompt degradation"):
        assert proof.row(what).measured is None
        assert proof.row(what).holds is None
    assert proof.row("decode").measured
    assert proof.row("memory").holds
    assert any("quality was not measured" in note for note in proof.notes)
    assert any("planning was not measured" in note for note in proof.notes)
    few = prove(folder, runs=1, tokens=64)
    assert "quality was judged by 128 tokens, for texts of 128 are read whole" in few.notes
    assert {peak.process for peak in proof.peaks} == PROCESSES - {"planning", "judging quality"}


def test_what_a_window_forgets_is_measured_on_longer_texts_or_not_at_all(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "model.gguf", replace(TINY, context=1024), "q8_0")
    steps = (*BLOCKS, SinkWindow(window=512, sinks=4))
    pack = pack_apart_of(source, tmp_path / "pack", steps, memory_bytes=400_000_000, context=1024)
    words = tmp_path / "words.txt"
    words.write_text("word " * 130)
    short = prove(pack, text=words, runs=1)
    assert any("nothing is forgotten" in note for note in short.notes)
    assert short.answers is short.prompts is None
    long = prove(pack, runs=1)
    assert long.prompts is not None
    assert long.answers is not None
    assert long.prompts.num_tokens / long.prompts.num_sequences > 1000
    assert long.answers.num_tokens / long.answers.num_sequences > 500


@pytest.mark.parametrize("change", [{"layers": 2}, {"seed": TINY.seed + 1}])
def test_another_model_in_its_place_is_no_reference(change: dict[str, int], source: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(source, tmp_path / "model.gguf"))
    folder = pack_of(copy, tmp_path / "pack", BLOCKS)
    write_gguf(copy, replace(TINY, **change), "q8_0")
    with Worker("quality", folder) as worker, pytest.raises(BadInput, match="no longer the model"):
        worker.ask("reference", texts=[[1, 2, 3]], key="x")


def test_a_pack_that_does_not_know_its_training_is_proved_as_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As packs of earlier versions are."""
    copy = write_gguf(tmp_path / "model.gguf", replace(TINY, seed=TINY.seed + 2), "q8_0")
    folder = pack_of(copy, tmp_path / "pack", BLOCKS)
    data = json.loads((folder / MANIFEST).read_text())
    del data["digest"], data["sample_digest"]
    (folder / MANIFEST).write_text(with_digest(data))
    proof = prove(folder, runs=1)
    assert proof.answers is not None
    assert proof.answers.kl.mean < 0.05
    assert "packed by an earlier version" in caplog.text
    assert recall(table_key(describe(str(copy))), this_machine().fingerprint) == Recalled()


# --- The weights alone, and step by step ---------------------------------------------------------------------------


FLOAT = Tiny(hidden=128, intermediate=256, layers=2, heads=4, kv_heads=2, vocab=768, seed=63)


@pytest.fixture(scope="module")
def stepwise(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Proof]:
    """A proof, step by step, of a float model whose every step changes values, part of it streamed."""
    folder = tmp_path_factory.mktemp("steps")
    steps = (
        RoundToNearest("blocks", 4), RoundToNearest("vocabulary", 5), EightBitCache(), Int8Activations(),
        PrefillChunk(tokens=16), replace(STREAMED, resident_bytes=100_000),
    )  # fmt: skip
    pack = pack_apart_of(write_hf(folder / "model", FLOAT), folder / "pack", steps, memory_bytes=400_000_000)
    return pack, prove(pack, runs=1, steps=True, tokens=1000)


def test_the_weights_alone_are_what_dequantized_weights_give(stepwise: tuple[Path, Proof]) -> None:
    """Against the plain reference over matrices that were rounded and unpacked whole."""
    pack, proof = stepwise
    manifest, _ = read_manifest(pack)
    source = ReferenceModel(describe(manifest.source.path))
    rounded = ReferenceModel(describe(manifest.source.path))
    for form in manifest.plan.form.weights:
        if form.is_matrix:
            values = np.asarray(source.memory[form.name], np.float32)
            rounded.memory[form.name] = unpack(encode(values, form.format), form.format, *form.shape).astype(np.float64)
    comparison = Comparison()
    for text in _texts(pack, None, manifest.plan, 1000, {}):
        logits = [model.logits(text)[:-1] for model in (source, rounded)]
        comparison.add(*logits, np.array(text[1:]))
    wanted, found = comparison.result(), proof.prompts_of_weights
    assert found is not None
    assert found.num_tokens == wanted.num_tokens
    assert found.kl.mean == pytest.approx(wanted.kl.mean, rel=1e-3)
    assert found.kl_max == pytest.approx(wanted.kl_max, rel=1e-2)
    assert found.perplexity_test == pytest.approx(wanted.perplexity_test, rel=1e-4)


def test_steps_add_up_to_what_the_pack_really_computes(stepwise: tuple[Path, Proof]) -> None:
    _, proof = stepwise
    assert proof.answers is not None
    assert proof.answers_of_weights is not None
    names = [step.steps[0].split("(")[0] for step in proof.steps]
    assert names == ["RoundToNearest", "RoundToNearest", "EightBitCache", "Int8Activations"]
    assert sum(step.added.mean for step in proof.steps) == pytest.approx(proof.steps[-1].after.kl.mean)
    assert proof.steps[1].after.kl.mean == pytest.approx(proof.answers_of_weights.kl.mean, rel=1e-6)
    # The fast path: native kernels, activations in int8, an 8-bit cache. The reference imitates all of it.
    assert proof.steps[-1].after.kl.mean == pytest.approx(proof.answers.kl.mean, rel=2e-3)
    assert {step.after.num_tokens for step in proof.steps} == {proof.answers.num_tokens}


def test_each_step_is_also_measured_alone(stepwise: tuple[Path, Proof]) -> None:
    _, proof = stepwise
    blocks, vocabulary, cache, activations = (step.alone for step in proof.steps)
    assert blocks == proof.steps[0].after
    assert None not in (vocabulary, cache, activations)
    assert blocks.kl.mean > vocabulary.kl.mean > activations.kl.mean > 1e-5
    assert 1e-6 < cache.kl.mean < vocabulary.kl.mean
    page, data = proof.report_path.read_text(), json.loads(json.dumps(proof.to_json()))
    assert "Quality, step by step" in page
    assert "answers, weights alone" in page
    assert [step["steps"] for step in data["steps"]] == [list(step.steps) for step in proof.steps]
    assert data["answers_of_weights"]["kl"]["mean"] == proof.answers_of_weights.kl.mean


def test_more_tokens_are_read_where_they_are_asked_for(stepwise: tuple[Path, Proof]) -> None:
    _, proof = stepwise
    assert proof.text_tokens == 8 * 128
    assert proof.prompts.num_tokens == 8 * 127


@dataclass(frozen=True)
class Fitted(Step):
    """A step that needs statistics, as those that compensate for errors do."""

    paper: ClassVar[str] = "none"
    facet: ClassVar[Facet] = Facet.ROUNDING
    needs: ClassVar[frozenset[str]] = frozenset({"moments"})


def test_weights_alone_are_judged_once(stepwise: tuple[Path, Proof]) -> None:
    pack, _ = stepwise
    assert Judging(pack).networks() == {"number": 6}, "two of weights, and each of cache and activations twice"


def test_steps_that_need_statistics_are_told_by_the_pack(stepwise: tuple[Path, Proof]) -> None:
    plan = read_manifest(stepwise[0])[0].plan
    plan = replace(plan, steps=(*plan.steps[:2], Fitted("blocks"), *plan.steps[2:]))
    found = strides(plan)
    assert [stride.steps[0].name for stride in found] == [
        "RoundToNearest", "RoundToNearest", "Fitted", "EightBitCache", "Int8Activations",
    ]  # fmt: skip
    assert [stride.after.packed for stride in found] == [False, False, True, True, True]
    assert found[2].alone is None


def test_a_broken_promise_ends_with_1(pack: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pack, tmp_path / "pack"))
    data = json.loads((folder / MANIFEST).read_text())
    del data["digest"]
    for holder in data["plan"]["cost"]["holders"]:
        holder["low"], holder["high"] = holder["low"] // 4, holder["high"] // 4
    data["plan"]["machine_fingerprint"] = this_machine().fingerprint
    (folder / MANIFEST).write_text(with_digest(data))
    command = [sys.executable, "-m", "pintpot", "prove", str(folder), "--runs", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert found["holds"] is False
    assert any(short.startswith("memory") for short in found["shortfalls"])
    assert "memory" in done.stderr


def test_what_cannot_be_proved_is_said(pack: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="0 runs"):
        prove(pack, runs=0)
    with pytest.raises(BadPack, match="no pack"):
        prove(tmp_path)
    (tmp_path / "short.txt").write_text("Too short.")
    with pytest.raises(UsageError, match="at least"):
        prove(pack, text=tmp_path / "short.txt", runs=1)
    with pytest.raises(BadInput, match="cannot be read as text"):
        prove(pack, text=tmp_path / "nowhere.txt", runs=1)


# --- Processes ----------------------------------------------------------------------------------------------------


def test_a_worker_whose_asker_is_gone_ends_in_silence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pintpot.proof.worker", "quality", str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.write('{"what": "reference", "texts": [[1]], "key": "x"}\n')
        process.stdin.close()
        assert process.stderr.read() == ""
        assert process.wait() == 0


def test_a_workers_error_comes_here_as_what_it_is(tmp_path: Path) -> None:
    with Worker("quality", tmp_path) as worker, pytest.raises(BadPack, match="no pack"):
        worker.ask("reference", texts=[[1]], key="x")


@pytest.mark.parametrize(
    ("script", "error", "said"),
    [
        ("read line; kill -9 $$", DoesNotFit, "most likely for its memory"),
        ("read line; exit 137", DoesNotFit, "killed"),
        ("read line; exit 3", PintpotError, "ended with code 3"),
        ('read line; echo \'{"kind": "BadPack", "error": "cut"}\'', BadPack, "cut"),
    ],
)
def test_how_a_process_ended_is_told(script: str, error: type[PintpotError], said: str) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen(["sh", "-c", script], stdin=pipe, stdout=pipe, text=True) as process:
        with pytest.raises(error, match=said) as found:
            ask(process, "told", {"what": "anything"})
        assert type(found.value) is error


def test_the_reference_keeps_to_a_small_budget(source: Path, tmp_path: Path) -> None:
    """Six texts of 256 tokens inside what an interpreter, numpy and the kernels leave of 80 MB."""
    folder = pack_of(
        source, tmp_path / "pack", BLOCKS, memory_bytes=80_000_000, machine=replace(MACHINE, process_bytes=40_000_000)
    )
    rng = np.random.default_rng(0)
    texts = rng.integers(3, 300, (6, 128)).tolist()
    with Worker("quality", folder) as worker:
        peak = worker.ask("reference", texts=texts, key="small")["peak_bytes"]
    assert peak < 80_000_000


# --- The reference ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [1, 4])
def test_the_streamed_reference_is_the_whole_one(together: int, tmp_path: Path) -> None:
    model = describe(str(write_hf(tmp_path / "model", Tiny(family="qwen3", heads=4, kv_heads=2, seed=62))))
    rng = np.random.default_rng(1)
    texts = rng.integers(3, 300, (4, 40)).tolist()
    states = [s for first in range(0, 4, together) for s in hidden_states(model, texts[first : first + together])]
    whole = ReferenceModel(model)
    for text, state in zip(texts, states, strict=True):
        logits = state.astype(np.float64) @ whole.memory["head"].T
        np.testing.assert_allclose(logits, whole.logits(text), atol=1e-4)


def test_more_budget_more_texts_in_a_pass(source: Path) -> None:
    model = describe(str(source))
    counts = [texts_per_pass(model, 256, budget) for budget in (1, 80_000_000, 200_000_000, 2_000_000_000)]
    assert counts[0] == 1
    assert counts == sorted(counts)
    assert counts[-1] > 20 * counts[0]


# --- Verdicts -----------------------------------------------------------------------------------------------------


def measured_of(plan: Plan, *, slower: float = 1.0, larger: float = 1.0, direct: bool = True) -> Measured:
    """What would be measured where everything is as promised, but for these factors."""
    cost = plan.cost
    step = slower * cost.per_token_s.mid
    first = slower * cost.first_token_s.mid
    workload = plan.budget.workload
    disk = cost.stage("decode").disk_bytes / min(workload.output, workload.context // 2)
    run = {
        "first_token_s": first, "prompt_tokens": first * cost.stage("prefill").tokens_per_s.mid / slower,
        "step_s": step, "step_tokens": workload.batch, "median_step_s": step,
        "disk_bytes_per_step": disk * larger, "grown_bytes": 0,
    }  # fmt: skip
    outlier = {**run, "step_s": 100 * step, "first_token_s": 100 * first}
    limit = {"ram_bytes_per_s": 1e11, "int8_per_s": 1e12, "disk_bytes_per_s": 1e10}
    opened = {"open_s": 0.1, "held": {}, "notes": [], "direct": direct}
    peaks = {"measured run": int(larger * cost.memory_high)}
    return Measured(opened, (run, run, run, outlier, outlier), (limit,) * 5, peaks)


@pytest.fixture(scope="module")
def plan(source: Path) -> Plan:
    made = plan_of(describe(str(source)), (*BLOCKS, STREAMED))
    return replace(made, degradation=Degradation(0.0, 0.01, False, 0.0, 0.03))


def agreement(mean: float, of_prompts: float = 0.02) -> Quality:
    both = (Agreement(100, 2, Interval(kl, kl, kl), kl, kl, 0.9, 10.0, 10.0) for kl in (mean, of_prompts))
    return Quality(*both)


def verdict(plan: Plan, measured: Measured, quality: Quality) -> Proof:
    return judge(Path("pack"), "digest", plan, measured, quality, 5)


def test_promises_are_kept_by_the_median(plan: Plan) -> None:
    proof = verdict(plan, measured_of(plan, slower=0.999), agreement(0.005))
    assert proof.holds
    assert proof.shortfalls == ()


@pytest.mark.parametrize(
    ("factors", "mean", "broken"),
    [
        ({"slower": 1.5}, 0.005, {"prefill", "decode", "first token"}),
        ({"larger": 1.1}, 0.005, {"memory", "disk reads per token"}),
        ({}, 0.02, {"degradation"}),
    ],
)
def test_each_promise_can_be_broken(plan: Plan, factors: dict[str, float], mean: float, broken: set[str]) -> None:
    proof = verdict(plan, measured_of(plan, **factors), agreement(mean))
    assert not proof.holds
    assert {row.what for row in proof.rows if row.holds is False} == broken
    assert len(proof.shortfalls) >= len(broken)


@pytest.fixture(scope="module")
def batched(source: Path) -> Plan:
    made = plan_of(describe(str(source)), (*BLOCKS, STREAMED), batch=4)
    return replace(made, degradation=Degradation(0.0, 0.01, False, 0.0, 0.03))


def test_sequences_side_by_side_are_judged_by_the_words_that_a_step_made(batched: Plan) -> None:
    """What one sequence reached is not multiplied by four."""
    measured = measured_of(batched)
    four = verdict(batched, measured, agreement(0.005))
    assert four.holds
    alone = tuple({**run, "step_tokens": 1.0} for run in measured.runs)
    one = verdict(batched, replace(measured, runs=alone), agreement(0.005))
    assert {row.what for row in one.rows if row.holds is False} == {"decode"}
    assert one.row("decode").measured == pytest.approx(four.row("decode").measured / 4)


def test_the_limit_of_a_step_is_that_of_all_its_sequences(batched: Plan) -> None:
    measured = measured_of(batched)
    step_s = batched.form.ram_bytes / 1e3
    limit = {"ram_bytes_per_s": 1e3, "int8_per_s": 1e12, "disk_bytes_per_s": 1e10}
    read = verdict(batched, replace(measured, limits=(limit,)), agreement(0.005)).row("decode")
    assert read.limit == pytest.approx(4 / step_s)
    decode = batched.cost.stage("decode")
    limit = {"ram_bytes_per_s": 1e11, "int8_per_s": 1e3, "disk_bytes_per_s": 1e10}
    multiplied = verdict(batched, replace(measured, limits=(limit,)), agreement(0.005)).row("decode")
    assert multiplied.limit == pytest.approx(4e3 * decode.replays / decode.multiply_adds)


def test_the_measured_run_is_of_all_sequences(
    source: Path, batched: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Request, ...]] = []
    generate_many = Engine.generate_many

    def noted(self: Engine, requests: Iterable[Request], end: frozenset[int]) -> Iterator[Drawn]:
        asked.append(tuple(requests))
        return generate_many(self, asked[-1], end)

    monkeypatch.setattr(Engine, "generate_many", noted)
    answerer = Answerer(write_pack(describe(str(source)), batched, tmp_path / "pack"), "1")
    run = answerer.run(list(range(3, 103)))
    assert len({request.tokens for request in asked[0]}) == 4, "no prompt is found in the cache of another"
    assert (run["prompt_tokens"], run["step_tokens"]) == (4 * 32, 4.0)
    promised = batched.cost.stage("decode").disk_bytes_per_replay
    assert run["disk_bytes_per_step"] == pytest.approx(promised, rel=0.02)


@pytest.mark.parametrize(
    ("low", "mean", "high", "holds", "said"),
    [
        (0.004, 0.006, 0.01, True, "held"),
        (0.004, 0.006, 0.011, None, "not decided"),
        (0.008, 0.012, 0.016, None, "not decided"),
        (0.0101, 0.012, 0.016, False, "not held"),
    ],
)
def test_quality_is_decided_by_the_whole_interval(
    plan: Plan, low: float, mean: float, high: float, holds: bool | None, said: str
) -> None:
    """0.01 nats were promised."""
    found = Agreement(1000, 10, Interval(low, mean, high), mean, mean, 0.9, 10.0, 10.0)
    proof = replace(verdict(plan, measured_of(plan), Quality(answers=found)), text_tokens=4000)
    row = proof.row("degradation")
    assert (row.holds, row.verdict) == (holds, said)
    assert proof.holds is (holds is not False)
    assert (row in proof.undecided) is (holds is None)
    assert (row.needed is None) is (holds is not None)
    if row.needed is not None:
        assert row.needed > 1000
        assert proof.tokens_needed(row) == 4 * row.needed


def test_the_limit_that_was_asked_for_is_judged_too(plan: Plan) -> None:
    asked = replace(plan, budget=replace(plan.budget, degradation=0.02))
    found = Agreement(1000, 10, Interval(0.011, 0.012, 0.013), 0.1, 0.1, 0.9, 10.0, 10.0)
    proof = verdict(asked, measured_of(plan), Quality(answers=found))
    assert proof.row("limit of degradation").holds
    assert proof.row("degradation").holds is False, "the plan expected 0.01 at most"


def test_prompts_and_answers_have_promises_of_their_own(plan: Plan) -> None:
    proof = verdict(plan, measured_of(plan), agreement(0.005, of_prompts=0.04))
    assert {row.what for row in proof.rows if row.holds is False} == {"prompt degradation"}


def test_an_opening_that_took_too_long_breaks_the_proof(plan: Plan) -> None:
    measured = measured_of(plan)
    late = replace(measured, opened={**measured.opened, "open_s": 1.01 * plan.cost.open_s.high})
    assert {row.what for row in verdict(plan, late, agreement(0.005)).rows if row.holds is False} == {"opening"}


def test_a_process_tells_how_far_it_is() -> None:
    pipe, told = subprocess.PIPE, list[float]()
    script = "read line; echo share 0.25; echo share 1; echo '{\"done\": 3}'"
    with subprocess.Popen(["sh", "-c", script], stdin=pipe, stdout=pipe, text=True) as process:
        assert ask(process, "told", {"what": "anything"}, told.append) == {"done": 3}
    assert told == [0.25, 1.0]


def test_the_reference_tells_how_far_it_is(pack: Path) -> None:
    told: list[float] = []
    with Worker("quality", pack) as worker:
        worker.follow("reference", told.append, texts=[[3, 4, 5], [6, 7, 8]], key="progress")
    assert len(told) > 5
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_an_answer_cut_by_the_context_is_judged_by_the_steps_that_are_taken(source: Path, tmp_path: Path) -> None:
    """The plan prices, and the run takes, at most half of the context: 64 steps here and not 100."""
    model = describe(str(source))
    plan = replace(
        plan_of(model, (*BLOCKS, STREAMED), output=100), degradation=Degradation(0.0, 0.01, False, 0.0, 0.03)
    )
    assert verdict(plan, measured_of(plan), agreement(0.005)).holds
    folder = write_pack(model, plan, tmp_path / "pack")
    answerer = Answerer(folder, "1")
    run = answerer.run([5, 6, 7])
    assert run["prompt_tokens"] == 32
    assert verdict(plan, measured_of(plan), Quality()).row("disk reads per token").promised_high == pytest.approx(
        run["disk_bytes_per_step"], rel=0.02
    )


def test_a_process_above_the_budget_breaks_the_proof(plan: Plan) -> None:
    measured = measured_of(plan)
    measured.peaks["packing"] = plan.budget.memory_bytes + 1
    proof = verdict(plan, measured, agreement(0.005))
    assert not proof.holds
    assert proof.shortfalls[0].startswith("memory of packing: ")
    assert ", 1 B more than the budget of " in proof.shortfalls[0]


def test_reading_ahead_is_promised_and_nothing_beyond_it(plan: Plan) -> None:
    """What the ring holds may have been read for the next request, or by the last one; 1% is left to counting."""
    stage, ring = plan.cost.stage("decode"), plan.form.ring
    assert ring is not None
    row = verdict(plan, measured_of(plan), Quality()).row("disk reads per token")
    assert row.promised_high - row.promised_low == pytest.approx(2 * ring.num_bytes / stage.replays)
    ahead = ring.num_bytes / stage.disk_bytes
    for larger, holds in ((1 + ahead, True), (1 - ahead, True), (1.02 + ahead, False), (0.98 - ahead, False)):
        found = verdict(plan, measured_of(plan, larger=larger), Quality())
        assert found.row("disk reads per token").holds is holds


def test_disk_reads_are_not_judged_behind_a_page_cache(plan: Plan) -> None:
    proof = verdict(plan, measured_of(plan, larger=0.5, direct=False), agreement(0.005))
    assert proof.row("disk reads per token").holds is None
    assert proof.holds

"""Experts, resident and streamed: the same bits everywhere, and of the disk only what was chosen is read"""

from __future__ import annotations

from pathlib import Path

import pytest
from packing import BLOCKS, BY_DEFAULT, EXACT, INT8, STREAMED, opened, pack_of, plan_of
from tiny import Tiny, write_gguf, write_hf

from pintpot._native import available_isas
from pintpot.contract.form import source_form
from pintpot.model.read import describe
from pintpot.packer.manifest import read_manifest
from pintpot.program.ops.experts import met
from pintpot.runtime.request import Request, Sampling
from pintpot.runtime.session import Session
from pintpot.techniques.place.streamed import Streamed

MIXTRAL = Tiny(family="mixtral", heads=4, kv_heads=2, intermediate=96, experts=5, chosen=2, seed=7)
QWEN = Tiny(family="qwen3_moe", heads=4, kv_heads=2, intermediate=48, experts=16, chosen=3, seed=8)
PROMPT = (5, 9, 200, 17, 3, 88, 41, 7, 120, 65, 90, 19, 33, 14, 250, 77, 6, 8, 11)
LENGTH = 40


def greedy(session: Session) -> list[int]:
    session.engine.reset()
    return list(session.engine.generate(Request(PROMPT, LENGTH, Sampling(temperature=0.0), (), True), frozenset()))


def logits(session: Session) -> list[bytes]:
    """Of every word of an answer, to the bit."""
    session.engine.reset()
    request = Request(PROMPT, 8, Sampling(temperature=0.0), (), True)
    found = []
    for number, _ in enumerate(session.engine.generate(request, frozenset())):
        found.append(session.engine.stage("decode" if number else "prefill").floats("logits")[0].tobytes())
    return found


@pytest.mark.parametrize("tiny", [MIXTRAL, QWEN], ids=lambda tiny: tiny.family)
@pytest.mark.parametrize("steps", [EXACT, INT8, "q4_0"], ids=["float", "int8", "q4_0"])
def test_streamed_experts_give_the_bits_of_resident_ones(tiny: Tiny, steps: object, tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", tiny, "q4_0") if steps == "q4_0" else write_hf(tmp_path / "m", tiny)
    chosen = BY_DEFAULT if steps == "q4_0" else steps
    resident = pack_of(source, tmp_path / "resident", chosen)  # type: ignore[arg-type]
    with opened(resident) as session:
        answer, bits = greedy(session), logits(session)
    assert len(set(answer)) > 4
    whole = read_manifest(resident)[0].plan.form.weights.passing_bytes
    for share in (0.0, 0.3, 0.8):
        some = Streamed(resident_bytes=round(whole * share), slot_bytes=64 << 10, num_slots=4, in_flight=3)
        pack = pack_of(source, tmp_path / f"streamed{share}", (*chosen, some))  # type: ignore[misc]
        for threads in (1, 2):
            with opened(pack, threads=threads) as session:
                assert logits(session) == bits
                assert greedy(session) == answer


@pytest.mark.parametrize("tiny", [MIXTRAL, QWEN], ids=lambda tiny: tiny.family)
def test_the_same_tokens_on_every_instruction_set_with_any_number_of_threads(tiny: Tiny, tmp_path: Path) -> None:
    pack = pack_of(write_gguf(tmp_path / "m.gguf", tiny, "q4_0"), tmp_path / "pack", BLOCKS)
    with opened(pack) as session:
        bits, answer = logits(session), greedy(session)
    for isa in available_isas():
        for threads in (1, 2):
            with opened(pack, isa=isa, threads=threads) as session:
                assert logits(session) == bits
                assert greedy(session) == answer


def test_of_the_disk_only_what_was_chosen_is_read(tmp_path: Path) -> None:
    source = write_hf(tmp_path / "m", QWEN)
    every = plan_of(describe(str(source)), EXACT).form.weights
    dense = every.passing_bytes - every.routed_bytes
    some = Streamed(resident_bytes=dense, slot_bytes=64 << 10, num_slots=4, in_flight=3)
    pack = pack_of(source, tmp_path / "pack", (*EXACT, some))
    plan = read_manifest(pack)[0].plan
    assert {weight.role for weight in plan.form.weights if weight.disk_bytes} == {"embed", "gate", "up", "down"}
    with opened(pack) as session:
        greedy(session)
        ring = session.ring
        ring.reset_stats()
        answer = greedy(session)
        read, stage = ring.stats()["bytes_read"], plan.cost.stages[-1]
    assert len(answer) == LENGTH
    steps, slots = LENGTH - 1, QWEN.layers * QWEN.chosen
    # The prompt of 19 tokens in chunks of 16 may meet everything twice; each word of the answer meets 3 of 16.
    step_bytes = sum(w.disk_bytes // QWEN.experts for w in plan.form.weights if w.disk_bytes and w.role != "embed")
    least = QWEN.chosen * step_bytes * steps
    assert least <= read <= (QWEN.chosen * step_bytes + 2 * slots * 4096) * steps + 2 * every.routed_bytes * 1.1
    assert stage.disk_bytes_per_replay >= QWEN.chosen * step_bytes


def test_what_every_token_meets_stays_first_and_then_as_much_of_each_expert(tmp_path: Path) -> None:
    weights = source_form(describe(str(write_hf(tmp_path / "m", MIXTRAL)))).weights
    dense = weights.passing_bytes - weights.routed_bytes
    half = Streamed(resident_bytes=dense // 2).split(weights)
    assert all(half.disk[name].resident_strips == 0 for name in ("layers.0.gate", "layers.1.down"))
    assert 0.4 * dense < half.ram_bytes - weights.vector_bytes <= dense // 2
    more = Streamed(resident_bytes=dense + weights.routed_bytes // 2).split(weights)
    assert "layers.0.q" not in more.disk
    assert {more.disk[f"layers.0.{role}"].resident_strips for role in ("gate", "up", "down")} <= {2, 3}
    assert Streamed(resident_bytes=weights.passing_bytes).split(weights).ring is None


def test_tokens_meet_between_k_and_all_of_the_experts() -> None:
    assert met(8, 2, 1) == (2.0, pytest.approx(2.0), 2.0)
    least, mid, most = met(128, 8, 5)
    assert (least, most) == (8.0, 40.0)
    assert 35 < mid < 40
    assert met(8, 2, 400) == (2.0, pytest.approx(8.0), 8.0)
    assert met(8, 2, 0) == (0.0, 0.0, 0.0)


def test_the_price_of_a_step_is_that_of_the_chosen(tmp_path: Path) -> None:
    model = describe(str(write_hf(tmp_path / "m", QWEN)))
    whole = plan_of(model, EXACT)
    decode = whole.cost.stages[-1]
    routed = whole.form.weights.routed_bytes
    share = QWEN.chosen / QWEN.experts
    assert decode.ram_bytes / decode.replays < whole.form.weights.num_bytes - (1 - share) * routed + 400_000
    prefill = whole.cost.stages[0]
    assert prefill.seconds.low < prefill.seconds.mid < prefill.seconds.high
    assert STREAMED.check(model, whole.form) is None

"""Prices against hand calculations on the null machine, memory by holder, limits, and what binds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from described import described

from pintpot.budget import Budget, Workload
from pintpot.contract.slots import keep_everything
from pintpot.contract.step import Step
from pintpot.errors import DoesNotFit, NotApplicable, UnsupportedModel, UsageError
from pintpot.formats import encoding
from pintpot.machine.catalog import catalog_names, load_machine
from pintpot.machine.null import null_machine
from pintpot.machine.spec import LOOKUP_BYTES, Machine, Rate
from pintpot.model.spec import Model
from pintpot.model.tokens.memory import REMEMBERED_BYTES
from pintpot.nets._extents import _chunks as chunks_of
from pintpot.planner.assess import Bench, assess, reprice
from pintpot.planner.cost import Span
from pintpot.planner.degradation import shipped_priors
from pintpot.planner.make import make_plan
from pintpot.planner.names import CACHE, RING, TOKENIZER, WEIGHTS
from pintpot.planner.plan import Degradation, Plan
from pintpot.planner.price import ARITHMETIC, DISK, HINDRANCE, OVERHEAD, PRICED_WITHIN, RAM
from pintpot.planner.question import Question
from pintpot.runtime.pages import PagePool, PageTable
from pintpot.runtime.request import Request
from pintpot.runtime.scheduler import Scheduler
from pintpot.runtime.sequence import Sequence
from pintpot.runtime.waiting import InOrder
from pintpot.techniques.batch.prefill_chunk import PrefillChunk
from pintpot.techniques.cache.sink_window import SinkWindow
from pintpot.techniques.place.streamed import Streamed
from pintpot.techniques.quantize.as_stored import AsStored
from pintpot.techniques.quantize.int8_activations import Int8Activations
from pintpot.techniques.quantize.round_to_nearest import RoundToNearest

MB = 1_000_000
ROOMY = 1_000 * MB
STORED: tuple[Step, ...] = (AsStored("blocks"), AsStored("vocabulary"), PrefillChunk(tokens=128))
SLOWER = 1.02
"""So little that nothing else comes to bind."""


def question(model: Model, machine: Machine, memory: int = ROOMY, **budget: Any) -> Question:
    workload = budget.pop("workload", Workload(512, prompt=128, output=32))
    return Question(model, machine, Budget(memory, workload, **budget), shipped_priors())


def slower(machine: Machine, *what: str, by: float = 2.0) -> Machine:
    """The machine with some rates divided; a name that ends in / stands for all that begin so."""

    def is_named(rate: Rate) -> bool:
        return any(rate.what == name or (name.endswith("/") and rate.what.startswith(name)) for name in what)

    def divided(rate: Rate) -> Rate:
        return replace(rate, low=rate.low / by, mid=rate.mid / by, high=rate.high / by)

    return replace(machine, rates=tuple(divided(rate) if is_named(rate) else rate for rate in machine.rates))


def with_slower_arithmetic(machine: Machine) -> Machine:
    """Products from the caches take longer; those from RAM only where they wait for arithmetic."""
    slow = slower(machine, "matmul/", "attend_many/", by=SLOWER)
    cached = {rate.what: rate.mid / SLOWER for rate in machine.rates if rate.size == 1 << 20 and rate.threads == 2}

    def least(rate: Rate) -> Rate:
        value = min(rate.mid, cached[rate.what])
        return replace(rate, low=value, mid=value, high=value)

    rates = [least(rate) if rate.what.startswith("matvec/") and rate.threads == 2 else rate for rate in slow.rates]
    return replace(machine, rates=tuple(rates))


def decode_by_hand(model: Model, ram_bw: float, position: int, batch: int = 1) -> tuple[float, float]:
    """(seconds of a decode step, weight bytes) of a bf16 model with everything in RAM on two null threads."""
    part = model.part("language")
    config, hidden = part.config, part.config["hidden_size"]
    seconds = total = 0.0
    matrices = {w.name: w.shape for w in part.weights() if len(w.shape) == 2}

    def product(*names: str, columns_out: int, columns_in: int, extra: int = 0) -> float:
        nonlocal total
        values = sum(matrices[name][0] * matrices[name][1] for name in names)
        num_bytes = sum(encoding("bf16").packed_bytes(*matrices[name]) for name in names)
        total += num_bytes
        from_ram = 2 * 10e9 if batch > 1 else min(2 * 10e9, ram_bw * 16 * 4096 / encoding("bf16").strip_bytes(4096))
        speed = from_ram
        if batch > 1:
            speed = 20e9 * (200e9 / 20e9) ** _log_share(batch)
        moved = num_bytes + 4 * batch * (columns_in + columns_out + extra)
        return max(batch * values / speed, moved / ram_bw) + (1e-6 if batch <= 4 else 2e-6)

    width, keys = config["num_attention_heads"] * config["head_dim"], config["num_key_value_heads"] * config["head_dim"]
    for layer in range(config["num_hidden_layers"]):
        at = f"layers.{layer}."
        seconds += product(at + "q", at + "k", at + "v", columns_in=hidden, columns_out=width + 2 * keys)
        cache = 2 * 2 * keys * (batch * (position + 1) + batch)
        traffic = cache + 4 * batch * (2 * width + 2 * keys)
        after_a_page = cache - 2 * 2 * keys * batch * 32
        pieces = batch * config["num_key_value_heads"] * -(-(position + 1) // 128)
        starts = min(pieces, max(12, batch * config["num_key_value_heads"])) / 1e6
        seconds += max(starts + after_a_page / (ram_bw / 2), traffic / ram_bw)
        seconds += product(at + "o", columns_in=width, columns_out=hidden, extra=hidden)
        seconds += product(at + "gate", at + "up", columns_in=hidden, columns_out=2 * config["intermediate_size"])
        down = 2 * config["intermediate_size"]
        seconds += product(at + "down", columns_in=down, columns_out=hidden, extra=hidden)
    seconds += product("embed", columns_in=hidden, columns_out=config["vocab_size"])
    strip = encoding("bf16").strip_bytes(hidden)
    seconds += batch * (strip + 4 * hidden) / ram_bw + 1e-6
    seconds += 12 * batch * config["vocab_size"] / ram_bw + 1e-6
    return seconds + 1e-6, total


def _log_share(batch: int) -> float:
    from math import log

    return log(batch) / log(16)


@pytest.mark.parametrize("ram_bw", [5e9, 20e9, 400e9])
def test_a_decode_step_in_ram_is_what_a_hand_calculation_gives(ram_bw: float) -> None:
    model = described()
    plan = assess(question(model, null_machine(ram_bw=ram_bw)), STORED)
    wanted, _ = decode_by_hand(model, ram_bw, position=128 + 16)
    assert plan.cost.per_token_s.mid == pytest.approx(wanted, rel=1e-9)
    assert plan.cost.per_token_s == plan.cost.stage("decode").seconds * (1 / 32)


@pytest.mark.parametrize("batch", [2, 4, 16])
def test_a_batch_shares_the_weights(batch: int) -> None:
    model, workload = described(), Workload(512, batch=batch, prompt=128, output=32)
    plan = assess(question(model, null_machine(), workload=workload), STORED)
    wanted, _ = decode_by_hand(model, 20e9, position=128 + 16, batch=batch)
    assert plan.cost.per_token_s.mid == pytest.approx(wanted, rel=1e-9)
    one = assess(question(model, null_machine()), STORED)
    prefill, alone = plan.cost.stage("prefill"), one.cost.stage("prefill")
    assert (prefill.tokens, prefill.replays) == (batch * alone.tokens, batch * alone.replays)
    assert plan.cost.first_token_s.mid == pytest.approx(batch * one.cost.first_token_s.mid), "that of the last answer"
    held, held_alone = (next(h.high for h in made.cost.holders if h.name == CACHE) for made in (plan, one))
    assert held == batch * held_alone


def test_where_others_wait_no_chunk_is_long() -> None:
    model, machine = described(), null_machine()
    alone, shared = (
        PrefillChunk.offers(model, machine, Budget(1 << 40, Workload(context=1024, batch=batch))) for batch in (1, 2)
    )
    assert [step.tokens for step in alone if isinstance(step, PrefillChunk)][:2] == [512, 256]
    assert [step.tokens for step in shared if isinstance(step, PrefillChunk)][:2] == [256, 128]


@pytest.mark.parametrize(("prompt", "chunk", "batch"), [(128, 512, 4), (100, 64, 5), (7, 16, 9), (300, 128, 3)])
def test_prompts_share_chunks_as_the_scheduler_lets_them(prompt: int, chunk: int, batch: int) -> None:
    """Chunk by chunk as a scheduler without a device gives them, against what is priced."""
    pool = PagePool(1000, 32)
    sequences = tuple(Sequence(seat, PageTable(pool, keep_everything), 512) for seat in range(batch))
    requests = [Request(tuple(range(prompt)), 1) for _ in range(batch)]
    scheduler = Scheduler(InOrder(requests), sequences, chunk, 512, frozenset())
    found: dict[tuple[int, int, int], list[float]] = {}
    while (replay := scheduler.next()) is not None:
        assert replay.stage == "prefill"
        spans = [(part.first, part.stop) for part in replay.parts]
        tokens = sum(stop - first for first, stop in spans)
        seen = sum(sum(range(first + 1, stop + 1)) for first, stop in spans) / tokens
        for part in replay.parts:
            part.answer.sequence.num_cached = part.stop
        rows = len(scheduler.drew(replay, [1] * sum(part.last for part in replay.parts)))
        found.setdefault((tokens, rows, len(spans)), []).append(seen)
    priced = {(e.tokens, e.rows, e.sequences): (e.context, times) for e, times in chunks_of(prompt, chunk, batch)}
    assert set(priced) == set(found)
    for (tokens, rows, spans), seen in found.items():
        context, times = priced[tokens, rows, spans]
        assert times == len(seen)
        assert context + (tokens / spans + 1) / 2 == pytest.approx(sum(seen) / len(seen), abs=0.51)


@pytest.mark.parametrize("tied", [True, False])
def test_a_streamed_step_takes_the_longest_of_its_lanes(tied: bool) -> None:
    model = described(tied=tied, layers=4)
    slow, fast = null_machine(disk_bw=0.05e9), null_machine(disk_bw=1e15)
    place = Streamed(resident_bytes=1 * MB, slot_bytes=1 << 20, num_slots=6, in_flight=4)
    bound, free = (assess(question(model, machine), (*STORED, place)) for machine in (slow, fast))
    decode = bound.cost.stage("decode")
    assert decode.binds == DISK
    whole = assess(question(model, fast), STORED).cost.stage("decode")
    call_s = 1e-6
    computing_s = whole.seconds.mid / whole.replays - call_s
    reading_s = decode.disk_bytes / decode.replays / 0.05e9
    assert decode.seconds.mid / decode.replays == pytest.approx(reading_s + HINDRANCE * computing_s + call_s)
    # What is streamed, whole disk blocks of slots, and for an embedding in disk the strip of the token.
    streamed = bound.form.disk_bytes - (0 if tied else bound.form.weights.by_name["embed"].disk_bytes)
    assert streamed < decode.disk_bytes / decode.replays < 1.02 * streamed + 30_000
    computing = free.cost.stage("decode")
    assert computing.binds != DISK
    assert computing.seconds.mid >= whole.seconds.mid
    # The ring is written and read: streamed bytes cross the RAM twice.
    assert computing.ram_bytes == pytest.approx(whole.ram_bytes + computing.disk_bytes)


def test_a_weight_that_is_larger_than_the_ring_is_waited_for() -> None:
    model, disk_bw = described(tied=False, layers=4, vocab=64_000), 10e9
    asked = question(model, null_machine(disk_bw=disk_bw), workload=Workload(640, prompt=512, output=32))
    places = (Streamed("all", 0, slot_bytes, 6, 4) for slot_bytes in (128 << 10, 4 << 20))
    small, large = (
        assess(asked, (*STORED[:2], PrefillChunk(tokens=512), place)).cost.stage("prefill") for place in places
    )
    # Of the head's 33 MB the larger ring has more ahead; what is in flight when nothing is there yet it has more, too.
    ahead, filling = (number * ((4 << 20) - (128 << 10)) / disk_bw for number in (6, 4))
    assert small.binds != DISK
    assert small.seconds.mid - large.seconds.mid == pytest.approx(ahead - filling, rel=0.02)


def test_rows_that_are_looked_up_hold_everything_up() -> None:
    model, place = described(tied=False, layers=4), Streamed(resident_bytes=1 * MB)
    fast = null_machine(disk_bw=1e15)
    slow = replace(fast, rates=(*fast.rates, Rate("lookup", 1e6, 1e6, 1e6, 1, LOOKUP_BYTES)))
    quick, held = (assess(question(model, one), (*STORED, place)).cost.stage("decode") for one in (fast, slow))
    strip_bytes = round(encoding("bf16").strip_bytes(256) / 4096 + 1) * 4096
    assert held.seconds.mid - quick.seconds.mid == pytest.approx(held.replays * strip_bytes / 1e6, rel=1e-3)


def test_what_leads_to_logits_alone_is_read_only_where_they_are_wanted() -> None:
    place = Streamed(resident_bytes=0)
    chunked = (AsStored("blocks"), AsStored("vocabulary"), PrefillChunk(tokens=32), place)
    model = described(tied=False)
    stage = assess(question(model, null_machine()), chunked).cost.stage("prefill")
    head = encoding("bf16").packed_bytes(1000, 256)
    matrices = {w.name: w.shape for w in model.part("language").weights() if "layers" in w.name and len(w.shape) == 2}
    sizes = {name: encoding("bf16").packed_bytes(rows, columns) for name, (rows, columns) in matrices.items()}
    last = max(int(name.split(".")[1]) for name in sizes)
    behind = sum(sizes[f"layers.{last}.{role}"] for role in ("o", "gate", "up", "down"))
    blocks = sum(sizes.values())
    lookups = 128 * round(encoding("bf16").strip_bytes(256) / 4096 + 1) * 4096
    assert stage.replays == 4
    assert stage.disk_bytes == pytest.approx(4 * (blocks - behind) + behind + head + lookups, rel=0.01)


def test_prefill_is_bound_by_arithmetic_at_the_rate_of_its_rows() -> None:
    model = described(layers=6, hidden=1024, ffn=4096, heads=16, kv_heads=16, vocab=512)
    stage = assess(question(model, null_machine()), STORED).cost.stage("prefill")
    assert stage.binds == ARITHMETIC
    behind = 1024 * 1024 + 3 * 1024 * 4096
    values = 5 * (3 * 1024 * 1024 + behind) + 3 * 1024 * 1024
    attention = 2 * 6 * 16 * 64 * 128 * 129 / 2
    assert stage.multiply_adds == pytest.approx(128 * values + behind + 512 * 1024 + attention)
    moved = 6 * 128 * 4 * (4 + 2) * 1024 / 20e9  # of attention, and what two products a layer are added to
    assert stage.seconds.mid == pytest.approx(128 * values / 200e9 + attention / 20e9 + moved, rel=0.03)


def test_norms_gates_and_rounding_before_a_product_take_their_time() -> None:
    steps = (RoundToNearest("blocks", bits=4), AsStored("vocabulary"), PrefillChunk(tokens=128), Int8Activations())
    model, free = described(layers=3, hidden=256, ffn=512, heads=4), null_machine()
    slow = replace(free, rates=tuple(
        replace(rate, low=1e9, mid=1e9, high=1e9) if rate.what.startswith("prologue/") else rate for rate in free.rates
    ))  # fmt: skip
    plain, longer = (
        assess(question(model, machine, degradation=1.0), steps).cost.per_token_s for machine in (free, slow)
    )
    # A block norms 2 rows, gates one of 512, and rounds the inputs of its four products; the head's input is normed.
    values = 3 * (2 * 256 + 512 + (3 * 256 + 512)) + 256
    assert longer.mid - plain.mid == pytest.approx(values / 1e9, rel=1e-6)


def test_three_key_heads_keep_two_threads_as_long_as_four() -> None:
    steps, times = STORED, {}
    for heads in (2, 3, 4):
        model = described(layers=4, hidden=256, heads=heads, kv_heads=heads, head_dim=64)
        machine = slower(null_machine(), "attend/", by=1e4)
        short = Workload(512, prompt=32, output=16)  # one stretch of keys
        times[heads] = assess(question(model, machine, workload=short), steps).cost.per_token_s.mid
    assert times[3] == pytest.approx(times[4], rel=0.01)
    assert times[2] == pytest.approx(times[4] / 2, rel=0.01)


def test_float_rows_over_low_bit_weights_have_a_rate_of_their_own() -> None:
    steps = (RoundToNearest("blocks", bits=4), AsStored("vocabulary"), PrefillChunk(tokens=128))
    own = Rate("matvec/sym4x0", 1e9, 1e9, 1e9, 2, 100_000_000)
    model, machine = described(layers=3, hidden=256), null_machine()
    values = sum(
        w.shape[0] * w.shape[1] for w in model.part("language").weights() if "layers" in w.name and len(w.shape) == 2
    )
    known = assess(question(model, replace(machine, rates=(*machine.rates, own)), degradation=1.0), steps)
    assert known.cost.per_token_s.mid == pytest.approx(values / 1e9, rel=0.2)
    assert (
        assess(question(model, machine, degradation=1.0), steps).cost.per_token_s.mid < 0.5 * known.cost.per_token_s.mid
    )


def test_low_high_are_the_slow_and_the_fast_end() -> None:
    spread, exact = null_machine(spread=0.25), null_machine()
    wide, narrow = (assess(question(described(), machine), STORED).cost.total_s for machine in (spread, exact))
    off = PRICED_WITHIN
    assert narrow == Span(pytest.approx(wide.mid / off), pytest.approx(wide.mid), pytest.approx(wide.mid * off))
    assert wide == Span(pytest.approx(wide.mid / off / 1.25), wide.mid, pytest.approx(wide.mid * off / 0.75))


CASES = {
    "everything in RAM": (null_machine(ram_bw=5e9), ()),
    "slow arithmetic": (null_machine(ram_bw=1e12), ()),
    "slow disk": (null_machine(disk_bw=0.05e9), (Streamed(resident_bytes=0),)),
    "fast disk": (null_machine(disk_bw=1e13, ram_bw=5e9), (Streamed(resident_bytes=0),)),
    "waiting": (slower(null_machine(ram_bw=1e12), "barrier", "call", by=1000), ()),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("stage", ["prefill", "decode"])
def test_what_binds_is_what_moves_the_time_when_it_slows(name: str, stage: str) -> None:
    machine, place = CASES[name]
    steps = (*STORED, *place)
    plan = assess(question(described(layers=6, hidden=512, ffn=2048, heads=8), machine), steps)
    before = plan.cost.stage(stage)
    ram_bw = next(rate.mid for rate in machine.rates if rate.what == "read")
    disk_bw = next(rate.mid for rate in machine.rates if rate.what == "disk")
    slowed = {
        RAM: null_machine(ram_bw=ram_bw / SLOWER, disk_bw=disk_bw),
        ARITHMETIC: with_slower_arithmetic(machine),
        DISK: slower(machine, "disk", by=SLOWER),
        OVERHEAD: slower(machine, "barrier", "call", by=SLOWER),
    }
    if name == "waiting":
        slowed[RAM] = slower(slowed[RAM], "barrier", "call", by=1000)
    moved = {}
    for what, other in slowed.items():
        moved[what] = assess(question(described(layers=6, hidden=512, ffn=2048, heads=8), other), steps)
    ratios = {what: other.cost.stage(stage).seconds.mid / before.seconds.mid for what, other in moved.items()}
    assert ratios[before.binds] == max(ratios.values())
    assert ratios[before.binds] - 1 > 0.4 * (SLOWER - 1), (before.binds, ratios)


def plans(memories: list[int], model: Model, **budget: Any) -> list[Plan]:
    workload = Workload(512, prompt=128, output=32)
    return [make_plan(model, null_machine(), Budget(memory, workload, **budget)) for memory in memories]


def test_holders_add_up_and_the_budget_is_kept() -> None:
    model = described(layers=5, vocab=4000, matrix="q4_0", vocabulary="q8_0")
    smallest = plans([ROOMY], model)[0].smallest_bytes
    for plan in plans([smallest + step * 700_003 for step in range(4)], model):
        assert plan.cost.memory_high == sum(holder.high for holder in plan.cost.holders) <= plan.budget.memory_bytes
        assert plan.cost.memory_low <= plan.cost.memory_high
        held = {holder.name: holder.high for holder in plan.cost.holders}
        assert held[WEIGHTS] == sum(weight.ram_bytes for weight in plan.form.weights)
        assert held.get(RING, 0) == (plan.form.ring.num_bytes if plan.form.ring else 0)


@pytest.mark.parametrize("tied", [True, False])
def test_a_streamed_plan_uses_its_budget_to_one_strip(tied: bool) -> None:
    model = described(layers=16, hidden=512, ffn=2048, heads=8, tied=tied, matrix="q4_0", vocabulary="q8_0")
    for memory in range(75 * MB, 79 * MB, 1_234_567):
        plan = make_plan(model, null_machine(), Budget(memory, Workload(512, prompt=128, output=32)))
        assert plan.form.disk_bytes
        strips = [weight.strip_bytes for weight in plan.form.weights if weight.is_matrix]
        assert 0 <= memory - plan.cost.memory_high < 2 * max(strips)
        if not tied:
            assert plan.form.weights.by_name["embed"].ram_rows == 0


def test_what_was_measured_takes_the_place_of_estimates() -> None:
    model, budget = described(), Budget(ROOMY, Workload(512, prompt=128, output=32))
    guess = make_plan(model, null_machine(), budget)
    known = make_plan(model, null_machine(), budget, measured_bytes={TOKENIZER: (5 * MB, 6 * MB)})
    span = next((h.low, h.high) for h in known.cost.holders if h.name == TOKENIZER)
    assert span == (4_500_000, 6_500_000 + REMEMBERED_BYTES), "words are remembered as they come"
    assert known.cost.memory_high != guess.cost.memory_high
    from pintpot.planner.degradation import steps_key

    measured = {steps_key(guess.steps): Degradation(0.001, 0.002, True)}
    again = make_plan(model, null_machine(), budget, measured=measured)
    assert (again.degradation.low, again.degradation.high, again.degradation.measured) == (0.001, 0.002, True)


@pytest.mark.parametrize(("batch", "planes"), [(1, (1, 2)), (16, (1, 1))])
def test_a_second_plane_is_taken_where_it_costs_next_to_nothing(batch: int, planes: tuple[int, int]) -> None:
    """One sequence waits for its weights; sixteen share them, and wait for the arithmetic."""
    model = described(layers=4, hidden=1024, ffn=4096, heads=16, matrix="q4_0", vocabulary="q8_0")
    budget = Budget(ROOMY, Workload(1024, batch=batch, prompt=512, output=128))
    plan = make_plan(model, null_machine(ram_bw=10e9), budget)
    (rows,) = (step for step in plan.steps if isinstance(step, Int8Activations))
    assert (rows.prefill, rows.decode) == planes
    assert plan.form.activation.prefill == "int8"
    high = {(1, 2): "activation/int8-int8x2", (1, 1): "activation/int8"}[planes]
    assert plan.degradation.high >= shipped_priors().of(high)[1]
    assert plan.degradation.prefill_high >= shipped_priors().of("activation/int8")[1]


def test_no_plan_forgets_unless_it_is_allowed() -> None:
    model, machine = described(layers=4), null_machine()
    asked, allowed = (Budget(ROOMY, Workload(512), windowed=windowed) for windowed in (False, True))
    assert SinkWindow.offers(model, machine, asked) == ()
    assert SinkWindow.offers(model, machine, allowed) == (SinkWindow(window=256, sinks=4),)


def test_a_window_bounds_the_cache_and_attention() -> None:
    steps = (*STORED, SinkWindow(window=128, sinks=4))
    asked = question(described(), null_machine(), workload=Workload(2048, prompt=1024, output=64), degradation=5.0)
    windowed, whole = assess(asked, steps), assess(asked, STORED)
    sizes = [next(h.high for h in plan.cost.holders if h.name == CACHE) for plan in (windowed, whole)]
    # Pages of 32: sinks end in one, window and chunk may begin and end inside one.
    assert [size // (2 * 3 * 2 * 64 * 2 * 32) for size in sizes] == [2 + 9, 64]
    assert windowed.cost.per_token_s.mid < whole.cost.per_token_s.mid
    with pytest.raises(NotApplicable, match="own window of 64"):
        assess(question(described(family="mistral", window=64), null_machine(), degradation=5.0), steps)


@pytest.mark.parametrize("head_dim", [16, 48, 288])
def test_heads_that_no_kernel_takes_are_refused(head_dim: int) -> None:
    model = described(head_dim=head_dim)
    with pytest.raises(UnsupportedModel, match=f"heads of {head_dim} columns; .* multiples of 32 up to 256"):
        make_plan(model, null_machine(), Budget(ROOMY))


def test_steps_that_cannot_be_together_or_are_missing() -> None:
    asked = question(described(), null_machine())
    with pytest.raises(UsageError, match="both decide format"):
        assess(asked, (*STORED, AsStored("all")))
    with pytest.raises(NotApplicable, match="in which format embed"):
        assess(asked, (AsStored("blocks"), PrefillChunk()))
    with pytest.raises(NotApplicable, match="no product could run in integers"):
        assess(asked, (*STORED, Int8Activations()))


@pytest.mark.parametrize("name", catalog_names())
def test_machines_from_data_sheets_plan(name: str) -> None:
    machine = load_machine(name)
    plan = make_plan(described(layers=3, matrix="q4_0", vocabulary="q8_0"), machine, Budget(ROOMY, Workload(512)))
    assert plan.machine_origin == "catalog"
    assert any("data sheets" in note for note in plan.notes)
    assert plan.cost.total_s.mid > 0
    if machine.rate("disk") is None:
        with pytest.raises(DoesNotFit, match="smallest possible budget"):
            make_plan(
                described(layers=9, hidden=1024, ffn=4096, matrix="q4_0", vocabulary="q8_0"),
                machine,
                Budget(80 * MB, Workload(512)),
            )


def test_a_record_of_few_rates_makes_no_format_free() -> None:
    machine = null_machine()
    few = [rate for rate in machine.rates if "/" not in rate.what or rate.what.endswith(("sym8", "f16", "/sym8c"))]
    quick = replace(machine, origin="quick", rates=tuple(few))
    asked = Budget(ROOMY, Workload(512, prompt=128, output=32))
    plan, full = make_plan(described(), quick, asked), make_plan(described(), machine, asked)
    assert plan.cost.total_s.mid == pytest.approx(full.cost.total_s.mid, rel=0.5)
    assert any("2 seconds only" in note for note in plan.notes)


def test_reprice_keeps_steps_and_quality() -> None:
    model, machine = described(), null_machine()
    plan = make_plan(model, machine, Budget(ROOMY, Workload(512, prompt=128, output=32)))
    again = reprice(plan, question(model, machine))
    assert (again.steps, again.degradation, again.form) == (plan.steps, plan.degradation, plan.form)
    assert again.cost == plan.cost
    assert reprice(plan, question(model, null_machine(ram_bw=1e9))).cost.total_s.mid > plan.cost.total_s.mid


def test_a_bench_remembers_without_changing_the_answer() -> None:
    asked = question(described(), null_machine())
    bench = Bench(asked)
    for _ in range(2):
        assert bench.plan(bench.price(bench.draft(STORED))) == assess(asked, STORED)

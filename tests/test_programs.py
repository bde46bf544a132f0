"""Programs of every family and width: shapes, groups, layouts without overlap, fetches, slots, and scratch memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from described import Net, described
from hypothesis import given, settings
from hypothesis import strategies as st

from pintpot.budget import Workload
from pintpot.contract.form import ActivationForm, CacheForm, Form, source_form
from pintpot.errors import UsageError
from pintpot.machine.null import null_machine
from pintpot.nets import families, family
from pintpot.program.alike import alike
from pintpot.program.early import select_early
from pintpot.program.fetch import ALIGN, lay_slots
from pintpot.program.layout import Layout, buffer_bytes, lay_out
from pintpot.program.ops import check, op_module
from pintpot.program.ops.attend import positions_seen
from pintpot.program.scratch import scratch_bytes
from pintpot.program.spec import Buffer, Buffers, Extent, Op, Program, Segment, Stage, Work
from pintpot.techniques.place.streamed import Streamed
from pintpot.techniques.quantize.as_stored import AsStored
from pintpot.techniques.quantize.round_to_nearest import RoundToNearest

NETS = [Net(family=name, tied=tied) for name in families() for tied in (True, False)]


INT8 = ActivationForm("int8", "int8")
STAGES = ActivationForm("int8", "int8x2")


def form_of(net: Net, bits: int | None = None, **changes: Any) -> Form:
    form = source_form(described(net))
    form = AsStored().promise(form) if bits is None else RoundToNearest(bits=bits).promise(form)
    return replace(form, **changes)


WORKLOAD = Workload(256, prompt=100, output=20)


def work_of(net: Net, form: Form, workload: Workload = WORKLOAD) -> Work:
    return family(net.family).work(described(net).part("language").config, form, workload)


@pytest.mark.parametrize("net", NETS, ids=lambda net: f"{net.family} {'tied' if net.tied else 'untied'}")
@pytest.mark.parametrize("chunk", [1, 7, 64, 256])
@pytest.mark.parametrize("batch", [1, 3])
def test_programs_of_every_family_and_width_pass_the_check(net: Net, chunk: int, batch: int) -> None:
    form = form_of(net, chunk=chunk, activation=INT8, cache=CacheForm("sym8c", window=64, sinks=4))
    work = work_of(net, form, Workload(256, batch=batch, prompt=100, output=20))
    streamed = Streamed(resident_bytes=100_000)
    placed = streamed.promise(form)
    for program in (*work.programs(), *streamed.rewrite(work, placed).programs()):
        check(program)
        assert program.segments[-1].stop == len(program.ops)
        norms = {name for op in program.ops for role, name in op.reads if role in ("q_norm", "k_norm", "bias")}
        assert bool(norms) == (net.family in ("qwen2", "qwen3", "qwen3_moe", "gemma3"))
    assert work.stage("decode").program(batch).bound("tokens") == batch


def test_layers_that_differ_have_their_own_windows_and_rotary_tables() -> None:
    net = Net(family="gemma3", layers=4, window=48)
    work = work_of(net, form_of(net), Workload(256))
    assert {"rope", "rope_local"} <= set(lay_out(work).session)
    for program in work.programs():
        attends = [op for op in program.ops if op.kind == "attend"]
        assert [op.get("window") for op in attends] == [48, 0, 48, 0]
        assert [op.read("rope") for op in attends] == ["rope_local", "rope"] * 2
        assert {op.get("scale") for op in attends} == {24**-0.5}
        far, near = (positions_seen(op, Extent(1, context=200)) for op in attends[1::-1])
        assert (far, near) == (201, 48)
        embed = next(op for op in program.ops if op.kind == "embed")
        assert embed.get("scale") == 16.0
    windowed = form_of(net, cache=CacheForm("f16", window=32, sinks=4))
    attends = [op for op in work_of(net, windowed).stage("decode").programs[0].ops if op.kind == "attend"]
    assert {op.get("window") for op in attends} == {32}


def test_a_norm_after_a_product_has_the_width_of_what_it_norms() -> None:
    net = Net(family="gemma3")
    program = work_of(net, form_of(net)).stage("decode").programs[0]
    at = next(index for index, op in enumerate(program.ops) if op.read("post_norm"))
    reads = tuple((role, "layers.0.q_norm" if role == "post_norm" else name) for role, name in program.ops[at].reads)
    ops = (*program.ops[:at], replace(program.ops[at], reads=reads), *program.ops[at + 1 :])
    with pytest.raises(UsageError, match="a norm after 256 columns has as many"):
        check(replace(program, ops=ops))


def test_a_broken_program_does_not_pass() -> None:
    program = work_of(NETS[0], form_of(NETS[0])).stage("decode").programs[0]
    ops = list(program.ops)
    ops[1] = replace(ops[1], writes=(("out", "nowhere"),))
    with pytest.raises(UsageError, match="'nowhere', which is no buffer"):
        check(replace(program, ops=tuple(ops)))
    ops[1] = replace(program.ops[1], reads=program.ops[1].reads[:-1])
    with pytest.raises(UsageError, match="rmsnorm"):
        check(replace(program, ops=tuple(ops)))
    with pytest.raises(UsageError, match="there is no op 'telepathy'"):
        check(replace(program, ops=(Op("telepathy", (), ()),)))


@pytest.mark.parametrize("net", NETS[:2], ids=["tied", "untied"])
def test_groups_cover_all_ops_and_stand_for_each(net: Net) -> None:
    form = Streamed(resident_bytes=500_000).promise(form_of(net, bits=4, activation=INT8))
    work = Streamed(resident_bytes=500_000).rewrite(work_of(net, form), form)
    for program in work.programs():
        groups = alike(program)
        assert sum(item.count for item in groups) == len(program.ops)
        assert len(groups) < len(program.ops)
        extent = Extent(program.bound("tokens"), context=17)
        summed = sum(item.count * op_module(item.op.kind).demand(item.op, program, extent).ram_bytes for item in groups)
        assert summed == pytest.approx(
            sum(op_module(op.kind).demand(op, program, extent).ram_bytes for op in program.ops)
        )


@pytest.mark.parametrize("net", NETS[:2], ids=["tied", "untied"])
@pytest.mark.parametrize("resident_bytes", [0, 500_000, 10**9])
def test_what_is_priced_of_streaming_is_what_will_run(net: Net, resident_bytes: int) -> None:
    place = Streamed(resident_bytes=resident_bytes, slot_bytes=1 << 17)
    whole = form_of(net, bits=4)
    form, split, work = place.promise(whole), place.split(whole.weights), work_of(net, whole)
    assert split.ram_bytes == form.ram_bytes
    assert sum(streaming.num_bytes for streaming in split.disk.values()) == form.disk_bytes
    for program, streamed in zip(work.programs(), place.rewrite(work, form).programs(), strict=True):
        inserted = Counter(op.attributes for op in streamed.ops if op.kind == "fetch")
        priced = [item.op for item in place.fetches(program, split) for _ in range(item.count)]
        assert Counter(op.attributes for op in priced) == inserted
        assert [op for op in streamed.ops if op.kind != "fetch"] == list(program.ops)


def step_buffers(draw: Any, num_ops: int) -> tuple[list[Buffer], list[Op]]:
    buffers, ops = [], []
    for index in range(num_ops):
        buffers.append(
            Buffer(f"b{index}", (draw(st.integers(1, 40)), draw(st.integers(1, 300))), "f32", "buffers", "step")
        )
        earlier = draw(st.lists(st.integers(0, index - 1), max_size=3, unique=True)) if index else []
        ops.append(Op("x", tuple(("x", f"b{at}") for at in earlier), (("out", f"b{index}"),)))
    return buffers, ops


@st.composite
def drawn_work(draw: Any) -> Work:
    programs = []
    for name in ("one", "two"):
        buffers, ops = step_buffers(draw, draw(st.integers(1, 12)))
        for index in range(draw(st.integers(0, 3))):
            holder = draw(st.sampled_from(["buffers", "cache", "tables"]))
            buffers.append(Buffer(f"s{index}", (draw(st.integers(1, 50)), 8), "f16", holder, "session"))
        programs.append(Program(name, (), tuple(buffers), tuple(ops), (Segment(0, len(ops)),)))
    return Work(tuple(Stage(program.name, "language", (program,)) for program in programs))


def assert_no_overlap(work: Work, layout: Layout) -> None:
    sizes = {p.name: {b.name: buffer_bytes(p, b) for b in p.buffers if b.life != "ring"} for p in work.programs()}
    session = [
        (holder, at, at + max(size.get(name, 0) for size in sizes.values()), name)
        for name, (holder, at) in layout.session.items()
    ]
    for holder, at, stop, name in session:
        assert at % 64 == 0
        assert stop <= layout.sizes[holder]
        assert not [n for h, a, s, n in session if h == holder and n != name and a < stop and at < s]
    for program in work.programs():
        offsets, alive = layout.steps[program.name], {}
        for index, op in enumerate(program.ops):
            for _, name in (*op.reads, *op.writes):
                if name in offsets:
                    alive[name] = (alive.get(name, (index, index))[0], index)
        assert set(alive) == set(offsets)
        spans = [(offsets[n], offsets[n] + sizes[program.name][n], *alive[n], n) for n in offsets]
        spans += [(at, stop, 0, len(program.ops), name) for holder, at, stop, name in session if holder == "buffers"]
        for at, stop, first, last, name in spans:
            assert at % 64 == 0
            assert stop <= layout.sizes["buffers"]
            for other_at, other_stop, other_first, other_last, other in spans:
                if other != name and first <= other_last and other_first <= last:
                    assert stop <= other_at or other_stop <= at, f"{name} and {other} share memory while both live"


@settings(max_examples=60)
@given(drawn_work())
def test_live_buffers_never_overlap(work: Work) -> None:
    assert_no_overlap(work, lay_out(work))


@pytest.mark.parametrize("net", NETS, ids=lambda net: f"{net.family} {'tied' if net.tied else 'untied'}")
def test_layouts_of_every_family_are_tight_and_without_overlap(net: Net) -> None:
    deep = replace(net, layers=8)
    work, shallow = work_of(deep, form_of(deep)), work_of(net, form_of(net))
    layout = lay_out(work)
    assert_no_overlap(work, layout)
    assert layout.sizes["buffers"] == lay_out(shallow).sizes["buffers"], "step buffers are shared by all layers"
    assert layout.sizes["cache"] == 8 * 2 * 8 * 2 * 32 * 64 * 2


@pytest.mark.parametrize("tied", [True, False])
def test_prompts_and_words_of_answers_have_rows_of_their_own(tied: bool) -> None:
    """The head computes for the words of answers in both stages."""
    net = Net(family="llama", tied=tied, layers=2)
    work = work_of(net, form_of(net, bits=4, activation=STAGES))
    for stage, blocks in (("prefill", "int8"), ("decode", "int8x2")):
        linears = [op for op in work.stage(stage).programs[0].ops if op.kind == "linear"]
        assert {op.get("activation") for op in linears[:-1]} == {blocks}
        assert linears[-1].write("out") == "logits"
        assert linears[-1].get("activation") == "int8x2"


def test_works_of_one_key_have_one_layout() -> None:
    net = NETS[0]
    one, two = work_of(net, form_of(net)), work_of(net, form_of(net, bits=4, activation=INT8))
    assert one.key == two.key is not None
    assert lay_out(one).sizes == lay_out(two).sizes
    assert lay_out(one).session == lay_out(two).session
    other = work_of(net, form_of(net, cache=CacheForm("sym8c")))
    assert other.key != one.key


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.integers(1, 64), st.integers(0, 100), st.integers(1, 200)), max_size=12),
    st.sampled_from([4096, 16384, 65536]),
)
def test_slots_hold_every_strip_once_and_in_order(drawn: list[tuple[int, int, int]], slot_bytes: int) -> None:
    streamed = [(f"w{i}", first, count, 64 * size) for i, (size, first, count) in enumerate(drawn)]
    strip_bytes = {name: size for name, _, _, size in streamed}
    slots = lay_slots(streamed, slot_bytes)
    seen = [(p.weight, p.first_strip + i) for slot in slots for p in slot.pieces for i in range(p.num_strips)]
    assert seen == [(name, first + i) for name, first, count, _ in streamed for i in range(count)]
    for slot in slots:
        at = 0
        for piece in slot.pieces:
            assert piece.offset == at
            at += piece.num_strips * strip_bytes[piece.weight]
        assert slot.num_bytes % ALIGN == 0
        assert at <= slot.num_bytes <= slot_bytes
        assert slot.num_bytes - at < ALIGN
        assert slot.pieces
    for slot, after in pairwise(slots):
        used = sum(piece.num_strips * strip_bytes[piece.weight] for piece in slot.pieces)
        assert used + strip_bytes[after.pieces[0].weight] > slot_bytes, (
            "a strip that still fitted went to the next slot"
        )


def test_a_strip_larger_than_a_slot_is_refused() -> None:
    with pytest.raises(UsageError, match="a strip of 8192 bytes is larger than a slot"):
        lay_slots([("w", 0, 1, 8192)], 4096)


@pytest.mark.parametrize("slot_bytes", [128 << 10, 1 << 20])
@pytest.mark.parametrize("tied", [True, False])
def test_promised_reads_are_those_of_the_slots(slot_bytes: int, tied: bool) -> None:
    net = Net(layers=6, hidden=512, ffn=1536, heads=8, vocab=3000, tied=tied)
    place = Streamed(resident_bytes=2_000_000, slot_bytes=slot_bytes)
    form = place.promise(form_of(net, bits=4))
    program = place.rewrite(work_of(net, form), form).stage("decode").programs[0]
    fetched = [op for op in program.ops if op.kind == "fetch" and not op.get("per_token")]
    weights = [form.weights.by_name[str(op.read("weight"))] for op in fetched]
    streamed = [(w.name, w.ram_strips, w.num_strips - w.ram_strips, w.strip_bytes) for w in weights]
    read = sum(slot.num_bytes for slot in lay_slots(streamed, slot_bytes))
    assert sum(op.get("bytes") for op in fetched) == pytest.approx(read, rel=0.01)


@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize(
    "activation",
    [ActivationForm(), INT8, STAGES, ActivationForm("int8x2", "int8x2"), ActivationForm("bfloat16", "int8x2")],
)
@pytest.mark.parametrize("streams", [False, True])
def test_scratch_is_what_the_native_engine_asks_for(threads: int, activation: ActivationForm, streams: bool) -> None:
    native = pytest.importorskip("pintpot.kernels.native.bind")
    for net in (NETS[0], replace(NETS[1], kv_heads=4, layers=1)):
        for bits, chunk in ((None, 64), (4, 64), (8, 3)):
            form = form_of(net, bits=bits, activation=activation, chunk=chunk)
            work = work_of(net, form, Workload(2048, batch=3))
            place = Streamed(resident_bytes=0)
            for program in (place.rewrite(work, place.promise(form)) if streams else work).programs():
                assert scratch_bytes(program, threads) == native.scratch_bytes(program, threads)


def test_joined_buffers_are_found_by_name() -> None:
    one, two = Buffers([Buffer("a", (1, 2), "f32", "x", "step")]), Buffers([Buffer("b", (3, 4), "f32", "x", "step")])
    joined = Buffers.join(one, two)
    assert joined == (*one, *two)
    assert list(joined.by_name) == ["a", "b"]
    assert hash(joined) == hash(Buffers.join(one, two))


def test_the_null_machine_knows_every_rate_that_demands_name() -> None:
    known = {rate.what for rate in null_machine().rates}
    for net in NETS:
        for activation in (ActivationForm(), INT8, STAGES):
            for program in work_of(net, form_of(net, bits=4, activation=activation)).programs():
                for item in alike(program):
                    demand = op_module(item.op.kind).demand(item.op, program, Extent(program.bound("tokens")))
                    names = {work.what.removesuffix("x0").removesuffix("x2") for work in demand.work}
                    assert names <= known


def test_behind_the_last_attention_a_prompt_has_only_the_rows_whose_logits_are_wanted() -> None:
    work = work_of(NETS[0], form_of(NETS[0], bits=4, chunk=64))
    whole, early = work.stage("prefill").programs[0], select_early(work).stage("prefill").programs[0]
    check(early)
    kinds = [op.kind for op in early.ops]
    last = len(kinds) - 1 - kinds[::-1].index("attend")
    assert kinds[last:] == ["attend", "select", "select", "linear", "linear", "linear", "linear", "sample"]
    assert {early.by_name[name].shape[0] for op in early.ops[last + 3 :] for _, name in op.writes} == {"rows"}
    assert list(early.ops[:last]) == list(whole.ops[:last]), "before it nothing changes"
    assert early.segments[-1].stop == len(early.ops)
    assert lay_out(select_early(work)).sizes["buffers"] <= lay_out(work).sizes["buffers"]
    assert select_early(work).stage("decode") == work.stage("decode"), "where nothing is selected nothing is moved"
    assert select_early(select_early(work)) == select_early(work)

"""Every technique over every kind of model: promises kept by conversion, reasons where it does not apply, JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import K_QUANT, Tiny, write_gguf, write_hf

from pintpot.budget import Budget, Workload
from pintpot.contract.form import ActivationForm, Form, Weights, matches, source_form
from pintpot.contract.slots import Slots
from pintpot.contract.step import Facet, SourceRows, Step, step_from_json
from pintpot.contract.targets import overlap
from pintpot.errors import NotApplicable, UsageError
from pintpot.formats import encoding, is_lossless
from pintpot.machine.null import null_machine
from pintpot.machine.spec import Rate
from pintpot.model.read import describe
from pintpot.model.spec import Model
from pintpot.model.store import Store
from pintpot.nets import family
from pintpot.planner.degradation import shipped_priors
from pintpot.program.ops import check
from pintpot.techniques import classes
from pintpot.techniques.cache.sink_window import SinkWindow
from pintpot.techniques.place.streamed import Streamed
from pintpot.techniques.quantize.as_stored import AsStored
from pintpot.techniques.quantize.brain_prompts import BrainPrompts
from pintpot.techniques.quantize.int8_activations import Int8Activations
from pintpot.techniques.quantize.micro_scaling import MicroScaling
from pintpot.techniques.quantize.normal_float import NormalFloat
from pintpot.techniques.quantize.round_to_nearest import BITS, RoundToNearest

BUDGET = Budget(1_000_000_000, Workload(256, prompt=64, output=32))
KINDS: dict[str, Callable[[Path], Path]] = {
    "llama, float folder": lambda at: write_hf(at / "m", Tiny()),
    "llama, tied, float folder": lambda at: write_hf(at / "m", Tiny(tied=True)),
    "mistral, window": lambda at: write_hf(at / "m", Tiny(family="mistral", window=64)),
    "qwen2, biases": lambda at: write_hf(at / "m", Tiny(family="qwen2", tied=True)),
    "qwen3, norms of heads": lambda at: write_hf(at / "m", Tiny(family="qwen3")),
    "mixtral, float folder": lambda at: write_hf(at / "m", Tiny(family="mixtral", heads=4, intermediate=96)),
    "qwen3_moe, q4_0 file": lambda at: write_gguf(at / "m.gguf", Tiny(family="qwen3_moe", intermediate=64), "q4_0"),
    "llama, f16 file": lambda at: write_gguf(at / "m.gguf", Tiny(), "f16"),
    "llama, q4_0 file": lambda at: write_gguf(at / "m.gguf", Tiny(tied=True), "q4_0"),
    "qwen2, q5_1 file": lambda at: write_gguf(at / "m.gguf", Tiny(family="qwen2"), "q5_1"),
    "qwen3, q8_0 file": lambda at: write_gguf(at / "m.gguf", Tiny(family="qwen3"), "q8_0"),
    "llama, q2_k file": lambda at: write_gguf(at / "m.gguf", K_QUANT, "q2_k"),
    "llama, q4_k file": lambda at: write_gguf(at / "m.gguf", K_QUANT, "q4_k"),
    "llama, q6_k file": lambda at: write_gguf(at / "m.gguf", K_QUANT, "q6_k"),
}


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return describe(str(KINDS[request.param](tmp_path_factory.mktemp("kind"))))


def offered(model: Model) -> list[Step]:
    steps = [step for cls in classes().values() for step in cls.offers(model, null_machine(), BUDGET)]
    return [*steps, Streamed(resident_bytes=10_000, slot_bytes=1 << 20)]


def base_for(step: Step, model: Model) -> Form:
    """A form in which a step finds what it builds on."""
    form = source_form(model)
    return form if step.facet == Facet.FORMAT else AsStored().promise(form)


def applies(step: Step, model: Model, form: Form) -> bool:
    try:
        step.check(model, form)
    except NotApplicable as error:
        why = str(error)
    else:
        return True
    assert len(why.split()) >= 5, "a reason is a sentence"
    return False


def test_every_technique_names_its_paper_and_its_facet() -> None:
    assert len(classes()) >= 7
    for cls in classes().values():
        assert isinstance(cls.facet, Facet)
        assert len(cls.paper) > 10
        assert cls.__doc__


def test_every_offer_survives_json_and_says_what_it_is(model: Model) -> None:
    for step in offered(model):
        again = step_from_json(json.loads(json.dumps(step.to_json())), classes())
        assert again == step
        assert step.name in str(step)


def test_every_offer_promises_a_form_that_its_work_is_made_of(model: Model) -> None:
    applied = 0
    for step in offered(model):
        form = base_for(step, model)
        if not applies(step, model, form):
            continue
        applied += 1
        promised = step.promise(form)
        changes = any(
            getattr(type(step), verb) is not getattr(Step, verb) for verb in ("rewrite", "transform", "round", "counts")
        )
        assert promised != form or changes
        assert isinstance(promised.weights, Weights)
        assert [w.name for w in promised.weights] == [w.name for w in form.weights]
        for weight in promised.weights:
            if not matches(step.target, weight.name) or not weight.is_matrix:
                assert weight == form.weights.by_name[weight.name]
        part = model.part("language")
        work = step.rewrite(family(part.family).work(part.config, promised, BUDGET.workload), promised)
        for program in work.programs():
            check(program)
        step.install(Slots())
    assert applied >= 5


def test_conversion_gives_the_bytes_that_were_promised(model: Model) -> None:
    converting = [step for step in offered(model) if step.facet == Facet.FORMAT]
    rows = {w.name: w for part in model.parts for w in part.weights()}
    converted = 0
    with Store(model) as store:
        for step in converting:
            form = source_form(model)
            if not applies(step, model, form):
                continue
            promised = step.promise(form)
            seen: set[tuple[str, str, int]] = set()
            for weight in promised.weights:
                key = (weight.source, weight.format, weight.shape[-1])
                if not weight.is_matrix or not matches(step.target, weight.name) or key in seen:
                    continue
                seen.add(key)
                count = min(40, weight.shape[0])
                raw = store.read(rows[weight.name], 0, count)
                strips = step.convert(weight, SourceRows(weight.source, raw, weight.shape[1]))
                assert strips is not None
                assert strips.dtype.name == "uint8"
                assert strips.shape == (-(-count // 16), weight.strip_bytes), (str(step), key)
                assert weight.packed
                converted += 1
    assert converted >= 2


def test_stored_weights_are_not_rounded_a_second_time(model: Model) -> None:
    for weight in AsStored().promise(source_form(model)).weights:
        if weight.is_matrix and weight.source not in ("q2_k", "q3_k", "q5_k"):
            assert is_lossless(weight.source, weight.format), (weight.source, weight.format)


def test_rounding_never_makes_a_weight_larger(model: Model) -> None:
    form = source_form(model)
    stored = AsStored().promise(form)
    for step in offered(model):
        if isinstance(step, (RoundToNearest, NormalFloat, MicroScaling)) and applies(step, model, form):
            rounded = step.promise(form)
            for weight in rounded.weights:
                if weight.is_matrix and matches(step.target, weight.name):
                    assert weight.num_bytes <= stored.weights.by_name[weight.name].num_bytes


def test_every_change_of_values_has_a_row_in_the_priors(model: Model) -> None:
    known = shipped_priors().spans
    for step in offered(model):
        for key in (step.key, step.prefill_key):
            if getattr(step, "bits", 8) >= 4 and key is not None:
                low, high = known[key]
                assert 0 <= low <= high, step


def test_knobs_that_cannot_be_are_refused_with_a_reason(model: Model) -> None:
    form = source_form(model)
    for step, reason in (
        (RoundToNearest(bits=7), "7 bits are not to be had"),
        (RoundToNearest(bits=8, minimum=True), "8 bits need no minimum"),
        (RoundToNearest("layers.99.q", 2), "no weights in 'layers.99.q'"),
        (NormalFloat(group=128), "groups of .* not 128"),
        (MicroScaling(format="mxfp8"), "not mxfp8"),
        (SinkWindow(window=8), "under one page"),
        (SinkWindow(window=10**6), "whole context"),
    ):
        with pytest.raises(NotApplicable, match=reason):
            step.check(model, form)
    with pytest.raises(NotApplicable, match="larger than a slot"):
        Streamed(slot_bytes=0).check(model, RoundToNearest(bits=8).promise(form))
    with pytest.raises(NotApplicable, match="more slots than reads"):
        Streamed(num_slots=4, in_flight=4).check(model, form)


def test_activations_come_in_one_or_two_planes_stage_by_stage(model: Model) -> None:
    form = RoundToNearest(bits=8).promise(source_form(model))
    assert Int8Activations().promise(form).activation == ActivationForm("int8", "int8x2")
    assert Int8Activations(prefill=2, decode=1).promise(form).activation == ActivationForm("int8x2", "int8")
    for step in (Int8Activations(prefill=3), Int8Activations(decode=0)):
        with pytest.raises(NotApplicable, match="1 or 2 planes"):
            step.check(model, form)
    with pytest.raises(NotApplicable, match="floating point"):
        Int8Activations().check(model, source_form(model))


def test_one_plane_for_answers_is_offered_where_sequences_share_what_is_read(model: Model) -> None:
    def offered(batch: int) -> set[tuple[int, int]]:
        budget = Budget(10**9, Workload(256, batch=batch))
        steps = Int8Activations.offers(model, null_machine(), budget)
        return {(step.prefill, step.decode) for step in steps if isinstance(step, Int8Activations)}

    assert offered(1) == {(1, 2), (2, 2)}
    assert offered(4) == {(1, 2), (2, 2), (1, 1)}


def test_prompts_are_met_in_bfloat16_where_such_products_were_measured(model: Model) -> None:
    form = RoundToNearest(bits=8).promise(source_form(model))
    assert BrainPrompts().promise(form).activation == ActivationForm("bfloat16", "int8x2")
    assert (BrainPrompts().key, BrainPrompts().prefill_key) == ("activation/bfloat16-int8x2", "activation/bfloat16")
    with pytest.raises(NotApplicable, match="1 or 2 planes"):
        BrainPrompts(decode=3).check(model, form)
    with pytest.raises(NotApplicable, match="floating point"):
        BrainPrompts().check(model, source_form(model))
    plain, many = null_machine(), Budget(10**9, Workload(256, batch=4))
    tiled = replace(plain, rates=(*plain.rates, Rate("matmul/sym8xb", 1e12, 1e12, 1e12, 2, 256)))
    assert BrainPrompts.offers(model, plain, many) == ()
    assert set(BrainPrompts.offers(model, tiled, many)) == {BrainPrompts(), BrainPrompts(decode=1)}
    assert BrainPrompts.offers(model, tiled, Budget(10**9, Workload(256))) == (BrainPrompts(),)


def test_a_step_of_another_time_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="no technique 'Telepathy'; there are AdamW, AsStored"):
        step_from_json({"name": "Telepathy"}, classes())
    with pytest.raises(UsageError, match=r"AsStored: .*bits"):
        step_from_json({"name": "AsStored", "bits": 4}, classes())


def test_targets_overlap_where_they_name_a_weight_in_common() -> None:
    names = ["embed", "head", "layers.0.q", "layers.7.down"]
    targets = ["all", "blocks", "vocabulary", *names]
    for one in targets:
        for other in targets:
            common = any(matches(one, name) and matches(other, name) for name in names)
            assert overlap(one, other) == common, (one, other)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.93, 1.0])
def test_what_stays_resident_meets_its_size_to_a_strip_and_is_spread(model: Model, share: float) -> None:
    form = AsStored().promise(source_form(model))
    total = form.weights.passing_bytes
    placed = Streamed(resident_bytes=round(share * total)).promise(form)
    kept, step = sum(w.ram_bytes for w in placed.weights if w.may_stream), form.weights.largest_strip_bytes
    step *= max(weight.experts for weight in form.weights)  # a strip of each expert
    assert 0 <= round(share * total) - kept < step
    assert placed.weight_bytes == form.weight_bytes
    assert (placed.ring is None) == (kept == total)
    at = 0
    for weight in placed.weights:
        if not weight.may_stream:
            assert weight.ram_rows == weight.shape[0]
        elif weight.name in form.weights.looked_up:
            assert weight.ram_rows == 0
        else:
            assert weight.ram_rows % 16 == 0 or weight.ram_rows == weight.shape[0]
            at += weight.ram_bytes - share * weight.num_bytes
            routed = form.weights.routed_bytes > 0  # what every token meets stays first
            assert routed or abs(at) <= step + 1, "the running share strays by a strip at most"


def test_a_window_keeps_the_first_and_the_latest() -> None:
    slots = Slots()
    assert slots.cache_keep(500) == ((0, 500),)
    SinkWindow(window=100, sinks=4).install(slots)
    assert slots.cache_keep(50) == ((0, 50),)
    assert slots.cache_keep(500) == ((0, 4), (401, 500))


def test_bits_are_what_the_formats_say() -> None:
    for bits in BITS:
        assert encoding(RoundToNearest(bits=bits).format).code_bits == bits

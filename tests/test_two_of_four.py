"""2:4 packs: the bits of dense ones in fewer bytes, planned by themselves where weights are 2:4, refused where not."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from packing import MACHINE, opened, pack_of, plan_of
from safetensors.numpy import load_file, save_file
from test_experts import STREAMED, greedy, logits
from tiny import Tiny, write_hf
from two_of_four import pruned

from pintpot._native import available_isas
from pintpot.budget import Budget, Workload
from pintpot.contract.form import source_form
from pintpot.errors import BadInput, BadPack, NotApplicable
from pintpot.formats import encoding, is_lossless
from pintpot.formats.convert import encode
from pintpot.formats.tiles import unpack
from pintpot.formats.two_four import is_two_four
from pintpot.model.read import describe
from pintpot.planner.make import make_plan
from pintpot.planner.sensitivity import Sensitivities
from pintpot.techniques.batch.prefill_chunk import PrefillChunk
from pintpot.techniques.quantize.brain_prompts import BrainPrompts
from pintpot.techniques.quantize.int8_activations import Int8Activations
from pintpot.techniques.quantize.quarot import QuaRot
from pintpot.techniques.quantize.round_to_nearest import RoundToNearest
from pintpot.techniques.quantize.two_of_four import BITS, TwoOfFour

TINY = Tiny(family="qwen2", heads=4, kv_heads=2, hidden=96, intermediate=200)
CHUNK = PrefillChunk(tokens=16)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf(tmp_path_factory.mktemp("dense"), TINY)


@pytest.fixture(scope="module")
def sparse(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with the two smaller of every four weights of its blocks' matrices set to zero."""
    folder = tmp_path_factory.mktemp("sparse") / "m"
    shutil.copytree(dense, folder)
    rewrite(folder, lambda name, value: pruned(value) if "layers." in name and value.ndim == 2 else value)
    return folder


def rewrite(folder: Path, change: object) -> None:
    tensors = load_file(folder / "model.safetensors")
    made = {name: change(name, value) for name, value in tensors.items()}  # type: ignore[operator]
    save_file(made, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("bits", BITS)
def test_zeros_left_out_change_no_value(bits: int) -> None:
    name, whole = f"sym{bits}_24", f"sym{bits}"
    for rows, columns in ((37, 96), (5, 1088), (16, 100)):
        values = pruned(np.random.default_rng(bits).standard_normal((rows, columns)).astype(np.float32))
        values[rows // 2], values[0, :8] = 0, (0, 0, 0, 5, 0, 0, 0, 0)
        assert is_two_four(values)
        strips = encode(values, name)
        back = unpack(strips, name, rows, columns)
        np.testing.assert_array_equal(back, unpack(encode(values, whole), whole, rows, columns))
        assert is_two_four(back)
        assert np.array_equal(encode(back, name), encode(back, name))
        saved = encoding(whole).strip_bytes(columns) - encoding(name).strip_bytes(columns)
        assert saved == encoding(name).num_groups(columns) * (32 * bits - 64)
    assert (encoding(name).bits, encoding(name).dense) == (encoding(whole).bits - bits / 2 + 1, whole)
    assert not is_lossless("f32", name)


def test_values_that_are_not_two_four_are_refused() -> None:
    values = pruned(np.random.default_rng(1).standard_normal((20, 64)).astype(np.float32))
    values[3, 8:12] = 1, 1, 1, 0
    assert not is_two_four(values)
    with pytest.raises(BadInput, match="of 1 fours of columns side by side more than two weights are not zero"):
        encode(values, "sym8_24")
    assert not is_two_four(np.ones((2, 7), np.float32))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("rows", [Int8Activations(), Int8Activations(prefill=1, decode=1), BrainPrompts(), None])
def test_packs_give_the_bits_of_dense_packs(bits: int, rows: object, sparse: Path, tmp_path: Path) -> None:
    more = (CHUNK,) if rows is None else (CHUNK, rows)
    whole = pack_of(sparse, tmp_path / "whole", (RoundToNearest("all", bits), *more))  # type: ignore[arg-type]
    half = pack_of(sparse, tmp_path / "half", (TwoOfFour("all", bits), *more))  # type: ignore[arg-type]
    sizes = [sum(file.stat().st_size for file in folder.glob("*.safetensors")) for folder in (whole, half)]
    assert sizes[1] < sizes[0]
    with opened(whole) as session:
        answer, wanted = greedy(session), logits(session)
    assert len(set(answer)) > 4
    for isa in available_isas():
        for threads in (1, 2):
            with opened(half, isa=isa, threads=threads) as session:
                assert logits(session) == wanted, isa
    with opened(half) as session:
        assert greedy(session) == answer


def test_streamed_packs_give_the_bits_of_resident_ones(sparse: Path, tmp_path: Path) -> None:
    steps = (TwoOfFour("all", 6), CHUNK, Int8Activations())
    with opened(pack_of(sparse, tmp_path / "resident", steps)) as session:
        wanted = logits(session)
    with opened(pack_of(sparse, tmp_path / "streamed", (*steps, STREAMED))) as session:
        assert logits(session) == wanted


def test_what_is_promised_is_two_four_inside_blocks_alone(sparse: Path) -> None:
    form = plan_of(describe(str(sparse)), (TwoOfFour("all", 4), CHUNK)).form
    formats = {weight.name: weight.format for weight in form.weights if weight.is_matrix}
    assert {formats["embed"], formats["head"]} == {"sym4"}
    assert {kept for name, kept in formats.items() if name.startswith("layers.")} == {"sym4_24"}
    blocks = plan_of(describe(str(sparse)), (TwoOfFour("blocks", 4), RoundToNearest("vocabulary", 8), CHUNK)).form
    assert blocks.weights.by_name["embed"].format == "sym8"


def test_a_dense_model_is_refused_and_offered_nothing(dense: Path, sparse: Path) -> None:
    model, budget = describe(str(dense)), Budget(4_000_000_000, Workload(context=64))
    assert TwoOfFour.offers(model, MACHINE, budget) == ()
    with pytest.raises(NotApplicable, match=r"not 2:4: layers\.0\.q has more than two of four .* tune --sparse"):
        plan_of(model, (TwoOfFour("blocks", 6), CHUNK))
    with pytest.raises(NotApplicable, match="no other is 2:4"):
        plan_of(describe(str(sparse)), (TwoOfFour("vocabulary", 6), CHUNK))
    with pytest.raises(NotApplicable, match="5 bits are not to be had"):
        TwoOfFour("blocks", 5).check(model, source_form(model))
    with pytest.raises(NotApplicable):
        plan_of(describe(str(sparse)), (TwoOfFour("all", 6), QuaRot(), CHUNK))


def test_what_a_few_rows_do_not_show_is_found_while_packing(sparse: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(sparse, folder)

    def spoiled(name: str, value: np.ndarray) -> np.ndarray:
        if name.endswith("layers.1.mlp.down_proj.weight"):
            value = value.copy()
            value[5, 4:8] = 1
        return value

    rewrite(folder, spoiled)
    with pytest.raises(BadInput, match=re.escape("layers.1.down: of 1 fours")):
        pack_of(folder, tmp_path / "pack", (TwoOfFour("all", 6), CHUNK))
    assert not (tmp_path / "pack").exists()


def test_plans_of_sparse_models_have_it_by_themselves(dense: Path, sparse: Path) -> None:
    for source, wanted in ((sparse, True), (dense, False)):
        model = describe(str(source))
        plan = make_plan(model, MACHINE, Budget(4_000_000_000, Workload(context=64), degradation=0.05, prefer="memory"))
        assert any(isinstance(step, TwoOfFour) for step in plan.steps) == wanted


def test_a_table_of_a_dense_format_speaks_for_it(sparse: Path) -> None:
    weight = next(w for w in source_form(describe(str(sparse))).weights if w.name == "layers.0.q")
    table = Sensitivities(1024, {"layers.0.q": {"sym6": (0.1, 0.2)}})
    assert table.of(weight, "sym6_24") == table.of(weight, "sym6") == (0.1, 0.2)
    assert table.of(weight, "sym4_24") is None


def test_a_cut_off_pack_is_refused(sparse: Path, tmp_path: Path) -> None:
    pack = pack_of(sparse, tmp_path / "pack", (TwoOfFour("all", 4), CHUNK))
    file = max(pack.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[:-64])
    with pytest.raises(BadPack), opened(pack) as session:
        greedy(session)

"""Exports: bit for bit what the source had, value for value what the pack says, the same model for everybody else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest
from packing import EXACT, FREE, MACHINE, STREAMED, f32_cache, opened, pack_of, plan_of
from safetensors.numpy import load_file
from tiny import (
    EXPORTED,
    FAMILIES,
    GGUF_TYPES,
    K_QUANT,
    Tiny,
    gguf_weights,
    hf_weights,
    torch_model,
    torch_model_of_gguf,
    write_gguf,
    write_hf,
)

from pintpot.budget import Budget, Workload
from pintpot.contract.step import Step
from pintpot.errors import BadInput, UnsupportedModel
from pintpot.formats import encoding
from pintpot.formats.blocks import HELD_BY
from pintpot.formats.convert import encode
from pintpot.formats.tiles import unpack
from pintpot.model.read import describe
from pintpot.packer.export.export import Wish, write_export
from pintpot.packer.pack import write_pack
from pintpot.packer.raw import METADATA
from pintpot.planner.assess import assess
from pintpot.planner.question import Question
from pintpot.runtime.request import Request, Sampling
from pintpot.techniques.batch.prefill_chunk import PrefillChunk
from pintpot.techniques.quantize.gptq import Gptq
from pintpot.techniques.quantize.mixed import Mixed, write_formats
from pintpot.techniques.quantize.round_to_nearest import RoundToNearest

GGUF, FOLDER = Wish("gguf"), Wish("safetensors")
TOKENS = [[1, 17, 90, 33, 204, 5, 6, 7, 150]]
OF_THE_FILE = {"general.file_type", "general.quantization_version", "general.alignment"}
OF_THE_FILE |= {"GGUF.version", "GGUF.tensor_count", "GGUF.kv_count"}


def tensors_of(path: Path) -> dict[str, gguf.ReaderTensor]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


def metadata_of(path: Path) -> dict[str, object]:
    fields = gguf.GGUFReader(path).fields
    return {key: field.contents() for key, field in fields.items() if key not in OF_THE_FILE}


def fused(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same with the experts of a layer in one tensor for gate and up and one for down, as transformers has them."""
    found: dict[str, np.ndarray] = {}
    parts: dict[str, list[np.ndarray]] = {}
    for name, value in weights.items():
        at, _, role = name.replace("block_sparse_moe.", "mlp.").partition(".experts.")
        number, _, side = role.partition(".")
        if number.isdigit():
            parts.setdefault(f"{at}.experts {_SIDES[side.removesuffix('.weight')]}", []).append(value)
        else:
            found[name.replace("block_sparse_moe.", "mlp.")] = value
    for name, values in parts.items():
        at, side = name.split(" ")
        if side == "down":
            found[f"{at}.down_proj"] = np.stack(values)
        elif side == "gate":
            both = np.stack(values), np.stack(parts[f"{at} up"])
            found[f"{at}.gate_up_proj"] = np.concatenate(both, axis=1)
    return found


_SIDES = {"w1": "gate", "w2": "down", "w3": "up", "gate_proj": "gate", "up_proj": "up", "down_proj": "down"}


def same_bits(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> bool:
    one, other = fused(first), fused(second)
    return set(one) == set(other) and all(
        one[name].shape == other[name].shape and np.array_equal(one[name].view(np.uint32), other[name].view(np.uint32))
        for name in one
    )


def logits(model: object) -> np.ndarray:
    import torch

    with torch.inference_mode():
        return model(torch.tensor(TOKENS)).logits.float().numpy()  # type: ignore[operator]


# --- GGUF -> pack -> GGUF -------------------------------------------------------------------------------------------

AS_IT_IS = [name for name in GGUF_TYPES if encoding(name).lossless]


@pytest.mark.parametrize("steps", [EXACT, (*EXACT, STREAMED)], ids=["resident", "streamed"])
@pytest.mark.parametrize("quantization", AS_IT_IS)
def test_what_came_as_gguf_goes_bit_by_bit(quantization: str, steps: tuple[Step, ...], tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "s.gguf", K_QUANT, quantization)
    made = write_export(pack_of(source, tmp_path / "pack", steps), tmp_path / "e.gguf", GGUF)
    came, went = tensors_of(source), tensors_of(made.path)
    assert set(came) == set(went)
    for name, tensor in came.items():
        assert tensor.tensor_type == went[name].tensor_type, name
        assert tensor.shape.tolist() == went[name].shape.tolist(), name
        assert np.array_equal(tensor.data, went[name].data), name
    assert metadata_of(source) == metadata_of(made.path)
    assert made.notes == ()
    assert made.num_bytes == made.path.stat().st_size
    assert made.bits == pytest.approx(encoding(quantization).bits)


@pytest.mark.parametrize("tiny", EXPORTED, ids=[tiny.family + tiny.rope for tiny in EXPORTED])
def test_every_family_goes_bit_by_bit(tiny: Tiny, tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "s.gguf", tiny, "q4_1")
    made = write_export(pack_of(source, tmp_path / "pack"), tmp_path / "e.gguf", GGUF)
    came, went = tensors_of(source), tensors_of(made.path)
    assert {name: t.data.tobytes() for name, t in came.items()} == {name: t.data.tobytes() for name, t in went.items()}


@pytest.mark.parametrize("tiny", [tiny for tiny in FAMILIES if tiny not in EXPORTED], ids=lambda tiny: tiny.family)
def test_families_whose_tensors_are_written_nowhere_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    pack = pack_of(write_hf(tmp_path / "s", tiny), tmp_path / "pack")
    for place, wish in ((tmp_path / "e.gguf", GGUF), (tmp_path / "e", FOLDER)):
        with pytest.raises(
            UnsupportedModel,
            match=f"'{tiny.family}' is not exported; llama, mistral, qwen2, qwen3, mixtral, qwen3_moe are",
        ):
            write_export(pack, place, wish)
        assert not place.exists()


def test_splits_become_one_file(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "s.gguf", Tiny(), "q8_0", splits=3)
    made = write_export(pack_of(source, tmp_path / "pack"), tmp_path / "e.gguf", GGUF)
    assert not [key for key in metadata_of(made.path) if key.startswith("split.")]
    assert same_bits(gguf_weights(made.path, Tiny()), gguf_weights(source, Tiny()))


def test_a_pack_from_before_metadata_were_kept_is_exported_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_gguf(tmp_path / "s.gguf", Tiny(), "q8_0")
    monkeypatch.setattr("pintpot.packer.pack._save_small_files", _without_metadata)
    folder = pack_of(source, tmp_path / "pack")
    assert not (folder / METADATA).exists()
    made = write_export(folder, tmp_path / "e.gguf", GGUF)
    came, went = metadata_of(source), metadata_of(made.path)
    assert {key: value for key, value in came.items() if went.get(key) != value} == {}


def _without_metadata(model: object, draft: Path) -> tuple[str, ...]:
    from pintpot.packer.pack import tokenizer_of
    from pintpot.packer.raw import TOKENIZER_FILES

    tokenizer_of(model).save(draft)  # type: ignore[arg-type]
    return TOKENIZER_FILES


# --- Hugging Face -> pack -> GGUF: heads change their order ---------------------------------------------------------


@pytest.mark.parametrize("tiny", EXPORTED, ids=[tiny.family + tiny.rope for tiny in EXPORTED])
def test_a_folder_becomes_a_gguf_file_with_the_same_weights(tiny: Tiny, tmp_path: Path) -> None:
    folder = pack_of(write_hf(tmp_path / "s", tiny), tmp_path / "pack")
    made = write_export(folder, tmp_path / "e.gguf", GGUF)
    assert same_bits(gguf_weights(made.path, tiny), hf_weights(tiny))
    theirs = write_gguf(tmp_path / "theirs.gguf", tiny, "f32")
    expected, went = metadata_of(theirs), metadata_of(made.path)
    named = {"general.name"}
    assert {key: (value, went.get(key)) for key, value in expected.items() if went.get(key) != value}.keys() <= named
    ours, their = tensors_of(made.path), tensors_of(theirs)
    assert set(ours) == set(their)
    for name, tensor in their.items():
        np.testing.assert_allclose(ours[name].data, tensor.data, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("rope", ["linear", "yarn"])
def test_scaled_positions_are_told(rope: str, tmp_path: Path) -> None:
    source = write_hf(tmp_path / "s", Tiny(rope=rope))
    made = write_export(pack_of(source, tmp_path / "pack"), tmp_path / "e.gguf", GGUF)
    due, found = (describe(str(path)).parts[0].config["rope_scaling"] for path in (source, made.path))
    assert found == due


# --- Formats that GGUF has not ---------------------------------------------------------------------------------------


def rounded(source: Path, folder: Path, bits: int, minimum: bool = False) -> Path:
    """A pack rounded to so many bits, however few."""
    model = describe(str(source))
    workload = Workload(context=128, batch=1, prompt=32, output=32)
    budget = Budget(4_000_000_000, workload, degradation=1e9, threads=1, below_4_bits=True)
    steps = (RoundToNearest("all", bits, minimum), PrefillChunk(tokens=16))
    return write_pack(model, assess(Question(model, MACHINE, budget, FREE), steps), folder)


@pytest.mark.parametrize("minimum", [False, True], ids=["sym", "aff"])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
def test_codes_are_kept_where_a_type_holds_them(bits: int, minimum: bool, tmp_path: Path) -> None:
    name = f"{'aff' if minimum else 'sym'}{bits}"
    folder = rounded(write_hf(tmp_path / "s"), tmp_path / "pack", bits, minimum)
    made = write_export(folder, tmp_path / "e.gguf", GGUF)
    found, weights = gguf_weights(made.path, Tiny()), hf_weights(Tiny())
    worst = 0.0
    for key, value in weights.items():
        if value.ndim == 1:
            assert np.array_equal(found[key], value)
            continue
        due = unpack(encode(value, name), name, *value.shape)
        worst = max(worst, float(np.abs(found[key] - due).max() / np.abs(due).max()))
    if name in HELD_BY:
        assert worst == 0.0
        assert made.notes == ()
        assert {share.dtype for share in made.types} == {HELD_BY[name], "f32"}
    else:
        assert 0.0 < worst < 0.01
        assert "rounded to Q8_0" in made.notes[0]
    exact = write_export(folder, tmp_path / "f32.gguf", Wish("gguf", "f32"))
    assert exact.notes == ()


def test_rows_without_whole_blocks_become_floats(tmp_path: Path) -> None:
    tiny = Tiny(intermediate=104)
    folder = rounded(write_hf(tmp_path / "s", tiny), tmp_path / "pack", 4)
    made = write_export(folder, tmp_path / "e.gguf", GGUF)
    types = {name: tensor.tensor_type.name for name, tensor in tensors_of(made.path).items()}
    assert types["blk.0.ffn_down.weight"] == "F16"
    assert types["blk.0.ffn_up.weight"] == "Q4_0"
    assert "rounded to F16" in made.notes[0]


EVERY = ("sym4", "aff6", "nf4", "mxfp4", "sym8", "nvfp4", "aff3", "f16", "nf4_32", "aff5", "bf16", "sym5")
CALIBRATED = (RoundToNearest("all", 4), Gptq())


def every_format(source: Path) -> tuple[Step, ...]:
    names = [w.name for w in describe(str(source)).part("language").weights() if len(w.shape) == 2]
    return (Mixed("all", write_formats({name: EVERY[at % len(EVERY)] for at, name in enumerate(names)})),)


@pytest.mark.parametrize("way", ["mixed", "calibrated"])
def test_others_compute_from_the_file_what_the_pack_computes(way: str, tmp_path: Path) -> None:
    source = write_hf(tmp_path / "s")
    steps = every_format(source) if way == "mixed" else CALIBRATED
    model = describe(str(source))
    plan = plan_of(model, (*steps, PrefillChunk(tokens=16)), change=f32_cache)
    pack = write_pack(model, plan, tmp_path / "pack", texts=[list(range(3, 60))] * 8)
    with opened(pack) as session:
        list(session.engine.generate(Request(tuple(TOKENS[0]), 1, Sampling(temperature=0.0), (), True), frozenset()))
        mine = session.engine.stage("prefill").floats("logits")[0].copy()
    exact = write_export(pack, tmp_path / "f32.gguf", Wish("gguf", "f32"))
    assert exact.notes == ()
    theirs = logits(torch_model_of_gguf(exact.path, Tiny()))[0, -1]
    np.testing.assert_allclose(mine, theirs, atol=2e-5 * float(np.abs(theirs).max()))
    wider = write_export(pack, tmp_path / "e.gguf", GGUF)
    types = {share.dtype for share in wider.types}
    if way == "mixed":
        assert types >= {"q4_0", "mxfp4", "q8_0", "q4_1", "f16", "q5_1", "bf16", "q5_0"}
        assert "aff6 and nf4 and nf4_32 and nvfp4 were rounded to Q8_0" in " ".join(wider.notes)
        error = float(np.abs(logits(torch_model_of_gguf(wider.path, Tiny()))[0, -1] - theirs).max())
        assert 0 < error < 0.02 * float(np.abs(theirs).max())
    else:
        assert types == {"q4_0", "f32"}
        assert wider.notes == ()
    folder = write_export(pack, tmp_path / "folder", FOLDER)
    np.testing.assert_allclose(logits(torch_model(folder.path))[0, -1], theirs, atol=2e-5 * float(np.abs(theirs).max()))


def test_superblocks_that_were_rounded_here_go_as_such_blocks(tmp_path: Path) -> None:
    model = describe(str(write_hf(tmp_path / "s", K_QUANT)))
    names = [w.name for w in model.part("language").weights() if len(w.shape) == 2]
    mixed = Mixed("all", write_formats({name: ("q4_k", "q6_k")[at % 2] for at, name in enumerate(names)}))
    plan = plan_of(model, (mixed, Gptq(), PrefillChunk(tokens=16)), change=f32_cache)
    pack = write_pack(model, plan, tmp_path / "pack", texts=[list(range(3, 60))] * 8)
    with opened(pack) as session:
        list(session.engine.generate(Request(tuple(TOKENS[0]), 1, Sampling(temperature=0.0), (), True), frozenset()))
        mine = session.engine.stage("prefill").floats("logits")[0].copy()
    made = write_export(pack, tmp_path / "e.gguf", GGUF)
    assert {share.dtype for share in made.types} == {"q4_k", "q6_k", "f32"}
    assert made.notes == ()
    theirs = logits(torch_model_of_gguf(made.path, K_QUANT))[0, -1]
    np.testing.assert_allclose(mine, theirs, atol=2e-5 * float(np.abs(theirs).max()))


# --- Safetensors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tiny", EXPORTED, ids=[tiny.family + tiny.rope for tiny in EXPORTED])
def test_a_gguf_file_becomes_a_folder_that_transformers_loads(tiny: Tiny, tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "s.gguf", tiny, "q4_1")
    made = write_export(pack_of(source, tmp_path / "pack"), tmp_path / "e", FOLDER)
    due = gguf_weights(source, tiny)
    assert same_bits(load_file(made.path / "model.safetensors"), due)
    np.testing.assert_allclose(
        logits(torch_model(made.path)), logits(torch_model_of_gguf(source, tiny)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("tiny", EXPORTED, ids=[tiny.family + tiny.rope for tiny in EXPORTED])
def test_a_folder_comes_back_as_it_was(tiny: Tiny, tmp_path: Path) -> None:
    source = write_hf(tmp_path / "s", tiny)
    made = write_export(pack_of(source, tmp_path / "pack"), tmp_path / "e", FOLDER)
    assert same_bits(load_file(made.path / "model.safetensors"), hf_weights(tiny))
    one, other = (describe(str(path)).parts[0].config for path in (source, made.path))
    assert one == other
    np.testing.assert_array_equal(logits(torch_model(made.path)), logits(torch_model(source)))
    assert describe(str(source)).chat_template == describe(str(made.path)).chat_template


@pytest.mark.parametrize(("dtype", "loses"), [("f16", False), ("bf16", True)])
def test_floats_of_16_bits_are_the_nearest(dtype: str, loses: bool, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file as load

    folder = pack_of(write_hf(tmp_path / "s"), tmp_path / "pack")
    made = write_export(folder, tmp_path / "e", Wish("safetensors", dtype))  # type: ignore[arg-type]
    kind = {"f16": torch.float16, "bf16": torch.bfloat16}[dtype]
    for name, value in load(made.path / "model.safetensors").items():
        assert torch.equal(value, torch.from_numpy(hf_weights(Tiny())[name]).to(kind)), name
    assert json.loads((made.path / "config.json").read_text())["torch_dtype"] == str(kind).removeprefix("torch.")
    # The weights were drawn in half precision.
    assert [f"rounded to {dtype.upper()}" in note for note in made.notes] == [True] * loses


def test_a_large_model_comes_in_several_files(tmp_path: Path) -> None:
    folder = pack_of(write_hf(tmp_path / "s"), tmp_path / "pack")
    made = write_export(folder, tmp_path / "e", Wish("safetensors", shard_bytes=120_000))
    files = sorted(path.name for path in made.path.glob("*.safetensors"))
    assert len(files) > 3
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert all((made.path / name).stat().st_size < 130_000 for name in files)
    np.testing.assert_array_equal(logits(torch_model(made.path)), logits(torch_model(tmp_path / "s")))


def test_values_too_large_for_half_precision_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    source = write_hf(tmp_path / "s")
    weights = hf_weights(Tiny())
    weights["lm_head.weight"][3, 3] = 1e6
    save_file(weights, source / "model.safetensors")
    with pytest.raises(BadInput, match="too large for f16"):
        write_export(pack_of(source, tmp_path / "pack"), tmp_path / "e", Wish("safetensors", "f16"))
    assert not (tmp_path / "e").exists()


def test_transformers_reads_the_tokenizer(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    source = write_hf(tmp_path / "s")
    made = write_export(pack_of(source, tmp_path / "pack"), tmp_path / "e", FOLDER)
    one, other = (AutoTokenizer.from_pretrained(path) for path in (source, made.path))
    text = "Once upon a time there was 1 reader, who counted 2026 bytes twice."
    assert one(text).input_ids == other(text).input_ids
    chat = [{"role": "user", "content": text}]
    assert one.apply_chat_template(chat, tokenize=False) == other.apply_chat_template(chat, tokenize=False)
    assert (one.bos_token_id, one.eos_token_id) == (other.bos_token_id, other.eos_token_id)

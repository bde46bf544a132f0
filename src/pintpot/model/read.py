"""From a path or a hub id to a Model, from headers alone."""

from __future__ import annotations

import hashlib
import json
import re
from functools import partial
from pathlib import Path
from typing import Any, Final

from pintpot.errors import BadFile, BadInput, NoFamily, UnsupportedModel, need
from pintpot.model.adapted import DESCRIPTION, describe_adapted
from pintpot.model.config import language_config, normalize
from pintpot.model.config_gguf import normalize_gguf
from pintpot.model.config_sections import given_layers
from pintpot.model.experts import put_together
from pintpot.model.fields import token_ids
from pintpot.model.fused import taken_apart
from pintpot.model.gguf import MAGIC, Gguf, GgufArray, open_gguf
from pintpot.model.joined import PARTS, joined, parts_of
from pintpot.model.merged import base_of, is_adapter, merged, named_with
from pintpot.model.merges import count_merges
from pintpot.model.names import blocks_of, canonical_gguf, canonical_hf, canonical_weights, plus_of
from pintpot.model.safetensors import parse_safetensors, read_index
from pintpot.model.shapes import check_shapes
from pintpot.model.source import Folder, LocalFile, LocalFolder, parse_json
from pintpot.model.spec import Model, Part, Source, TokenizerInfo, Weight
from pintpot.model.tokens.memory import most_merges

_INDEX: Final = "model.safetensors.index.json"
_SINGLE: Final = "model.safetensors"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[\w./-]+\.gguf)?(@[\w.-]+)?")
_TOKENIZER_TYPE = re.compile(rb'"model"\s*:\s*\{\s*"type"\s*:\s*"(\w+)"')
_TOKENIZER_HEAD_BYTES = 64 * 1024
_GGUF_TOKENIZERS: Final = {"gpt2": "bpe", "llama": "spm"}


def describe(path_or_id: str, *, offline: bool | None = None) -> Model:
    """The model at a path (a GGUF file, a Hugging Face folder) or under a hub id (`org/name`, `org/name:file.gguf`).

    A folder of adapters is their model with them merged into its weights; `model+folder` names both. A path that exists
    wins over an id. `offline` keeps to the hub's local cache; None follows HF_HUB_OFFLINE. Raises BadInput, BadFile or
    UnsupportedModel saying what is wrong with it.
    """
    path = Path(path_or_id).expanduser()
    if path.is_dir():
        return _with_adapters(base_of(path), path, offline) if is_adapter(path) else _describe_directory(path)
    if path.exists():
        return _describe_file(path)
    if both := named_with(path_or_id):
        return _with_adapters(*both, offline)
    if not HUB_ID.fullmatch(path_or_id):
        raise BadInput(f"{path_or_id}: no such file or folder, and no hub id (org/name) either")
    from pintpot.model.hub import describe_hub

    return describe_hub(path_or_id, offline=offline)


def _with_adapters(base: str, folder: Path, offline: bool | None) -> Model:
    try:
        return merged(describe(base, offline=offline), folder)
    except NoFamily as error:
        raise UnsupportedModel(f"{folder.name}: adapters are merged into native families only; {error}") from error


def _describe_directory(path: Path) -> Model:
    folder = LocalFolder(path)
    names = folder.names()
    if DESCRIPTION in names:
        return describe_adapted(path)
    if PARTS in names:
        return joined(path, {name: describe(str(place), offline=True) for name, place in parts_of(path).items()})
    if "config.json" in names:
        return describe_folder(folder, Source("hf", str(path.resolve()), ()), folder.name)
    firsts = sorted(name for name in names if name.endswith(".gguf") and not re.search(r"-(?!00001)\d{5}-of-", name))
    if len(firsts) == 1:
        return _describe_file(path / firsts[0])
    if firsts:
        raise BadInput(f"{path} holds {len(firsts)} GGUF models; name one: {', '.join(firsts[:6])}")
    some = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
    found = f"; it holds {some}" if some else "; it is empty"
    raise BadInput(f"{path} is no model: a model's folder has a config.json or a .gguf file{found}")


def _describe_file(path: Path) -> Model:
    source = LocalFile(path)
    need(path.is_file(), f"{path} is no GGUF file: it is neither a file nor a folder")
    start = source.read(0, min(4, source.size))
    if start != MAGIC and path.suffix != ".gguf":
        hint = "; give the folder that it lies in" if path.suffix in (".safetensors", ".json") else ""
        found = f"it begins with {start!r}, not with {MAGIC!r}" if start else "it is empty"
        raise BadInput(f"{path} is no GGUF file: {found}{hint}")
    gguf = open_gguf(path)
    # Not resolved: in the hub's cache a file is a link to a blob without its name.
    first = path.absolute().with_name(gguf.sources[0].name)
    return describe_gguf(gguf, Source("gguf", str(first), tuple(str(first.with_name(s.name)) for s in gguf.sources)))


def describe_gguf(gguf: Gguf, source: Source) -> Model:
    """The model of a parsed GGUF header; `source` says where its files are, in the order of `gguf.sources`."""
    where = gguf.sources[0].name
    config = normalize_gguf(gguf)
    weights = canonical_weights(gguf.tensors, partial(canonical_gguf, family=config["model_type"]), where)
    words, merges = (gguf.metadata.get(f"tokenizer.ggml.{key}") for key in ("tokens", "merges"))
    kind = gguf.metadata.get("tokenizer.ggml.model")
    if not isinstance(words, GgufArray) or not isinstance(kind, str):
        raise BadFile(f"{where}: there is no tokenizer in it (tokenizer.ggml.model and tokenizer.ggml.tokens)")
    num_words = config["vocab_size"]
    need(words.count <= num_words, f"{where}: the tokenizer has {words.count} words, the model {num_words}", BadFile)
    num_merges = merges.count if isinstance(merges, GgufArray) else most_merges(words.count)
    num_bytes = words.num_bytes + (merges.num_bytes if isinstance(merges, GgufArray) else 0)
    tokenizer = TokenizerInfo(_GGUF_TOKENIZERS.get(kind, kind), words.count, num_merges, num_bytes)
    template = gguf.metadata.get("tokenizer.chat_template")
    name = gguf.metadata.get("general.name")
    return _model(
        name if isinstance(name, str) and name else Path(where).stem, "llm", config, weights, source, tokenizer,
        template if isinstance(template, str) else None, where,
    )  # fmt: skip


def describe_folder(folder: Folder, source: Source, name: str) -> Model:
    """The model of a Hugging Face folder, here or on the hub. `source.files` is filled with the weights' files: full
    paths for a local folder, plain names otherwise."""
    where = f"{folder.name}/config.json"
    raw = parse_json(_needed(folder, "config.json"), where)
    config = normalize(raw, where)
    config["eos_token_id"] = _end_ids(folder, config)
    tensors, files = checkpoint(folder)
    inner, _ = language_config(raw, where)
    config |= given_layers(raw, where)
    other_parts = inner is not raw or "vision_config" in raw
    family = config["model_type"]
    canonical, plus = partial(canonical_hf, family=family), plus_of(family)
    weights = canonical_weights(tensors, canonical, folder.name, other_parts=other_parts, plus=plus)
    if config["tie_word_embeddings"]:
        weights.pop("head", None)
    config["tie_word_embeddings"] = "head" not in weights
    at = [str(Path(source.path) / file) for file in files] if source.kind == "hf" else files
    placed = Source(source.kind, source.path, tuple(at))
    tokenizer = _tokenizer(folder, config["vocab_size"], local=source.kind == "hf")
    kind = "vlm" if other_parts else "llm"
    return _model(name, kind, config, weights, placed, tokenizer, _chat_template(folder), folder.name)


def _model(
    name: str, kind: str, config: dict[str, Any], weights: dict[str, Weight], source: Source, tokenizer: TokenizerInfo,
    chat_template: str | None, where: str,
) -> Model:  # fmt: skip
    weights = taken_apart(put_together(weights, config, where), config, where)
    check_shapes(weights, config, where)
    blocks = blocks_of(weights, config["num_hidden_layers"])
    ties = (("head", "embed"),) if "head" not in weights else ()
    part = Part("language", config["model_type"], config, blocks)
    table = [
        [w.name, w.shape, w.dtype, w.file, w.offset, w.num_bytes, *w.runs] for block in blocks for w in block.weights
    ]
    digest = hashlib.sha256(json.dumps([config, ties, table], sort_keys=True).encode()).hexdigest()[:16]
    return Model(name, kind, (part,), ties, _context(config), source, tokenizer, digest, chat_template)


def _context(config: dict[str, Any]) -> int:
    """The positions that run here: past its original ones LongRoPE takes other factors, which would turn old keys."""
    scaling, most = config["rope_scaling"] or {}, config["max_position_embeddings"]
    longer = scaling.get("rope_type") == "longrope"
    return int(min(most, scaling["original_max_position_embeddings"]) if longer else most)


def _needed(folder: Folder, name: str) -> str:
    text = folder.text(name)
    if text is None:
        raise BadInput(f"{folder.name}: there is no {name} in it")
    return text


def checkpoint(folder: Folder) -> tuple[list[Weight], list[str]]:
    """All tensors under their own names, and the files that hold them."""
    names = folder.names()
    if _INDEX not in names:
        if _SINGLE not in names:
            others = sorted(name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt", ".h5")))
            hint = f"; {others[0]} is not read, convert it to safetensors" if others else ""
            raise BadInput(f"{folder.name}: there is neither {_SINGLE} nor {_INDEX}{hint}")
        return list(parse_safetensors(folder.open(_SINGLE))), [_SINGLE]
    weight_map = read_index(_needed(folder, _INDEX), _INDEX)
    files = sorted(set(weight_map.values()))
    missing = [file for file in files if file not in names]
    listed = ", ".join(missing[:4]) + (", ..." if len(missing) > 4 else "")
    need(not missing, f"{folder.name}: {len(missing)} of {len(files)} files are not there: {listed}", BadInput)
    tensors = []
    for number, file in enumerate(files):
        tensors += [t for t in parse_safetensors(folder.open(file), number) if weight_map.get(t.name) == file]
    lost = sorted(set(weight_map) - {tensor.name for tensor in tensors})
    need(not lost, f"{folder.name}: {_INDEX} promises {len(lost)} tensors that its files lack: {lost[:4]}", BadFile)
    return tensors, files


def _end_ids(folder: Folder, config: dict[str, Any]) -> list[int]:
    """The ids that end an answer: those of config.json and of generation_config.json."""
    text = folder.text("generation_config.json")
    more = parse_json(text, f"{folder.name}/generation_config.json").get("eos_token_id") if text is not None else None
    listed = more if isinstance(more, list) else [more]
    return token_ids([*config["eos_token_id"], *listed], config["vocab_size"])


def _tokenizer(folder: Folder, vocab_size: int, local: bool) -> TokenizerInfo:
    """Kind and size of the tokenizer, from its first 64 kB; merges are counted where it is here, assumed elsewhere."""
    names = folder.names()
    if "tokenizer.json" not in names and "tokenizer.model" in names:
        return TokenizerInfo("spm", vocab_size, most_merges(vocab_size), folder.open("tokenizer.model").size)
    if "tokenizer.json" not in names:
        raise BadInput(f"{folder.name}: there is no tokenizer in it, neither tokenizer.json nor tokenizer.model")
    source = folder.open("tokenizer.json")
    need(source.size > 0, f"{folder.name}: tokenizer.json is empty", BadFile)
    start = source.read(0, min(_TOKENIZER_HEAD_BYTES, source.size))
    found = _TOKENIZER_TYPE.search(start)
    kind = found[1].decode().lower() if found else "bpe"
    if kind not in ("bpe", "unigram"):
        raise UnsupportedModel(f"{folder.name}: a tokenizer of type {kind!r} is not read here; BPE and Unigram are")
    counted = count_merges(source) if local and kind == "bpe" else None
    assumed = vocab_size if kind == "bpe" else 0
    return TokenizerInfo(kind, vocab_size, assumed if counted is None else max(assumed, counted), source.size)


def _chat_template(folder: Folder) -> str | None:
    """The chat template: its own file where there is one, else what tokenizer_config.json holds."""
    own = folder.text("chat_template.jinja")
    if own is not None:
        return own
    text = folder.text("tokenizer_config.json")
    found = parse_json(text, f"{folder.name}/tokenizer_config.json").get("chat_template") if text is not None else None
    if isinstance(found, list):
        named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
        found = named.get("default") or next(iter(named.values()), None)
    return found if isinstance(found, str) else None

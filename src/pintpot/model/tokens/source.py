"""Where a tokenizer comes from: the metadata of a GGUF file or a folder, and how it is kept in a pack's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pintpot.errors import BadFile, BadInput, need

if TYPE_CHECKING:
    from pintpot.model.gguf import Gguf

MAX_FILE_BYTES = 128 * 2**20
"""The largest published tokenizer.json has 33 MB."""


@dataclass(frozen=True, slots=True)
class TokenizerSource:
    """A tokenizer before it is loaded: `definition` is tokenizer.json, its text or the file it is in.

    `bos` and `eos` are the texts that chat templates ask for (empty: none); `eos_ids` end an answer.
    """

    definition: str | Path = field(repr=False)
    bos: str
    eos: str
    eos_ids: tuple[int, ...]
    chat_template: str | None = field(default=None, repr=False)

    def text(self) -> str:
        """The definition's text."""
        return _read_text(self.definition) if isinstance(self.definition, Path) else self.definition

    def save(self, folder: Path) -> None:
        """Write it as a Hugging Face folder has it, the merges in the form that takes least memory to load."""
        settings = {"bos_token": self.bos or None, "eos_token": self.eos or None, "chat_template": self.chat_template}
        (folder / "tokenizer.json").write_text(compact(self.text()), encoding="utf-8")
        _write_json(folder / "tokenizer_config.json", settings)
        _write_json(folder / "generation_config.json", {"eos_token_id": list(self.eos_ids)})


def from_metadata(metadata: Mapping[str, Any]) -> TokenizerSource:
    """The tokenizer in GGUF metadata. Raises UnsupportedModel or BadFile, as `build_tokenizer_json` does."""
    from pintpot.model.tokens.build import build_with
    from pintpot.model.tokens.vocabulary import end_ids, read_vocabulary

    vocabulary = read_vocabulary(metadata)
    template = metadata.get("tokenizer.chat_template")
    need(template is None or isinstance(template, str), "tokenizer.chat_template is not a text", BadFile)
    bos, eos = ("" if index is None else vocabulary.tokens[index] for index in (vocabulary.bos, vocabulary.eos))
    return TokenizerSource(build_with(metadata, vocabulary), bos, eos, end_ids(metadata, vocabulary), template or None)


def from_gguf(gguf: Gguf) -> TokenizerSource:
    """The tokenizer in a GGUF file whose header was read; its lists are read now. Raises as `from_metadata` does."""
    return from_metadata(gguf.tokenizer_metadata())


def from_folder(folder: Path) -> TokenizerSource:
    """The tokenizer of a Hugging Face folder: tokenizer.json as it is, or else tokenizer.model (SentencePiece).

    Raises BadInput when there is neither, and BadFile or UnsupportedModel when what is there cannot be used.
    """
    settings = _read_object(folder / "tokenizer_config.json")
    template = _chat_template(folder, settings)
    if (folder / "tokenizer.json").is_file():
        bos, eos = (_token_text(settings, name) for name in ("bos_token", "eos_token"))
        return TokenizerSource(folder / "tokenizer.json", bos, eos, _eos_ids(folder), template)
    model = folder / "tokenizer.model"
    need(model.is_file(), f"no tokenizer in {folder}: neither tokenizer.json nor tokenizer.model (SentencePiece)")
    from pintpot.model.tokens.protobuf import sentencepiece_metadata

    metadata = sentencepiece_metadata(_read_bytes(model))
    for name in ("add_bos_token", "add_eos_token"):
        if isinstance(settings.get(name), bool):
            metadata[f"tokenizer.ggml.{name}"] = settings[name]
    built = from_metadata(metadata)
    ends = tuple(sorted({*built.eos_ids, *_eos_ids(folder)}))
    return TokenizerSource(built.definition, built.bos, built.eos, ends, template)


def read_definition(definition: str | Path) -> bytes:
    """The bytes of a tokenizer.json given as text or as its file. Raises BadFile when the text is not Unicode."""
    try:
        return _read_bytes(definition) if isinstance(definition, Path) else definition.encode()
    except UnicodeEncodeError as error:
        raise BadFile("tokenizer.json holds a lone surrogate") from error


def compact(text: str) -> str:
    """The same tokenizer.json with merges as "left right" strings and without padding or truncation.

    Merges written as lists of two take twice the memory and a third more time to load.
    """
    document = _parse(text, "tokenizer.json")
    model = document.get("model")
    if not isinstance(model, dict):
        raise BadFile("tokenizer.json has no model")
    merges = model.get("merges")
    if isinstance(merges, list) and merges and all(_is_plain_pair(merge) for merge in merges):
        model["merges"] = [f"{left} {right}" for left, right in merges]
    document["truncation"] = document["padding"] = None
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def _is_plain_pair(merge: Any) -> bool:
    return (
        isinstance(merge, list) and len(merge) == 2 and all(isinstance(half, str) and " " not in half for half in merge)
    )


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """chat_template.jinja, or the entry of tokenizer_config.json: a text, or named ones of which "default" counts."""
    if (folder / "chat_template.jinja").is_file():
        return _read_text(folder / "chat_template.jinja")
    given = settings.get("chat_template")
    if isinstance(given, list):
        named = {entry.get("name"): entry.get("template") for entry in given if isinstance(entry, dict)}
        given = named.get("default") or next(iter(named.values()), None)
    need(given is None or isinstance(given, str), "chat_template in tokenizer_config.json is not a text", BadFile)
    return given or None


def _token_text(settings: Mapping[str, Any], name: str) -> str:
    given = settings.get(name)
    text = given.get("content") if isinstance(given, dict) else given
    need(text is None or isinstance(text, str), f"{name} in tokenizer_config.json is not a text", BadFile)
    return text or ""


def _eos_ids(folder: Path) -> tuple[int, ...]:
    """Ids of generation_config.json, or else of config.json (a vision-language one keeps them in text_config)."""
    config = _read_object(folder / "config.json")
    inner = config.get("text_config")
    places = (_read_object(folder / "generation_config.json"), config, inner if isinstance(inner, dict) else {})
    for place in places:
        given = place.get("eos_token_id")
        if given is not None:
            ids = given if isinstance(given, list) else [given]
            good = all(isinstance(index, int) and not isinstance(index, bool) and index >= 0 for index in ids)
            need(good, f"eos_token_id is {given!r:.60}, not a number or a list of numbers", BadFile)
            return tuple(sorted(set(ids)))
    return ()


def _read_object(path: Path) -> dict[str, Any]:
    return _parse(_read_text(path), path.name) if path.is_file() else {}


def _parse(text: str, name: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadFile(f"{name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadFile(f"{name} is not a JSON object")
    return value


def _read_text(path: Path) -> str:
    try:
        return _read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise BadFile(f"{path} is not UTF-8") from error


def _read_bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        need(size <= MAX_FILE_BYTES, f"{path} has {size} bytes; a tokenizer has at most {MAX_FILE_BYTES}", BadFile)
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps({key: item for key, item in value.items() if item is not None}), encoding="utf-8")

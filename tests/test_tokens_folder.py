"""Tokenizers read from folders, kept and loaded: what a folder may hold, what is damaged, and what loading costs."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import DEFAULT, Tiny, write_gguf, write_tokenizer
from tokens_data import mistral_models, smollm2, vocabulary, wikipedia

from pintpot.errors import BadFile, BadInput, PintpotError
from pintpot.model.gguf import open_gguf
from pintpot.model.tokens import Tokenizer, from_folder, from_gguf
from pintpot.model.tokens.memory import estimated_bytes, kept_bytes


def test_a_hugging_face_folder_is_read_kept_and_read_again(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, DEFAULT)
    source = from_folder(tmp_path)
    assert source.definition == tmp_path / "tokenizer.json"
    assert source.eos_ids == (0, 2)
    assert source.chat_template
    kept = tmp_path / "kept"
    kept.mkdir()
    source.save(kept)
    again = from_folder(kept)
    assert (again.bos, again.eos, again.eos_ids, again.chat_template) == (
        source.bos,
        source.eos,
        source.eos_ids,
        source.chat_template,
    )
    ours, theirs = Tokenizer.load(again), Tokenizer.load(source)
    for text in wikipedia(2000)[::50]:
        assert ours.encode(text) == theirs.encode(text)


@pytest.mark.parametrize("kind", ["smollm", "llama-bpe", "qwen2"])
def test_a_gguf_file_gives_what_its_tokenizer_json_gives(kind: str, tmp_path: Path) -> None:
    tiny = Tiny(pre=kind)
    write_tokenizer(tmp_path, tiny)
    ours = Tokenizer.load(from_gguf(open_gguf(write_gguf(tmp_path / "m.gguf", tiny))))
    theirs = Tokenizer.load(from_folder(tmp_path))
    for text in wikipedia(2000)[::50]:
        assert ours.encode(text, add_special=False) == theirs.encode(text, add_special=False)


def test_a_folder_with_only_a_sentencepiece_model(tmp_path: Path) -> None:
    import sentencepiece

    model = mistral_models()[0]
    (tmp_path / "tokenizer.model").write_bytes(model.read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": false, "chat_template": "x"}')
    source = from_folder(tmp_path)
    theirs = sentencepiece.SentencePieceProcessor(str(model))
    assert Tokenizer.load(source).encode("Hello world") == theirs.encode("Hello world")
    assert (source.bos, source.eos, source.eos_ids, source.chat_template) == ("<s>", "</s>", (2,), "x")


def test_places_of_the_chat_template(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, DEFAULT)
    config = tmp_path / "tokenizer_config.json"
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    for given, expected in ((named, "D"), (named[:1], "T"), ("S", "S"), ("", None), (None, None), ([], None)):
        config.write_text(json.dumps({"chat_template": given, "bos_token": {"content": "<b>"}}))
        assert from_folder(tmp_path).chat_template == expected
    assert from_folder(tmp_path).bos == "<b>"
    (tmp_path / "chat_template.jinja").write_text("J")
    assert from_folder(tmp_path).chat_template == "J"


def test_folders_without_a_usable_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no tokenizer in"):
        from_folder(tmp_path)
    for text in ("", "{", "[]", "{}", "[" * 100_000, '{"model": {"type": "BPE"}}', '{"model": null}', "\x00"):
        (tmp_path / "tokenizer.json").write_text(text)
        with pytest.raises(BadFile):
            Tokenizer.load(from_folder(tmp_path))
        if text != '{"model": {"type": "BPE"}}':
            with pytest.raises(BadFile):
                from_folder(tmp_path).save(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(BadFile):
        Tokenizer.load(from_folder(tmp_path))
    write_tokenizer(tmp_path, DEFAULT)
    for name, text in (
        ("generation_config.json", '{"eos_token_id": "x"}'),
        ("generation_config.json", '{"eos_token_id": [-1]}'),
        ("tokenizer_config.json", '{"chat_template": 5}'),
        ("tokenizer_config.json", '{"bos_token": 5}'),
    ):
        before = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text)
        with pytest.raises(BadFile):
            from_folder(tmp_path)
        (tmp_path / name).write_text(before)


def test_a_damaged_tokenizer_json_is_refused_or_loaded_never_worse(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, DEFAULT)
    text = (tmp_path / "tokenizer.json").read_text()
    draws = random.Random(1)
    refused = 0
    for _ in range(150):
        place = draws.randrange(len(text) // 4 if draws.random() < 0.5 else len(text))
        damaged = (
            text[:place]
            + draws.choice(("", "0", '"', "}", "]", "-1", "null", "\x00", "é"))
            + text[place + draws.randint(0, 3) :]
        )
        try:
            Tokenizer.from_json(damaged).encode("Hello <|im_end|> world 123")
        except PintpotError:
            refused += 1
    assert refused > 50


_LOAD = """
import re, sys
def status(key): return int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
import ctypes
from pathlib import Path
from pintpot.model.tokens import Tokenizer
heavy = {"tokenizers", "jinja2", "numpy", "huggingface_hub"} & set(sys.modules)
assert not heavy, heavy
ctypes.CDLL(None).malloc_trim(0)
before = status("VmRSS")
loaded = Tokenizer.from_json(Path(sys.argv[1]))
print(status("VmHWM") - before, status("VmRSS") - before)
"""


@pytest.mark.parametrize("name", ["smollm2", "llama-spm", "llama-bpe", "qwen2"])
def test_memory_of_loading_is_within_the_estimate(name: str, tmp_path: Path) -> None:
    source = from_gguf(open_gguf(smollm2() if name == "smollm2" else vocabulary(name)))
    source.save(tmp_path)
    model = json.loads(source.text())["model"]
    command = [sys.executable, "-c", _LOAD, str(tmp_path / "tokenizer.json")]
    peak, kept = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    size = len(model["vocab"]), len(model["merges"])
    low, high = estimated_bytes(*size)
    assert low <= peak <= high
    kept_low, kept_high = kept_bytes(*size)
    assert kept_low <= kept <= kept_high
    assert estimated_bytes(size[0])[0] <= peak <= estimated_bytes(size[0])[1]
    if name == "smollm2":
        assert peak <= 30_000_000

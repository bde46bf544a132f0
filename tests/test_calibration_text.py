"""The text that weights are calibrated on by default: long enough for every vocabulary, clean, varied, never padded."""

from __future__ import annotations

import lzma
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest
import regex

from pintpot.model.gguf import open_gguf
from pintpot.model.tokens import Tokenizer, from_gguf

WINDOWS = 8
SCRIPTS = {
    "Latin": 60_000, "Cyrillic": 900, "Han": 500, "Hiragana": 250, "Hangul": 100, "Arabic": 500, "Devanagari": 500,
}  # fmt: skip
CODE = {
    "Python": r"^def \w+\(", "C": r"^#include <", "JavaScript": r"\bconst \w+ = ", "SQL": r"^SELECT ",
    "shell": r"^set -euo pipefail$", "Rust": r"^ +let mut ", "JSON": r'^  "\w+": ', "table": r"^\|[-:| ]+\|$",
    "log": r"^\d{4}-\d\d-\d\dT[\d:.]+Z (INFO|WARN|ERROR) ", "list": r"^\d\. ", "markdown": r"^## ",
    "chat": r"^User: ", "proof": r"^Proof",
}  # fmt: skip
# The coarsest of the cuts that published tokenizers make before any vocabulary is looked at; no token crosses one.
_WORD = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
PIECES = rf"{_WORD}*{_LOWER}+|{_WORD}+{_LOWER}*|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@pytest.fixture(scope="module")
def raw() -> bytes:
    return files("pintpot.packer").joinpath("calibrate/text.txt").read_bytes()


@pytest.fixture(scope="module")
def text(raw: bytes) -> str:
    return raw.decode("utf-8")


def test_tokens_of_a_small_vocabulary(text: str, smollm2: Path) -> None:
    tokens = Tokenizer.load(from_gguf(open_gguf(smollm2))).encode(text, add_special=False)
    assert len(tokens) >= 40_000


def test_tokens_of_any_vocabulary(text: str) -> None:
    assert len(regex.findall(PIECES, text)) >= 32_768


def test_it_is_clean(text: str) -> None:
    assert unicodedata.is_normalized("NFC", text)
    odd = {hex(ord(c)) for c in text if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Co", "Cn", "Cs")}
    assert not odd, "control characters, or characters that are none"
    assert "\ufffd" not in text
    assert "\ufeff" not in text
    assert "\n\n\n\n" not in text
    assert text.endswith(".\n")
    assert not [line for line in text.splitlines() if line.strip() and line != line.rstrip()]


def test_no_line_comes_twice(text: str) -> None:
    lines = Counter(line.strip() for line in text.splitlines())
    assert not [line for line, times in lines.items() if times > 1 and len(line) > 30]


def test_no_run_of_words_comes_twice(text: str) -> None:
    words = re.findall(r"\w+", text.lower())
    runs = Counter(zip(*(words[first:] for first in range(12)), strict=False))
    assert not [" ".join(run) for run, times in runs.items() if times > 1]


def _compressed(raw: bytes) -> int:
    return len(lzma.compress(raw, preset=9))


def _padding(raw: bytes) -> float:
    """How much smaller the whole is than its windows by themselves."""
    size = -(-len(raw) // WINDOWS)
    return _compressed(raw) / sum(_compressed(raw[first : first + size]) for first in range(0, len(raw), size))


def test_it_compresses_no_better_than_prose(raw: bytes) -> None:
    """English Wikipedia's paragraphs of the same length are compressed 2.44 times."""
    assert len(raw) / len(zlib.compress(raw, 9)) < 2.3
    size = len(raw) // WINDOWS
    windows = [raw[first : first + size] for first in range(0, len(raw) - size + 1, size)]
    assert max(len(window) / len(zlib.compress(window, 9)) for window in windows) < 2.3
    assert _padding(raw) > 0.85


@pytest.mark.parametrize("pad", [lambda raw: raw[: len(raw) // 2] * 2, lambda raw: raw[:1000] * (len(raw) // 1000)])
def test_padding_would_be_seen(raw: bytes, pad: Callable[[bytes], bytes]) -> None:
    assert _padding(pad(raw)) < 0.85


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts(text: str, script: str) -> None:
    assert len(regex.findall(rf"\p{{{script}}}", text)) >= SCRIPTS[script]


@pytest.mark.parametrize("kind", CODE)
def test_kinds(text: str, kind: str) -> None:
    assert re.search(CODE[kind], text, re.MULTILINE)


def test_every_quarter_is_mixed(text: str) -> None:
    """Whoever reads only the beginning still meets code, another language and prose."""
    size = len(text) // 4
    for first in range(0, 4 * size, size):
        quarter = text[first : first + size]
        assert sum(c in "{}()[];=<>" for c in quarter) > size / 100
        assert sum(ord(c) > 0x250 for c in quarter) > size / 200
        assert max(map(len, quarter.splitlines())) > 500

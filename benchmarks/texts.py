"""Texts that benchmarks read: the one that comes with the package, and prose of the English Wikipedia."""

from __future__ import annotations

import bz2
import html
import re
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from pintpot.errors import UsageError, need
from pintpot.model.tokens import Tokenizer

_DUMP = "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
_SHORTEST = 400
"""Characters of a paragraph; shorter lines are headings, lists and links."""


def shipped_text() -> str:
    """The text that a proof reads where nobody gives another."""
    return files("pintpot.proof").joinpath("text.txt").read_text(encoding="utf-8")


def wikipedia_dump() -> str:
    """The extract of the English Wikipedia that the package `gensim` has, as XML with wiki markup.

    Raises UsageError where the package is not here.
    """
    spec = find_spec("gensim")
    need(spec is not None, "the Wikipedia extract is not here: pip install --no-deps gensim", UsageError)
    path = Path(spec.submodule_search_locations[0]) / _DUMP  # type: ignore[union-attr,index]
    return bz2.decompress(path.read_bytes()).decode("utf-8")


def wikipedia_paragraphs(number: int) -> list[str]:
    """Paragraphs of prose without markup, evenly spread over the extract."""
    lines = wikipedia_dump().splitlines(keepends=True)
    plain = [_plain(line) for line in lines if len(line) > _SHORTEST and line[0].isupper()]
    found = [text for text in plain if len(text) > _SHORTEST]
    need(len(found) >= number, f"the extract has {len(found)} paragraphs, {number} are wanted", UsageError)
    return found[:: len(found) // number][:number]


def _plain(line: str) -> str:
    """Wiki markup as the words that a reader sees."""
    text = html.unescape(html.unescape(line.strip()))
    text = re.sub(r"<ref[^>]*/>|<ref.*?</ref>|<[^>]+>", "", text)
    for _ in range(3):
        text = re.sub(r"\{\{[^{}]*\}\}", "", text)
    text = re.sub(r"\[\[(?:[^|\]]*\|)?([^\]]*)\]\]", r"\1", text)
    text = re.sub(r"\[https?:\S+ ([^\]]*)\]", r"\1", text)
    return re.sub(r"\s+", " ", text.replace("'''", "").replace("''", "")).strip()


def token_texts(tokenizer: Tokenizer, number: int, length: int) -> list[list[int]]:
    """`number` texts of `length` tokens, half of them of the shipped text, the others of Wikipedia's paragraphs."""
    own = _pieces(tokenizer.encode(shipped_text(), add_special=False), length)[: number // 2]
    words = " ".join(wikipedia_paragraphs(3 * number * max(1, length // 200)))
    others = _pieces(tokenizer.encode(words, add_special=False), length)
    wanted = number - len(own)
    need(len(others) >= wanted, f"{len(others)} texts of {length} tokens were found, {wanted} are wanted", UsageError)
    return own + others[:: len(others) // wanted][:wanted]


def _pieces(tokens: list[int], length: int) -> list[list[int]]:
    return [tokens[first : first + length] for first in range(0, len(tokens) - length + 1, length)]

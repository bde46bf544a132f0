"""Held-out text: prose of the English Wikipedia, cleaned of markup, the same on every machine.

    python benchmarks/held_out.py                       # out/held-out-8k.txt and out/held-out-32k.txt
    python benchmarks/held_out.py --tokens 100000 -o FILE

Nothing of it is in the text that weights are calibrated on by default, nor in the one that a proof reads. Passages of
whole paragraphs, one of every article in turn, the articles in the order of their titles' digests; a shorter text is
the beginning of a longer one. Tokens are counted in SmolLM2's vocabulary. What is left of formulas, tables and
templates would be no prose: a paragraph with a rest of markup in it is left out.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from bench import OUT, smollm2, whisper
from texts import wikipedia_dump

from pintpot.errors import PintpotError, UsageError, need
from pintpot.model.gguf import open_gguf
from pintpot.model.tokens import Tokenizer, from_gguf

PASSAGE_CHARACTERS = 1500
SHORTEST_PARAGRAPH = 200
_PAGE = re.compile(r"<title>([^<]*)</title>.*?<text[^>]*>([^<]*)</text>", re.DOTALL)
_END = re.compile(r"^==\s*(?:See also|Notes|Footnotes|References|Sources|Bibliography|Further reading)\b", re.MULTILINE)
_GONE = re.compile(r"<!--.*?-->|<ref[^>]*/>|<ref.*?</ref>|<gallery.*?</gallery>|__[A-Z]+__", re.DOTALL)
_TABLE = re.compile(r"\{\|(?:(?!\{\||\|\}).)*\|\}", re.DOTALL)
_TEMPLATE = re.compile(r"\{\{([^{}]*)\}\}")
_LINK = re.compile(r"\[\[([^\[\]]*)\]\]")
_NO_TEXT = re.compile(r"\s*:?(?:file|image|category|[a-z]{2,3}):", re.IGNORECASE)
_SPOKEN = {"lang": 2, "nowrap": 1, "abbr": 1, "transl": 2, "nobr": 1, "mvar": 1}
"""Templates that show one of their arguments as it is, and which."""
_DASHES = ("ndash", "mdash", "spaced ndash", "snd", "spnd", "–", "endash", "emdash")
_REST = re.compile(
    r"\([ $£-]*[ )]|[\[\]{}<>|=\\~]|https?:|\b(?:thumb|px|ISBN)\b|\s[,;.]|[,;] *[,;.]| of [,.]|\b(a|the) [,.]"
)
_BEGINNING, _ENDING = re.compile(r"[A-Z\"“]"), re.compile(r"[.!?][\"”')]?$")


def paragraphs(markup: str) -> list[str]:
    """What of an article is prose, a paragraph each."""
    end = _END.search(markup)
    text = _GONE.sub("", markup[: end.start()] if end else markup)
    for pattern, shown in ((_TABLE, _nothing), (_TEMPLATE, _template), (_LINK, _link)):
        before = ""
        while text != before:
            before, text = text, pattern.sub(shown, text)
    text = re.sub(r"\[https?:\S+ ([^\]]*)\]", r"\1", text)
    text = re.sub(r"</?(?:small|sup|sub|i|b|em|span|div|br|nowiki|blockquote)\b[^>]*>", "", text)
    lines = (_spaced(html.unescape(line)) for line in text.replace("'''", "").replace("''", "").splitlines())
    return [line for line in lines if _is_prose(line)]


def _nothing(_: re.Match[str]) -> str:
    return ""


def _template(match: re.Match[str]) -> str:
    name, *given = (part.strip() for part in match[1].split("|"))
    plain = [part for part in given if "=" not in part]
    if name.lower() in ("convert", "cvt") and len(plain) > 1:
        return " ".join(plain[:4] if plain[1] in ("and", "to", "by", "x", "-", "or") else plain[:2])
    if name.lower() in _DASHES:
        return "–"
    place = _SPOKEN.get(name.lower(), len(plain) + 1)
    return plain[place - 1] if place <= len(plain) else ""


def _link(match: re.Match[str]) -> str:
    return "" if _NO_TEXT.match(match[1]) else match[1].rsplit("|", 1)[-1]


def _spaced(line: str) -> str:
    line = re.sub(r"\s+", " ", line).strip()
    line = re.sub(r"\(\s*[,;]*\s*\)", "", re.sub(r"\(\s*[,;]\s*", "(", line))
    return re.sub(r" +", " ", re.sub(r"\s+([,.;:)])", r"\1", line))


def _is_prose(line: str) -> bool:
    shaped = len(line) >= SHORTEST_PARAGRAPH and _BEGINNING.match(line) and _ENDING.search(line)
    return bool(shaped) and not _REST.search(line)


@cache
def passages() -> tuple[str, ...]:
    """Every passage of the extract, in the order of use. Raises UsageError where the extract is not here."""
    pages = [(title, html.unescape(markup)) for title, markup in _PAGE.findall(wikipedia_dump())]
    pages.sort(key=lambda page: hashlib.sha256(page[0].encode()).digest())
    waiting = [found for found in (list(_passages(paragraphs(markup))) for _, markup in pages) if found]
    rounds = range(max(map(len, waiting), default=0))
    return tuple(found[index] for index in rounds for found in waiting if index < len(found))


def _passages(found: list[str]) -> Iterator[str]:
    """Consecutive paragraphs until they are long enough; what is left over at the end is dropped."""
    held: list[str] = []
    for paragraph in found:
        held.append(paragraph)
        if sum(map(len, held)) >= PASSAGE_CHARACTERS:
            yield "\n\n".join(held)
            held = []


def held_out_text(tokenizer: Tokenizer, num_tokens: int) -> str:
    """The first passages that have together at least so many tokens. Raises UsageError where there are not enough."""
    chosen, found = [], 0
    for passage in passages():
        if found >= num_tokens:
            break
        chosen.append(passage)
        found += len(tokenizer.encode(passage, add_special=False))
    need(found >= num_tokens, f"the extract has {found} tokens of prose, {num_tokens} are wanted", UsageError)
    return "\n\n".join(chosen) + "\n"


def held_out_tokens(tokenizer: Tokenizer, number: int, length: int) -> list[list[int]]:
    """`number` texts of `length` tokens, none of which crosses into another passage.

    Raises UsageError where fewer passages are as long.
    """
    encoded = (tokenizer.encode(passage, add_special=False) for passage in passages())
    long = (tokens[:length] for tokens in encoded if len(tokens) >= length)
    chosen = [tokens for tokens, _ in zip(long, range(number), strict=False)]
    why = f"{len(chosen)} passages have {length} tokens, {number} are wanted"
    need(len(chosen) == number, why, UsageError)
    return chosen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, help="how many at least (default: two files, of 8192 and of 32768)")
    parser.add_argument("-o", "--out", type=Path, help="the file to write")
    options = parser.parse_args()
    wanted = [options.tokens] if options.tokens else [8192, 32768]
    try:
        need(options.out is None or len(wanted) == 1, "one file holds one text: give --tokens", UsageError)
        tokenizer = Tokenizer.load(from_gguf(open_gguf(smollm2())))
        for number in wanted:
            text = held_out_text(tokenizer, number)
            path = options.out or OUT / f"held-out-{number // 1024}k.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            count = len(tokenizer.encode(text, add_special=False))
            digest = hashlib.sha256(text.encode()).hexdigest()[:16]
            whisper(f"{count} tokens, {len(text)} characters, digest {digest}")
            sys.stdout.write(f"{path}\n")
    except PintpotError as error:
        whisper(str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

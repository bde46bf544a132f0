"""The merges of a tokenizer, counted in its file some bytes at a time: they are half of what it costs in memory."""

from __future__ import annotations

import re
from typing import Final

from pintpot.model.source import ByteSource

_CHUNK_BYTES: Final = 1 << 20
_OVERLAP_BYTES: Final = 64
_BEGIN = re.compile(rb'"merges"\s*:\s*\[\s*([\["])')
"""A word of the vocabulary may be called so too; its number follows it then."""


def count_merges(source: ByteSource) -> int | None:
    """The merges of a tokenizer.json, off by a few where words hold quotes; None where there is no list of them.

    A merge is one string of two words, or a list of two.
    """
    quotes, per_merge, kept = 0, 0, b""
    for offset in range(0, source.size, _CHUNK_BYTES):
        part = kept + source.read(offset, min(_CHUNK_BYTES, source.size - offset))
        if not per_merge:
            begin = _BEGIN.search(part)
            if begin is None:
                kept = part[-_OVERLAP_BYTES:]
                continue
            per_merge, part = (4 if begin[1] == b"[" else 2), part[begin.start(1) :]
        # A backslash at the end waits for what it stands before.
        kept = b"\\" if part.endswith(b"\\") else b""
        part = part[: len(part) - len(kept)]
        quotes += part.count(b'"') - part.count(b'\\"')
    return quotes // per_merge if per_merge else None

"""What a tokenizer costs, known before it is loaded; fitted to benchmarks/tokenizer_memory.py."""

from __future__ import annotations

_WORD_SLOT_BYTES = 66
"""Two hash tables, text to id and id to text: 33 bytes a slot each."""
_MERGE_SLOT_BYTES = 17
"""One hash table, two ids to rank and id."""
_MERGES_PER_WORD = (0.95, 2.2)
"""Byte-level vocabularies have about one merge a word; Llama 3 and SentencePiece about two."""
_LIBRARY_BYTES = 7_100_000
"""What importing the library adds to a process."""
REMEMBERED_BYTES = 3_000_000
"""The library remembers up to ten thousand words that it has cut; this much after 2,000 lines of text."""


def most_merges(vocab_size: int) -> int:
    """The merges of a vocabulary that does not list them, as SentencePiece's does not; rather too many."""
    return round(_MERGES_PER_WORD[1] * vocab_size)


def estimated_bytes(vocab_size: int, num_merges: int | None = None) -> tuple[int, int]:
    """What importing the library and loading add to the process's peak (VmHWM), low and high, in bytes.

    Without `num_merges` the range covers one to two merges a word. The spread is that of the words' lengths.
    """
    fewest, most = _merges(vocab_size, num_merges)
    low, high = (6_700_000 + 250 * vocab_size + 197 * merges for merges in (fewest, most))
    return round(0.88 * low), round(1.08 * high)


def kept_bytes(vocab_size: int, num_merges: int | None = None) -> tuple[int, int]:
    """What of it stays resident (VmRSS) when the unused memory was given back after loading, low and high, in bytes."""
    return _kept(vocab_size, num_merges, _LIBRARY_BYTES)


def loaded_bytes(vocab_size: int, num_merges: int | None = None) -> tuple[int, int]:
    """The same for a process that has imported the library already."""
    return _kept(vocab_size, num_merges, 0)


def _kept(vocab_size: int, num_merges: int | None, library_bytes: int) -> tuple[int, int]:
    fewest, most = _merges(vocab_size, num_merges)
    low, high = (
        library_bytes + table_bytes(vocab_size, merges) + 120 * vocab_size + 8 * merges for merges in (fewest, most)
    )
    return round(0.93 * low), round(1.05 * high) + REMEMBERED_BYTES


def loading_peak_bytes(vocab_size: int, num_merges: int | None = None) -> int:
    """The most that loading adds to a process that has imported the library, before anything of it is given back."""
    size = vocab_size, num_merges
    return estimated_bytes(*size)[1] - (kept_bytes(*size)[1] - loaded_bytes(*size)[1])


def table_bytes(vocab_size: int, num_merges: int) -> int:
    """Bytes of the library's hash tables, whose sizes are powers of two."""
    return _WORD_SLOT_BYTES * _num_slots(vocab_size) + _MERGE_SLOT_BYTES * _num_slots(num_merges)


def _merges(vocab_size: int, num_merges: int | None) -> tuple[int, int]:
    if num_merges is not None:
        return num_merges, num_merges
    low, high = _MERGES_PER_WORD
    return round(low * vocab_size), round(high * vocab_size)


def _num_slots(num_entries: int) -> int:
    """A power of two, at most seven eighths full."""
    slots = 4
    while slots * 7 < num_entries * 8:
        slots *= 2
    return slots

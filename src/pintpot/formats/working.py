"""Memory that reading and writing weights needs beside its input and output, counted before numpy is imported.

Everything in this room walks a matrix in chunks of whole strips, so its temporaries do not grow with the number of
rows. The figures are bounds, checked against what numpy really allocates in tests.
"""

from __future__ import annotations

from typing import Literal

from pintpot.formats.registry import STRIP_ROWS, encoding, num_strips

Work = Literal["decode", "round", "pack", "unpack", "permute", "convert"]

_CHUNK_VALUES = 1 << 17
_ROUNDING_VALUES = 1 << 16
_SLACK = 1 << 16

# Bytes of temporaries per value of a chunk, for formats with codes and for floats.
_DECODE = 4.0
_ROUND = {"codes": 17.0, "table": 36.0}
_ROUND_SUPER = 15.5
_SCALES = 12.0
_PERMUTE = 3.5
_CODES = 1.25
_PACK = {"codes": 3.0, "float": 10.5, "two_four": 6.0}
_UNPACK = {"codes": 9.75, "float": 12.5}


def chunk_rows(columns: int) -> int:
    """Rows that are worked on at once: whole strips, at least one."""
    return STRIP_ROWS * max(1, _CHUNK_VALUES // (STRIP_ROWS * max(columns, 1)))


def rounding_rows(columns: int) -> int:
    """Rows that are rounded at once; a group is whole within its row, so this needs no whole strips."""
    return max(1, _ROUNDING_VALUES // max(columns, 1))


def working_bytes(work: Work, name: str, rows: int, columns: int) -> int:
    """Peak bytes of temporaries while doing `work` on a matrix; input and output arrays are not counted.

    `name` is the encoding decoded, rounded to, packed, unpacked or permuted; for `convert` it is the packed format.
    Raises UnsupportedModel for an unknown encoding.
    """
    found = encoding(name)
    kind = "float" if found.kind == "float" else "codes"
    group = max(32, found.scale_columns)
    padded = -(-columns // group) * group
    chunk = min(chunk_rows(columns), num_strips(rows) * STRIP_ROWS) * padded
    rounding = min(rounding_rows(columns), rows) * padded * _ROUND["table" if found.levels else "codes"]
    if found.kind == "super":  # levels of a whole chunk are found at once
        rounding = _ROUND_SUPER * chunk
    if found.levels:
        rounding += _SCALES * chunk / found.scale_columns
    needed = {
        "decode": _DECODE * chunk,
        "round": rounding,
        "pack": _PACK["two_four" if found.kind == "two_four" else kind] * chunk,
        "unpack": _UNPACK[kind] * chunk,
        "permute": (_PERMUTE if kind == "codes" else 4.5) * chunk,
    }
    if work == "convert":
        written = needed["pack"] if kind == "float" else _CODES * chunk + max(rounding, needed["pack"])
        return int(4 * chunk + max(needed["decode"], written)) + _SLACK
    return int(needed[work]) + _SLACK

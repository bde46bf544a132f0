"""Every encoding by name, with its exact sizes. Pure Python: planning counts bytes here and imports no numpy.

Three uses, and an encoding may serve several: `source` (rows of blocks in a GGUF or safetensors file), `kernel`
(strips of 16 rows, docs/layout.md) and `buffer` (activations, tokens and the cache, row after row).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from pintpot.errors import BadInput, UnsupportedModel, need

STRIP_ROWS = 16
_STRIP_ALIGNMENT = 64
_FLOAT_GROUP = 4
_APART_BYTES = 4 + 2 * STRIP_ROWS
TWO_FOUR = "_24"
"""Behind the name of a symmetric format: of every four columns side by side two are kept, all others are zero."""
APART = "+"
"""Between the name of a grid and the number of columns that are kept apart from it: sym4+8."""
MOST_APART = 4096

GRIDS = 1
"""Raised when weights are rounded to other values than before: what was measured of the old ones is measured anew."""

Kind = Literal["float", "sym", "aff", "super", "table", "two_four", "blocks", "cache", "integer"]
Scale = Literal["f16", "u8", "e8m0", "e4m3"]

_WHOLE_STRIP = 1 << 62
_NORMAL_FLOAT = (-127, -88, -67, -50, -36, -23, -12, 0, 10, 20, 31, 43, 56, 71, 92, 127)
_E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


@dataclass(frozen=True, slots=True)
class Encoding:
    """One way to write values.

    A row is a sequence of blocks of `block_columns` values in `block_bytes` bytes. `code_bits` is the width of one
    code (0 for floats). A strip is a sequence of groups of `group_columns` columns of 16 rows, each with
    `group_scale_bytes` of scales and `group_plane_bytes` of codes (all 0 where no kernel reads the encoding).
    `packed_as` is the kernel format that a weight of this encoding becomes, `lossless` whether every value survives.
    `ggml_type` is the number that GGUF writes for it.

    Of the kind `table`, a code is the number of one of the 16 `levels`; a `scale` of one byte serves `scale_columns`
    columns, and so many groups as `run_groups` share a float32 that multiplies them (0: nothing does). Superblocks have
    a scale for `scale_columns` columns, too, in units that the 256 columns of a block share.

    Of the kind `two_four` two codes of every four columns are written, and which two: in `dense`, which has the codes
    of all columns, the others are that of zero.

    `num_apart` columns of a matrix are kept as float16 behind each strip, whose codes have nothing of them; `bits`
    leaves them out.
    """

    name: str
    kind: Kind
    code_bits: int
    block_columns: int
    block_bytes: int
    group_columns: int = 0
    group_scale_bytes: int = 0
    group_plane_bytes: int = 0
    packed_as: str = ""
    lossless: bool = True
    ggml_type: int | None = None
    levels: tuple[int, ...] = ()
    scale: Scale = "f16"
    scale_columns: int = 0
    run_groups: int = 0
    num_apart: int = 0

    @property
    def grid(self) -> str:
        """The format of the codes: this one's name but for the columns that are kept apart."""
        return self.name.partition(APART)[0]

    @property
    def dense(self) -> str:
        """The format in which the same values have the same codes, without leaving out any."""
        return self.name.removesuffix(TWO_FOUR)

    @property
    def bits(self) -> float:
        """Bits per value, scales included."""
        if self.run_groups:
            group_bytes = self.group_scale_bytes + self.group_plane_bytes + 4 / self.run_groups
            return 8 * group_bytes / (STRIP_ROWS * self.group_columns)
        return 8 * self.block_bytes / self.block_columns

    @property
    def has_minimum(self) -> bool:
        """True where groups have an offset beside their scale."""
        return self.kind == "aff" or (self.kind == "super" and self.code_bits == 4)

    @property
    def is_kernel(self) -> bool:
        """True where strips of this encoding exist."""
        return self.group_columns > 0

    @property
    def is_source(self) -> bool:
        """True where model files hold this encoding."""
        return self.ggml_type is not None

    def row_bytes(self, columns: int) -> int:
        """Bytes of one row of `columns` values. Raises BadInput where a file's blocks do not fill the row."""
        need_fit(self, columns)
        return -(-columns // self.block_columns) * self.block_bytes

    def fits(self, columns: int) -> bool:
        """Whether rows of so many columns can be written: whole blocks, but for formats that pad the last group."""
        return self.kind not in ("blocks", "super") or columns % self.block_columns == 0

    def num_groups(self, columns: int) -> int:
        """Column groups of a strip, the last one padded."""
        if not self.group_columns:
            raise BadInput(f"no kernel reads {self.name}; it is packed as {self.packed_as or 'nothing'}")
        return -(-columns // self.group_columns)

    def num_runs(self, columns: int) -> int:
        """Runs of groups in a strip that share a float32; 0 where scales stand for themselves."""
        return -(-self.num_groups(columns) // self.run_groups) if self.run_groups else 0

    def scale_bytes(self, columns: int) -> int:
        """Bytes of a strip's scales with their padding, which is where its planes begin."""
        scales = 4 * self.num_runs(columns) + self.num_groups(columns) * self.group_scale_bytes
        return -(-scales // _STRIP_ALIGNMENT) * _STRIP_ALIGNMENT

    def strip_bytes(self, columns: int) -> int:
        """Bytes of 16 rows of `columns` values, a multiple of 64."""
        apart = -(-self.num_apart * _APART_BYTES // _STRIP_ALIGNMENT) * _STRIP_ALIGNMENT
        return self.scale_bytes(columns) + self.num_groups(columns) * self.group_plane_bytes + apart

    def packed_bytes(self, rows: int, columns: int) -> int:
        """Bytes of a whole packed matrix."""
        return num_strips(rows) * self.strip_bytes(columns)


def need_fit(found: Encoding, columns: int) -> None:
    """Raise BadInput unless rows of so many columns can be written."""
    whole = f"{columns} columns of {found.name} are not whole blocks of {found.block_columns}"
    need(found.fits(columns), whole)


def num_strips(rows: int) -> int:
    """Strips of 16 rows, the last one padded."""
    return -(-rows // STRIP_ROWS)


def _float(name: str, num_bytes: int, ggml_type: int) -> Encoding:
    planes = _FLOAT_GROUP * STRIP_ROWS * num_bytes
    return Encoding(name, "float", 0, 1, num_bytes, _FLOAT_GROUP, 0, planes, name, True, ggml_type)


def _sym(bits: int) -> Encoding:
    return Encoding(f"sym{bits}", "sym", bits, 32, 2 + 4 * bits, 32, 32, 64 * bits, f"sym{bits}")


def _two_four(bits: int) -> Encoding:
    row, group = (32, 6 + 2 * bits), (32, 32, 32 * bits + 64)
    return Encoding(f"sym{bits}{TWO_FOUR}", "two_four", bits, *row, *group, f"sym{bits}{TWO_FOUR}")


def _aff(bits: int) -> Encoding:
    return Encoding(f"aff{bits}", "aff", bits, 32, 4 + 4 * bits, 32, 64, 64 * bits, f"aff{bits}")


def _super(name: str, bits: int, block_bytes: int, scale_bytes: int, ggml_type: int, scale_columns: int) -> Encoding:
    group = (256, scale_bytes, 512 * bits)
    return Encoding(name, "super", bits, 256, block_bytes, *group, name, True, ggml_type, scale_columns=scale_columns)


def _table(name: str, levels: tuple[int, ...], scale: Scale, scale_columns: int, run_groups: int = 0) -> Encoding:
    columns = max(32, scale_columns)
    num_scales = columns // scale_columns
    group = (columns, STRIP_ROWS * num_scales, 8 * columns)
    row = (columns, columns // 2 + num_scales)
    return Encoding(name, "table", 4, *row, *group, name, True, None, levels, scale, scale_columns, run_groups)


def _blocks(
    name: str, bits: int, columns: int, num_bytes: int, ggml_type: int, packed_as: str, lossless: bool = True
) -> Encoding:
    return Encoding(name, "blocks", bits, columns, num_bytes, 0, 0, 0, packed_as, lossless, ggml_type)


_ENCODINGS = {
    found.name: found
    for found in (
        _float("f32", 4, 0),
        _float("f16", 2, 1),
        _float("bf16", 2, 30),
        *(_sym(bits) for bits in (8, 6, 5, 4, 3, 2)),
        *(_aff(bits) for bits in (6, 5, 4, 3, 2)),
        _super("q4_k", 4, 144, 256, 12, 32),
        _super("q6_k", 6, 210, 288, 14, 16),
        _table("nf4", _NORMAL_FLOAT, "u8", 64, 16),
        _table("nf4_32", _NORMAL_FLOAT, "u8", 32, 16),
        _table("mxfp4", _E2M1, "e8m0", 32),
        _table("nvfp4", _E2M1, "e4m3", 16, _WHOLE_STRIP),
        *(_two_four(bits) for bits in (8, 6, 4)),
        _blocks("q4_0", 4, 32, 18, 2, "sym4"),
        _blocks("q4_1", 4, 32, 20, 3, "aff4"),
        _blocks("q5_0", 5, 32, 22, 6, "sym5"),
        _blocks("q5_1", 5, 32, 24, 7, "aff5"),
        _blocks("q8_0", 8, 32, 34, 8, "sym8"),
        _blocks("q2_k", 2, 256, 84, 10, "sym8", lossless=False),
        _blocks("q3_k", 3, 256, 110, 11, "sym8", lossless=False),
        _blocks("q5_k", 5, 256, 176, 13, "sym8", lossless=False),
        Encoding("sym8c", "cache", 8, 32, 34),
        Encoding("int32", "integer", 32, 1, 4),
        Encoding("uint8", "integer", 8, 1, 1),
    )
}

KERNEL_FORMATS = tuple(name for name, found in _ENCODINGS.items() if found.is_kernel)
"""What weights can be packed as, finest first within each kind."""

DENSE_FORMATS = tuple(name for name in KERNEL_FORMATS if _ENCODINGS[name].kind != "two_four")
"""Those of them that hold any values, wherever zeros are."""

SOURCE_FORMATS = tuple(name for name, found in _ENCODINGS.items() if found.is_source)
"""What the weights of a model file may be written in."""

_BY_GGML = {found.ggml_type: found for found in _ENCODINGS.values() if found.ggml_type is not None}


def encoding(name: str) -> Encoding:
    """The encoding of this name. Raises UnsupportedModel for any other."""
    found = _ENCODINGS.get(name) or _with_columns_apart(name)
    if found is None:
        raise UnsupportedModel(f"no weight format is called {name!r}; there are {', '.join(_ENCODINGS)}")
    return found


@cache
def _with_columns_apart(name: str) -> Encoding | None:
    grid, _, count = name.partition(APART)
    found = _ENCODINGS.get(grid)
    if found is None or not can_keep_apart(grid) or not (count.isascii() and count.isdigit()):
        return None
    if str(int(count)) != count or not 0 < int(count) <= MOST_APART:
        return None
    return replace(found, name=name, packed_as=name, lossless=False, ggml_type=None, num_apart=int(count))


def apart(grid: str, num_columns: int) -> str:
    """The format of this grid with so many columns kept apart."""
    return f"{grid}{APART}{num_columns}" if num_columns else grid


def encoding_of_ggml(ggml_type: int) -> Encoding:
    """The encoding that GGUF numbers so. Raises UnsupportedModel for a number without a home here."""
    found = _BY_GGML.get(ggml_type)
    if found is None:
        known = ", ".join(f"{found.name} ({number})" for number, found in sorted(_BY_GGML.items()))
        raise UnsupportedModel(f"GGUF tensor type {ggml_type} is not read here; these are: {known}")
    return found


@cache
def can_pack(source: str, target: str) -> bool:
    """True where weights written as `source` can be packed as `target`.

    Superblocks take rows of whole superblocks alone (`Encoding.fits`), 2:4 formats only values that are so. Raises
    UnsupportedModel for an unknown name.
    """
    return encoding(source).is_source and encoding(target).is_kernel


def can_keep_apart(name: str) -> bool:
    """Whether columns can be kept apart from this format's grid."""
    return encoding(name).kind in ("sym", "aff", "table")


def has_grid(name: str) -> bool:
    """Whether values reach this format through scales of groups."""
    return encoding(name).kind in ("sym", "aff", "table", "super")


@cache
def is_lossless(source: str, target: str) -> bool:
    """True where every value of `source` survives in `target`."""
    found = encoding(source)
    same = found.lossless and found.packed_as == target
    return can_pack(source, target) and (same or (found.kind == "float" and target == "f32"))

"""How a weight is written: encodings with their exact bytes, and how to read and write them.

Importing this room leaves numpy out: planning counts bytes with `encoding(name)` and `working_bytes` alone.

    registry    every encoding and its sizes            source      blocks of a model file -> float32
    rounding    float32 -> codes and scales             tiles       codes or floats <-> strips of docs/layout.md
    permute     blocks of a model file -> strips, without loss
    convert     any source -> any packed format, in bounded memory
    working     how many bytes each of these needs beside its input and output
"""

from pintpot.formats.registry import (
    DENSE_FORMATS,
    GRIDS,
    KERNEL_FORMATS,
    SOURCE_FORMATS,
    STRIP_ROWS,
    Encoding,
    apart,
    can_keep_apart,
    can_pack,
    encoding,
    encoding_of_ggml,
    has_grid,
    is_lossless,
    num_strips,
)
from pintpot.formats.working import chunk_rows, working_bytes

__all__ = [
    "DENSE_FORMATS",
    "GRIDS",
    "KERNEL_FORMATS",
    "SOURCE_FORMATS",
    "STRIP_ROWS",
    "Encoding",
    "apart",
    "can_keep_apart",
    "can_pack",
    "chunk_rows",
    "encoding",
    "encoding_of_ggml",
    "has_grid",
    "is_lossless",
    "num_strips",
    "working_bytes",
]

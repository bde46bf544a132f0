"""What holds memory, by name."""

from __future__ import annotations

PROCESS = "interpreter and libraries"
TOKENIZER = "tokenizer"
TORCH = "torch"
INPUTS = "reading inputs"
WEIGHTS = "weights in RAM"
RING = "ring for streamed weights"
CACHE = "cache"
BUFFERS = "buffers"
INSIDE = "within calls of torch"
TABLES = "tables"
LOADER = "opening the pack"

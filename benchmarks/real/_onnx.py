"""The weights of an ONNX file, read without its library: initializers by name, and which one a node multiplies by.

The file is a protobuf message (https://onnx.ai/onnx/repo-docs/IR.html); only the fields that are needed are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MODEL_GRAPH, GRAPH_NODE, GRAPH_INITIALIZER = 7, 1, 5
NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_KIND = 1, 2, 3, 4
TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME, TENSOR_RAW = 1, 2, 8, 9
FLOAT = 1
VARINT, BYTES = 0, 2


@dataclass(frozen=True)
class Graph:
    """Arrays of float32 by name, and of each node its inputs by name."""

    arrays: dict[str, np.ndarray]
    inputs: dict[str, list[str]]


def read_graph(path: Path) -> Graph:
    data = memoryview(path.read_bytes())
    graph = next(value for number, value in _fields(data) if number == MODEL_GRAPH)
    arrays: dict[str, np.ndarray] = {}
    inputs: dict[str, list[str]] = {}
    for number, value in _fields(graph):
        if number == GRAPH_INITIALIZER:
            name, array = _tensor(value)
            if array is not None:
                arrays[name] = array
        elif number == GRAPH_NODE:
            found = [(key, bytes(part).decode()) for key, part in _fields(value) if key in (NODE_INPUT, NODE_NAME)]
            name = next((text for key, text in found if key == NODE_NAME), "")
            inputs[name] = [text for key, text in found if key == NODE_INPUT]
    return Graph(arrays, inputs)


def _tensor(message: memoryview) -> tuple[str, np.ndarray | None]:
    sizes: list[int] = []
    name, kind, raw = "", 0, memoryview(b"")
    for number, value in _fields(message):
        if number == TENSOR_DIMS:
            sizes += [value] if isinstance(value, int) else _varints(value)
        elif number == TENSOR_TYPE:
            kind = value
        elif number == TENSOR_NAME:
            name = bytes(value).decode()
        elif number == TENSOR_RAW:
            raw = value
    known = kind == FLOAT and raw.nbytes == 4 * int(np.prod(sizes, dtype=np.int64))
    return name, np.frombuffer(raw, "<f4").reshape(sizes) if known else None


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = _varint(data, at)
            yield number, value
        elif kind == BYTES:
            length, at = _varint(data, at)
            yield number, data[at : at + length]
            at += length
        else:
            at += {1: 8, 5: 4}[kind]


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _varints(data: memoryview) -> list[int]:
    found, at = [], 0
    while at < len(data):
        value, at = _varint(data, at)
        found.append(value)
    return found

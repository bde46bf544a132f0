"""The metadata of a GGUF source, kept in its pack as they were: a GGUF file without tensors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pintpot.errors import BadFile, BadPack, need
from pintpot.model.gguf import Gguf, open_gguf, parse_gguf
from pintpot.model.gguf_write import header
from pintpot.model.source import LocalFile
from pintpot.model.tokens.source import MAX_FILE_BYTES
from pintpot.packer.raw import METADATA

_OF_ONE_FILE = ("split.", "general.alignment")
"""Keys that are about how the tensors lay in the files."""


def save_metadata(source: Path, target: Path) -> None:
    """Write the metadata of a GGUF file. Raises BadFile for more than a tokenizer and its words can be."""
    gguf = open_gguf(source)
    kept = {key: span for key, span in gguf.spans.items() if not key.startswith(_OF_ONE_FILE)}
    num_bytes = sum(stop - start for start, stop in kept.values())
    need(num_bytes <= MAX_FILE_BYTES, f"{source.name} has {num_bytes} bytes of metadata", BadFile)
    target.write_bytes(header([_read(gguf, span) for span in kept.values()]))


def kept_metadata(folder: Path) -> Gguf | None:
    """The metadata that a pack keeps of its source, None where it keeps none. Raises BadPack."""
    path = folder / METADATA
    if not path.exists():
        return None
    try:
        return parse_gguf(LocalFile(path))
    except BadFile as error:
        raise BadPack(f"{path} is not what a packer wrote: {error}") from error


def raw_pairs(gguf: Gguf) -> Iterator[tuple[str, bytes]]:
    """Each key with the bytes of its pair."""
    for key, span in gguf.spans.items():
        yield key, _read(gguf, span)


def _read(gguf: Gguf, span: tuple[int, int]) -> bytes:
    start, stop = span
    return gguf.sources[0].read(start, stop - start)

"""A pack's folder as it lies there: its files by name, its manifest as JSON.

Little is imported here, for an opening begins with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pintpot.errors import BadPack, NewerPack, need
from pintpot.meter.home import home
from pintpot.packer.checks import crc32c_of_file

VERSION = 2
KEPT = "packs"
"""The folder of PINTPOT_HOME that holds kept packs."""
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
CHECK_BYTES = 1 << 20
"""The resident region carries one checksum for each run of so many bytes."""
MAX_MANIFEST_BYTES = 128 << 20
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
METADATA = "metadata.gguf"
"""Where the source was a GGUF file, all its metadata as they were, for whoever exports the pack again.

Packs made before this was kept have none; the manifest lists the file as one of the tokenizer's, so that every reader
of format 2 takes packs with and without it.
"""
OWN_FILES = (MANIFEST, WEIGHTS, *TOKENIZER_FILES, METADATA)
"""All that a packer puts into a folder."""


@dataclass(frozen=True, slots=True)
class SmallFile:
    """A file beside the weights, and the CRC-32C of all of it."""

    name: str
    num_bytes: int
    crc: int


def is_pack(folder: Path) -> bool:
    """Whether a folder holds a pack of this or another format, be it broken."""
    try:
        read_raw(folder)
    except BadPack:
        return (folder / MANIFEST).exists() and (folder / WEIGHTS).exists()
    return True


def pack_named(path_or_name: str | Path) -> Path:
    """A pack by its path, or, where nothing has this path, by the name that it is kept under in PINTPOT_HOME."""
    path = Path(path_or_name).expanduser()
    kept = home() / KEPT / path.name
    return kept if str(path) == path.name and not path.exists() and is_pack(kept) else path


def no_pack(folder: Path) -> BadPack:
    """What is told where a pack was expected: whether anything is there, and how a model becomes a pack."""
    if not folder.exists():
        return BadPack(f"{folder} is no pack, for nothing is there; `pintpot list` tells which are kept")
    lacks = f", for it has no {MANIFEST}" if folder.is_dir() else ""
    return BadPack(f"{folder} is no pack{lacks}; if it is a model, first `pintpot pack {folder}`")


def read_raw(folder: Path) -> dict[str, Any]:
    """The manifest as JSON, its version checked. Raises BadPack."""
    path = folder / MANIFEST
    try:
        size = path.stat().st_size
        need(size <= MAX_MANIFEST_BYTES, f"{path} has {size} bytes; at most {MAX_MANIFEST_BYTES} are read", BadPack)
        data: Any = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise no_pack(folder) from error
    except (OSError, ValueError, RecursionError) as error:
        raise BadPack(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict) or "pintpot_pack" not in data:
        raise no_pack(folder)
    version = data["pintpot_pack"]
    newer = isinstance(version, int) and version > VERSION
    need(
        not newer, f"{folder} has pack format {version}, this pintpot reads up to {VERSION}; update pintpot", NewerPack
    )
    older = f"{folder} has pack format {version!r:.60}, this pintpot reads {VERSION}; pack the model again"
    need(version == VERSION, older, BadPack)
    return dict(data)


def read_unchanged(folder: Path) -> tuple[dict[str, Any], str]:
    """The manifest as JSON without its digest, which fits it, and the digest. Raises BadPack."""
    data = read_raw(folder)
    digest = data.pop("digest", None)
    unchanged = digest == digest_of(json.dumps(data, sort_keys=True))
    need(unchanged, f"{folder}: {MANIFEST} was changed after packing", BadPack)
    return data, str(digest)


def digest_of(text: str) -> str:
    """The digest of a manifest's text."""
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


def check_files(folder: Path, files: Iterable[SmallFile]) -> None:
    """Verify the tokenizer's files. Raises BadPack naming the one that is missing, was changed or was added."""
    expected = tuple(files)
    listed = {item.name for item in expected}
    for path in sorted(folder.iterdir()):
        known = path.name in listed or path.name in (MANIFEST, WEIGHTS)
        need(known, f"{path} was put into the pack after packing; take it out", BadPack)
    for item in expected:
        path = folder / item.name
        try:
            size = path.stat().st_size
            good = size == item.num_bytes and crc32c_of_file(path) == item.crc
        except OSError as error:
            raise BadPack(f"{path} cannot be read: {error.strerror}") from error
        need(good, f"{path} was changed after packing", BadPack)


def small_file(path: Path) -> SmallFile:
    """A file's line of the manifest."""
    return SmallFile(path.name, path.stat().st_size, crc32c_of_file(path))

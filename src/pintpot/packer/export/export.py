"""Export: the file or folder appears whole or not at all, and never over something that is there."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pintpot.errors import DiskTooSmall, PintpotError, UsageError, need
from pintpot.formats import encoding
from pintpot.meter.disk import ask_room
from pintpot.model.tokens import from_folder
from pintpot.packer.draft import draft_of, settle_new
from pintpot.packer.export.beside import gguf_metadata, write_beside
from pintpot.packer.export.check import check_exportable, notes_of, read_back
from pintpot.packer.export.config import check_family, hf_config
from pintpot.packer.export.containers import SHARD_BYTES, Writing, data_bytes
from pintpot.packer.export.exported import Exported, rounding_note
from pintpot.packer.export.strips import PackedWeights
from pintpot.packer.export.tensor import Tensor
from pintpot.packer.export.tensors import Float, gguf_tensors, hf_tensors
from pintpot.packer.locks import in_use
from pintpot.packer.manifest import Manifest, read_manifest
from pintpot.packer.raw import check_files

Kind = Literal["gguf", "safetensors"]
Progress = Callable[[float, str], None]
BESIDE_BYTES = 96 << 20
"""Room asked for the tokenizer and the header beside the weights."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted: `dtype` is that of all floats of a folder, and of a GGUF file for what no block type holds.

    Where it is None, that is float32 in a folder, and Q8_0 in a GGUF file (F16 for rows without whole blocks).
    """

    kind: Kind
    dtype: Float | None = None
    shard_bytes: int = SHARD_BYTES


def write_export(pack: Path, place: Path, wish: Wish, progress: Progress | None = None) -> Exported:
    """Export a pack to `place`: a GGUF file, or a Hugging Face folder; some rows at a time.

    Raises UsageError where something is there, BadPack for a pack that was changed, UnsupportedModel for what the
    container cannot tell, DiskTooSmall before or while writing; nothing is left then.
    """
    place = place.absolute()
    folder = wish.kind == "safetensors" and place.suffix == ".gguf"
    need(not folder, f"{place} would be a folder of safetensors; name it without .gguf", UsageError)
    need(not place.is_symlink() and not place.exists(), f"{place} is there already; name another place", UsageError)
    with in_use(pack):
        manifest, _ = read_manifest(pack)
        check_files(pack, manifest.files)
        inside = place.resolve().is_relative_to(pack.resolve())
        need(not inside, f"{place} would lie in the pack; name another place", UsageError)
        check_family(manifest.plan.config)
        check_exportable(pack, manifest)
        tensors = _tensors(manifest, wish)
        num_bytes = data_bytes(tensors)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            ask_room(place.parent, num_bytes + BESIDE_BYTES)
            with draft_of(place) as draft:
                return _fill(draft, pack, place, manifest, tensors, wish, progress)
        except OSError as error:
            if error.errno in _FULL:
                raise DiskTooSmall(f"{place.parent} is full: {num_bytes} bytes were needed") from error
            raise PintpotError(f"cannot write {place}: {error.strerror}") from error


def place_for_export(pack: Path, kind: Kind) -> Path:
    """Where a pack is exported when nobody says: under the model's name in the folder one is in. Raises BadPack."""
    name = read_manifest(pack)[0].plan.model_name
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:100] or "model"
    return Path(f"{plain}.gguf" if kind == "gguf" else plain)


def _tensors(manifest: Manifest, wish: Wish) -> tuple[Tensor, ...]:
    return gguf_tensors(manifest, wish.dtype) if wish.kind == "gguf" else hf_tensors(manifest, wish.dtype or "f32")


def _fill(
    draft: Path,
    pack: Path,
    place: Path,
    manifest: Manifest,
    tensors: tuple[Tensor, ...],
    wish: Wish,
    progress: Progress | None,
) -> Exported:
    made = draft / place.name
    with PackedWeights(pack, manifest) as weights:
        writing = Writing(weights, tensors, lambda share: progress and progress(share, "exporting"))
        if wish.kind == "gguf":
            writing.gguf(made, gguf_metadata(pack, manifest, tensors))
        else:
            made.mkdir()
            frequencies = manifest.plan.form.weights.by_name.get("rope_freqs")
            factors = () if frequencies is None else tuple(weights.vector(frequencies).tolist())
            config = hf_config(manifest.plan.config, _DTYPES[wish.dtype or "f32"], factors)
            write_beside(made, from_folder(pack), config)
            writing.safetensors(made, wish.shard_bytes)
    if all(encoding(tensor.dtype).is_source for tensor in tensors):
        read_back(made, manifest)
    num_bytes = sum(path.stat().st_size for path in ([made] if wish.kind == "gguf" else made.iterdir()))
    settle_new(made, place)
    shares = writing.tally.shares()
    notes = [note for note in map(rounding_note, shares) if note] + notes_of(manifest, wish.kind)
    return Exported(place, wish.kind, num_bytes, writing.tally.bits(), shares, tuple(notes))

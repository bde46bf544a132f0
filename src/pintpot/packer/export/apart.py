"""Exporting in a process of its own, which clears up however this one ends, and whose leavings this one sweeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pintpot.packer.apart import Progress, apart, serve
from pintpot.packer.draft import sweep
from pintpot.packer.export.export import Kind, Wish, place_for_export, write_export
from pintpot.packer.export.exported import Exported
from pintpot.packer.export.tensors import Float
from pintpot.packer.raw import pack_named


def export_named(
    pack: str | Path,
    to: str | Path | None,
    progress: Progress | None = None,
    *,
    kind: Kind | None = None,
    dtype: Float | None = None,
) -> Exported:
    """A pack, by its path or the name it is kept under, to where it is wanted or to where it is named after its model.

    Without `kind`, a place that ends in .gguf or none at all is a GGUF file, any other a folder.
    """
    folder, place = pack_named(pack), None if to is None else Path(to).expanduser()
    chosen: Kind = kind or ("gguf" if place is None or place.suffix == ".gguf" else "safetensors")
    return export_apart(folder, place or place_for_export(folder, chosen), Wish(chosen, dtype), progress)


def export_apart(pack: Path, place: Path, wish: Wish, progress: Progress | None = None) -> Exported:
    """As `write_export`, elsewhere."""
    place = place.absolute()
    request = {"pack": str(pack), "place": str(place), "kind": wish.kind, "dtype": wish.dtype}
    try:
        answer = apart("pintpot.packer.export.apart", request, progress)
    finally:
        if place.parent.is_dir():
            sweep(place.parent)
    return Exported.from_json(answer)


def _export(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    wish = Wish(request["kind"], request["dtype"])
    return write_export(Path(request["pack"]), Path(request["place"]), wish, progress).to_json()


if __name__ == "__main__":
    serve(_export)

"""Exporting in a process of its own, which clears up however this one ends, and whose leavings this one sweeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pintpot.packer.apart import Progress, apart, serve
from pintpot.packer.draft import sweep
from pintpot.packer.export.export import Wish, write_export
from pintpot.packer.export.exported import Exported


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

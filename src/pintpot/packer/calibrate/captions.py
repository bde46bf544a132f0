"""The pictures that weights are calibrated on: files of a folder, each with what is said of it where that is there."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pintpot.errors import BadInput, UsageError, need

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def found_pictures(place: Path) -> tuple[Path, ...]:
    """The pictures in a folder, by their names' endings, in the order of their names; a file is a picture itself.

    Raises UsageError where there is none.
    """
    place = place.expanduser()
    if place.is_file():
        return (place,)
    inside = sorted(place.iterdir()) if place.is_dir() else []
    found = tuple(path for path in inside if path.suffix.lower() in SUFFIXES)
    need(bool(found), f"{place} holds no pictures; files that end in {', '.join(SUFFIXES)} are looked at", UsageError)
    return found


def said_of(picture: Path) -> str | None:
    """What is said of a picture: the text of `cat.txt` beside `cat.png`. Raises BadInput for what is no text."""
    beside = picture.with_suffix(".txt")
    if not beside.is_file():
        return None
    try:
        return beside.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{beside} cannot be read as text: {error}") from error


def pictures_digest(pictures: Sequence[Path]) -> str:
    """Tells apart pictures, or what is said of them. Raises BadInput where one cannot be read."""
    found = hashlib.sha256()
    for picture in pictures:
        try:
            with picture.open("rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise BadInput(f"{picture} cannot be read: {error}") from error
        found.update(repr(said_of(picture)).encode())
    return found.hexdigest()

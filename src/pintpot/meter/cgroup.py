"""Control groups of this process, both versions: where its own group and every enclosing one lie.

Every function takes the folder of `/proc`, so that tests can show another machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Groups:
    """One controller's groups: `levels` from the process's own up to the outermost that is visible here."""

    version: int
    levels: tuple[Path, ...]

    @property
    def own(self) -> Path:
        return self.levels[0]


def groups(controller: str, proc: Path = PROC) -> Groups | None:
    """The groups that account for this process under `controller` ("memory", "cpu"); None where there are none."""
    for version, path, root, mount in _candidates(controller, proc):
        levels = _levels(path, root, mount)
        if levels and (version == 1 or any((level / "cgroup.controllers").exists() for level in levels)):
            return Groups(version, levels)
    return None


def read_int(path: Path) -> int | None:
    """The number in a one-line file; None when the file is missing or says "max" or -1."""
    words = read_text(path).split()
    return int(words[0]) if words and words[0].isdigit() else None


def read_table(path: Path) -> dict[str, int]:
    """Lines of "name number", empty when the file is missing."""
    rows = (line.split() for line in read_text(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


def read_text(path: Path) -> str:
    """A small kernel file's text, empty where it is missing or closed to us."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _candidates(controller: str, proc: Path) -> Iterator[tuple[int, str, str, Path]]:
    """(version, group's path, mount's root, mount point); version 1 first: what it holds, version 2 does not."""
    paths: dict[str, str] = {}
    for line in read_text(proc / "self" / "cgroup").splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            paths.update(dict.fromkeys(parts[1].split(","), parts[2]))
    unified: list[tuple[int, str, str, Path]] = []
    for root, mount, kind, options in _mounts(proc):
        if kind == "cgroup" and controller in options and controller in paths:
            yield 1, paths[controller], root, mount
        elif kind == "cgroup2" and "" in paths:
            unified.append((2, paths[""], root, mount))
    for candidate in unified:
        if _offers(candidate[3], candidate[1], controller):
            yield candidate


def _mounts(proc: Path) -> Iterator[tuple[str, Path, str, list[str]]]:
    for line in read_text(proc / "self" / "mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        left, right = before.split(), after.split()
        if len(left) >= 5 and len(right) >= 3 and right[0] in ("cgroup", "cgroup2"):
            yield left[3], Path(unescape(left[4])), right[0], right[2].split(",")


def _offers(mount: Path, path: str, controller: str) -> bool:
    """Whether a version 2 hierarchy hands `controller` out: a hybrid system mounts one that holds none."""
    own = mount / path.lstrip("/")
    named = read_text(mount / "cgroup.controllers").split() + read_text(own / "cgroup.controllers").split()
    return controller in named


def _levels(path: str, root: str, mount: Path) -> tuple[Path, ...]:
    """Folders from the group up to the mount point. A container may see only its own group, mounted as the root."""
    inside = PurePosixPath(path)
    if root != "/" and inside.is_relative_to(root):
        inside = PurePosixPath("/") / inside.relative_to(root)
    folder = mount / str(inside).lstrip("/")
    if ".." in inside.parts or not folder.is_dir():
        folder = mount
    if not folder.is_dir():
        return ()
    depth = len(folder.relative_to(mount).parts)
    return (folder, *list(folder.parents)[:depth])


def unescape(text: str) -> str:
    """Mount tables write blanks and backslashes in octal."""
    for code, letter in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        text = text.replace(code, letter)
    return text

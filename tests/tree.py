"""The tree and its map: which source files there are, which room each is in, and what MAP.md says of them.

`python tests/tree.py` names what MAP.md lacks and what it says of files that are gone; with `--write` it mends both,
taking a new file's line from the file's own first sentence. The order within a room is kept as it was written by hand.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "pintpot"

# Left may not import right; the rooms of one tuple may not import each other.
ROOMS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("units",),
    ("formats",),
    ("_native",),
    ("budget", "meter", "stream", "program"),
    ("kernels", "model"),
    ("machine",),
    ("contract",),
    ("techniques", "nets"),
    ("planner",),
    ("packer",),
    ("runtime",),
    ("server", "trainer"),
    ("proof",),
    ("api",),
    ("cli",),
    ("__init__", "__main__"),
)
RANK = {room: rank for rank, group in enumerate(ROOMS) for room in group}

SECTIONS = {
    "errors": "the one tree of errors",
    "units": "bytes and seconds as people write them",
    "formats": "how a weight is written, to the bit",
    "native": "the C++ extension `_native`: kernels by instruction set, and the engine that replays programs",
    "_native": "what the extension offers to Python",
    "budget": "what will be asked, and what it may cost",
    "meter": "memory, time, disk and agreement, measured",
    "stream": "direct reads and journalled writes",
    "program": "the work: ops over buffers, and where each buffer lies",
    "kernels": "a program becomes a call",
    "model": "what: a model read from its headers, its weights and its tokenizer",
    "machine": "where: a machine measured, or read from a data sheet",
    "contract": "the words that techniques, planner and runtime share",
    "techniques": "one paper, one file",
    "nets": "one family, one file: a configuration becomes work",
    "planner": "model + machine + budget becomes a plan",
    "packer": "a plan becomes a pack on disk",
    "runtime": "a pack answers",
    "server": "a pack answers over the network",
    "trainer": "a pack learns",
    "proof": "promised beside measured",
    "api": "the verbs as functions",
    "cli": "the verbs as commands",
    "__init__": "what `import pintpot` offers",
    "__main__": "`python -m pintpot`",
    "examples": "one verb each",
    "benchmarks": "figures, each by one command",
    "tests": "how we know",
    "docs": "what is agreed in words",
    "around": "packaging, commands and records",
}
CPP = {".cpp", ".cc", ".h", ".hpp", ".inc", ".cu"}
FOLDERS = ("src", "native", "examples", "benchmarks", "tests", "docs")
KINDS = CPP | {".py", ".pyi", ".toml", ".txt", ".md", ".html", ".css", ".js", ".json", ".sh"}
AROUND = ("README.md", "CHANGELOG.md", "LOG.md", "pyproject.toml", "constraints.txt", "Makefile", ".ci/run", "LICENSE")
LINE = re.compile(r"- `([^`]+)`: (.+)")
HEADING = re.compile(r"## (\S+): .+")
HEAD = """# Map

Every source file in the order in which the work passes through them: what stands higher knows nothing of what stands
lower. `make map` adds the lines of new files and drops those of files that are gone; a test says when it is due.
"""


def source_files() -> list[str]:
    """Paths from the root, `/`-separated, of all source files that say something; empty `__init__.py` are left out."""
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in KINDS]
    kept = [path for path in found if "__pycache__" not in path.parts and path.read_bytes().strip()]
    around = [ROOT / name for name in AROUND if (ROOT / name).exists()]
    return [path.relative_to(ROOT).as_posix() for path in sorted(kept) + around]


def room(path: str) -> str:
    """The section of MAP.md in which a file of `source_files` stands; for the package's files, its room."""
    parts = Path(path).parts
    if parts[0] == "src":
        return Path(parts[2]).name.split(".")[0]
    return parts[0] if parts[0] in FOLDERS else "around"


def first_sentence(path: str) -> str:
    """What a file says of itself first: the docstring, the first comment or heading; "?" where it says nothing."""
    text = (ROOT / path).read_text(encoding="utf-8")
    header = Path(path).with_suffix(".h")
    if path.endswith((".py", ".pyi")):
        text = ast.get_docstring(ast.parse(text)) or ""
    else:
        mark = r"//+|/\*+|\*+" if Path(path).suffix in CPP else r"#+|<!--|/\*+"
        comment = re.match(rf"(?:#![^\n]*\n)?((?:\s*(?:{mark})(?: [^\n]*)?\n)+)", text)
        text = re.sub(rf"(?m)^\s*(?:{mark}) ?", "", comment[1]) if comment else ""
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    sentence = re.split(r"(?<!\bal)\.(?= [A-Z`]|$)", paragraph)[0].removesuffix("-->").strip()
    if not sentence and path.endswith(".cpp") and (ROOT / header).exists():
        sentence = f"the body of `{header.name}`"
    return sentence or "?"


def read_map() -> dict[str, dict[str, str]]:
    """MAP.md as {section: {path: line}}, in its own order."""
    sections: dict[str, dict[str, str]] = {}
    file = ROOT / "MAP.md"
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        if heading := HEADING.fullmatch(line):
            sections[heading[1]] = {}
        elif entry := LINE.fullmatch(line):
            sections[list(sections)[-1]][entry[1]] = entry[2]
    return sections


def differences() -> tuple[list[str], list[str]]:
    """Files that MAP.md does not name in their own section, and names there of files that are not there."""
    named = {(section, path) for section, lines in read_map().items() for path in lines}
    there = {(room(path), path) for path in source_files()}
    return sorted(path for _, path in there - named), sorted(path for _, path in named - there)


def write_map() -> None:
    """Bring MAP.md up to date. Lines that are still true stay as they are, where they are in their section."""
    old, files = read_map(), source_files()
    text = HEAD
    for section, title in SECTIONS.items():
        there = [path for path in files if room(path) == section]
        kept = [path for path in old.get(section, {}) if path in there]
        lines = {path: old[section][path] for path in kept}
        lines |= {path: first_sentence(path) for path in there if path not in lines}
        if lines:
            text += f"\n## {section}: {title}\n\n" + "".join(f"- `{path}`: {line}\n" for path, line in lines.items())
    (ROOT / "MAP.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if "--write" in sys.argv:
        write_map()
    lacking, gone = differences()
    for path in lacking:
        print(f"MAP.md lacks {path} (section {room(path)})")
    for path in gone:
        print(f"MAP.md names {path}, which is not there")
    sys.exit(bool(lacking or gone))

"""The tree and its map: which source files there are, which room each is in, what each uses, and MAP.md made of that.

`python tests/tree.py` shows what MAP.md lacks; with `--write` it writes it anew.
"""

from __future__ import annotations

import ast
import difflib
import re
import sys
from collections.abc import Iterator
from functools import cache
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
    ("hosting", "pictures"),
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
    "hosting": "the verb that serves",
    "pictures": "diffusers' own pipelines by those verbs",
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
AROUND = {
    "README.md": "what Pintpot is, its two commands, its figures and its limits",
    "CHANGELOG.md": "what changed for the people who use it",
    "LOG.md": "what was tried, what it gave, and what did not work",
    "pyproject.toml": "what Pintpot needs, how it is built into a wheel, and the rules of its linters and tests",
    "constraints.txt": "the versions that the tests run with",
    "Makefile": "the commands: demo, test, lint, format, map, wheel, clean",
    ".ci/run": "what must pass before a change is taken",
    "LICENSE": "the text of Apache-2.0",
}
# Files of a kind that cannot say themselves what they are.
MUTE = {
    "examples/digits/model_index.json": "a pipeline of diffusers without a decoder, made by `examples/train_digits.py`",
    "examples/digits/scheduler/scheduler_config.json": "how its noise is taken away",
    "examples/digits/transformer/config.json": "its network, whose weights lie beside it",
    "src/pintpot/packer/calibrate/text.txt": "the text that weights are calibrated on where nobody gave another",
    "src/pintpot/planner/priors.json": "degradation by format and kind of weight, from `benchmarks/priors.py`",
    "src/pintpot/planner/priors_of_modules.json": "the same for modules, from `benchmarks/priors_of_modules.py`",
    "src/pintpot/proof/text.txt": "the text that models are compared on where nobody gave another",
}
HEAD = """# Map

Every source file in the order in which the work passes through the rooms; inside a room a file stands below those that
it uses. What each is, it says itself in its first sentence: `make map` writes this page, a test says when that is due.
"""


def source_files() -> list[str]:
    """Paths from the root, `/`-separated, of all source files that say something; empty `__init__.py` are left out."""
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in KINDS]
    kept = [path for path in found if "__pycache__" not in path.parts and path.read_bytes().strip()]
    return [path.relative_to(ROOT).as_posix() for path in sorted(kept)] + list(AROUND)


def room(path: str) -> str:
    """The section of MAP.md in which a file of `source_files` stands; for the package's files, its room."""
    parts = Path(path).parts
    if parts[0] == "src":
        return Path(parts[2]).name.split(".")[0]
    return parts[0] if parts[0] in FOLDERS else "around"


def imports(file: Path, top: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of all that a Python file imports, anywhere in it; `top` is the folder above its package."""
    package = file.relative_to(top).with_suffix("").parts[:-1]
    for line, level, module, name in _read(file)[1]:
        base = package[: len(package) - level + 1] if level else ()
        yield line, ".".join([*base, *([module] if module else []), name])


@cache
def _read(file: Path) -> tuple[str, tuple[tuple[int, int, str, str], ...]]:
    """A Python file, parsed once: its docstring; line, level, module and name of all that it imports."""
    parsed, found = ast.parse(file.read_text(encoding="utf-8"), filename=str(file)), []
    for node in ast.walk(parsed):
        if isinstance(node, ast.Import):
            found += [(node.lineno, 0, "", alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.lineno, node.level, node.module or "", alias.name) for alias in node.names]
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
            constants = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
            found += [(node.lineno, 0, "", value) for value in constants if isinstance(value, str)]
    return ast.get_docstring(parsed) or "", tuple(found)


def _called(node: ast.Call) -> str:
    """The last name of what is called, "" where it has none."""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def uses(path: str, files: set[str]) -> set[str]:
    """Which of `files` a file imports or includes."""
    file = ROOT / path
    if file.suffix == ".py":
        top = ROOT / ("src" if path.startswith("src/") else Path(path).parts[0])
        names = {name for _, name in imports(file, top)}
        names |= {name.rpartition(".")[0] for name in names}
        where = [(top / name.replace(".", "/")).relative_to(ROOT).as_posix() for name in names if name]
        found = {f"{one}.py" for one in where} | {f"{one}/__init__.py" for one in where}
    else:
        found = set()
        if file.suffix in CPP:
            for name in re.findall(r'(?m)^#include "([^"]+)"', file.read_text(encoding="utf-8")):
                found |= {f"native/{name}", (Path(path).parent / name).as_posix()}
    return (found & files) - {path}


def in_order(paths: list[str]) -> list[str]:
    """Files after those that they use, bodies beside their headers, else by name; a circle is cut at its first name."""
    left = sorted(paths, key=lambda path: path.replace("native/engine/", "native/~"))  # kernels before the engine
    needed = {path: uses(path, set(paths)) for path in paths}
    ordered: list[str] = []
    while left:
        ready = [path for path in left if not needed[path] & set(left)] or left
        beside = [path for path in ready if ordered and Path(path).stem == Path(ordered[-1]).stem]
        ordered.append((beside or ready)[0])
        left.remove(ordered[-1])
    return ordered


def first_sentence(path: str) -> str:
    """What a file says of itself first: the docstring or the first comment; "?" where it says nothing."""
    if path in AROUND or path in MUTE:
        return AROUND.get(path) or MUTE[path]
    header = Path(path).with_suffix(".h")
    if path.endswith((".py", ".pyi")):
        text = _read(ROOT / path)[0]
    else:
        text = (ROOT / path).read_text(encoding="utf-8")
        mark = r"//+|/\*+|\*+" if Path(path).suffix in CPP else r"#+|<!--|/\*+"
        comment = re.match(rf"(?:#![^\n]*\n)?((?:\s*(?:{mark})(?: [^\n]*)?\n)+)", text)
        text = re.sub(rf"(?m)^\s*(?:{mark}) ?|\s*(?:-->|\*/)$", "", comment[1]) if comment else ""
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    sentence = re.split(r"(?<!\bal)\.(?= [A-Z`]|$)", paragraph)[0].strip()
    if not sentence and path.endswith(".cpp") and (ROOT / header).exists():
        sentence = f"the body of `{header.name}`"
    return re.sub(r"^[A-Z]{3,}: ", "", sentence) or "?"


@cache
def render() -> str:
    """MAP.md as the tree has it."""
    text, files = HEAD, source_files()
    for section, title in SECTIONS.items():
        there = [path for path in files if room(path) == section]
        if there:
            lines = (
                f"- `{path}`: {first_sentence(path)}\n" for path in (there if section == "around" else in_order(there))
            )
            text += f"\n## {section}: {title}\n\n" + "".join(lines)
    return text


if __name__ == "__main__":
    due, now = render(), (ROOT / "MAP.md").read_text(encoding="utf-8") if (ROOT / "MAP.md").exists() else ""
    print("".join(difflib.unified_diff(now.splitlines(True), due.splitlines(True), "MAP.md", "the tree", n=0)), end="")
    if "--write" in sys.argv:
        (ROOT / "MAP.md").write_text(due, encoding="utf-8")

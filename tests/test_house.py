"""The rules of the house: who may import whom, what planning leaves out, the map, and manners a machine can check."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
import tree
from conftest import Emulator
from tree import PACKAGE, RANK, ROOT

MODULES = sorted(path for path in PACKAGE.rglob("*.py"))
HEAVY = ("torch", "transformers", "diffusers")
LATE = (*HEAVY, "numpy", "rich", "jinja2", "tokenizers", "huggingface_hub", "safetensors")
MAX_LINES, MAX_TECHNIQUE_LINES, MAX_FUNCTION_LINES = 300, 150, 60

# Each pattern is written so that it does not find itself.
FORBIDDEN = {
    "a path of one machine": r"(?<![\w.~])/(?:wor[k]|far[m]|roo[t]|home/[a-z]+)/",
    "the host of a package registry": r"pypi[.]org|pythonhosted[.]org|npmjs[.](?:org|com)|debian[.]org|crates[.]io",
    "how it was made": r"(?i)\bsub-?agent|\bcoding assistant\b|\bfarm-[a-z]|/[.]library\b|\bissue #?\d",
    "unfinished work": r"\b(?:TOD[O]|FIXM[E]|XX[X]|HAC[K])\b",
}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@cache
def checked(path: Path) -> tuple[ast.AST, ...]:
    """What is said of functions, of what is caught and of what is called."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ExceptHandler, ast.Call)
    return tuple(node for node in ast.walk(parsed(path)) if isinstance(node, kinds))


def test_every_file_is_in_a_room() -> None:
    strangers = [name(path) for path in MODULES if tree.room(name(path)) not in RANK]
    assert not strangers, f"no room of tests/tree.py holds {strangers}"


def test_rooms_import_from_left_to_right_only() -> None:
    wrong = []
    for path in MODULES:
        own = tree.room(name(path))
        for line, imported in tree.imports(path, PACKAGE.parent):
            parts = imported.split(".")
            if parts[0] != "pintpot" or len(parts) == 1 or parts[1] == own or parts[1].startswith("__"):
                continue
            if RANK.get(parts[1], len(RANK)) >= RANK[own]:
                wrong.append(f"{name(path)}:{line}: {own} imports {imported}")
    assert not wrong, "\n".join(wrong)


def test_techniques_and_families_are_strangers_to_each_other() -> None:
    wrong = []
    for path in MODULES:
        if tree.room(name(path)) != "techniques" or path.name == "__init__.py":
            continue
        wrong += [
            f"{name(path)}:{line}: {what}"
            for line, what in tree.imports(path, PACKAGE.parent)
            if "pintpot.techniques" in what
        ]
    assert not wrong, "a technique names another:\n" + "\n".join(wrong)


def test_the_import_rules_see_every_kind_of_import(tmp_path: Path) -> None:
    module = tmp_path / "pintpot" / "planner" / "deep" / "one.py"
    module.parent.mkdir(parents=True)
    module.write_text(
        "import pintpot.cli\nfrom pintpot import api\nfrom ..price import f\nfrom ... import proof\n"
        "def g():\n    from pintpot.packer.pack import h\n    importlib.import_module('pintpot.server')\n"
    )
    assert [what for _, what in sorted(tree.imports(module, tmp_path))] == [
        "pintpot.cli",
        "pintpot.api",
        "pintpot.planner.price.f",
        "pintpot.proof",
        "pintpot.packer.pack.h",
        "pintpot.server",
    ]


COMMAND = """
import sys
sys.argv = {command!r}
from pintpot.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""


def loaded_after(code: str, *watched: str) -> set[str]:
    """Which of the watched top-level modules a fresh interpreter has loaded after running `code`."""
    report = f"import sys\nprint('\\n' + ' '.join(sorted({set(watched)!r} & set(sys.modules))))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], check=True, stdout=subprocess.PIPE, text=True)
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_package_brings_nothing_heavy() -> None:
    assert loaded_after("import pintpot", *LATE) == set()
    assert loaded_after("import json", "json", "torch") == {"json"}


def test_planning_brings_no_torch(smollm2: Path) -> None:
    command = ["pintpot", "plan", str(smollm2), "--memory", "300MB", "--context", "256"]
    code = COMMAND.format(command=command)
    assert loaded_after(code, *HEAVY, "pintpot") == {"pintpot"}


def test_public_names_are_there_and_typed() -> None:
    import pintpot

    assert pintpot.__all__, "nothing is public"
    for public in pintpot.__all__:
        value = getattr(pintpot, public)
        if inspect.isfunction(value):
            signature = inspect.signature(value)
            untyped = [key for key, one in signature.parameters.items() if one.annotation is one.empty]
            assert not untyped, f"{public}: {untyped} have no type"
            assert signature.return_annotation is not signature.empty, f"{public} does not say what it returns"
        if inspect.isfunction(value) or inspect.isclass(value):
            assert inspect.getdoc(value), f"{public} has no docstring"
    assert set(pintpot.__all__) <= set(dir(pintpot)), "dir() hides public names"
    with pytest.raises(AttributeError):
        pintpot.no_such_name  # noqa: B018
    assert (PACKAGE / "py.typed").exists()


def test_the_map_is_the_tree() -> None:
    there = (ROOT / "MAP.md").read_text(encoding="utf-8").splitlines()
    due = tree.render().splitlines()
    lacking, untrue = [line for line in due if line not in there], [line for line in there if line not in due]
    assert not lacking, f"`make map` mends MAP.md, which lacks {lacking}"
    assert not untrue, f"`make map` mends MAP.md, where these are no longer so: {untrue}"
    assert there == due, "MAP.md is out of order; `make map` mends it"


def test_the_map_names_every_file_once_after_what_it_uses() -> None:
    named = re.findall(r"(?m)^- `([^`]+)`: .+", tree.render())
    assert sorted(named) == sorted(tree.source_files())
    place = {path: i for i, path in enumerate(named)}
    assert place["src/pintpot/errors.py"] < place["src/pintpot/units.py"] < place["src/pintpot/proof/html.py"]
    assert place["src/pintpot/proof/scale.py"] < place["src/pintpot/proof/svg.py"]
    silent = [path for path in named if tree.first_sentence(path) == "?"]
    assert not silent, f"no first comment (data files: MUTE in tests/tree.py) says what these are: {silent}"


def test_every_module_says_what_it_is() -> None:
    silent = [name(path) for path in MODULES if parsed(path).body and not ast.get_docstring(parsed(path))]
    silent += [name(path) for path in sorted((ROOT / "tests").glob("*.py")) if not ast.get_docstring(parsed(path))]
    assert not silent, f"no docstring: {silent}"


def test_files_and_functions_are_short() -> None:
    long = []
    for path in [*MODULES, *(path for path in (ROOT / "native").rglob("*") if path.suffix in tree.KINDS)]:
        technique = path.is_relative_to(PACKAGE / "techniques")
        num, most = len(path.read_text(encoding="utf-8").splitlines()), MAX_TECHNIQUE_LINES if technique else MAX_LINES
        if num > most:
            long.append(f"{name(path)}: {num} lines, {most} at most")
    for path in MODULES:
        for node in checked(path):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                num = (node.end_lineno or node.lineno) - node.lineno + 1
                if num > MAX_FUNCTION_LINES:
                    long.append(
                        f"{name(path)}:{node.lineno}: {node.name} has {num} lines, {MAX_FUNCTION_LINES} at most"
                    )
    assert not long, "\n".join(long)


def test_manners() -> None:
    wrong = []
    for path in MODULES:
        for node in checked(path):
            if isinstance(node, ast.ExceptHandler):
                kinds = {part.id for part in ast.walk(node.type) if isinstance(part, ast.Name)} if node.type else {""}
                tidies_up = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
                if kinds & {"", "Exception", "BaseException"} and not tidies_up:
                    wrong.append(f"{name(path)}:{node.lineno}: catches everything")
            called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            if called == "hasattr":
                wrong.append(f"{name(path)}:{node.lineno}: probes with hasattr")
            if called == "print" and tree.room(name(path)) != "cli":
                wrong.append(f"{name(path)}:{node.lineno}: prints, which only the command line does")
    assert not wrong, "\n".join(wrong)


def test_no_word_that_does_not_belong() -> None:
    found = []
    for path in [*tree.source_files(), "MAP.md"]:
        text = (ROOT / path).read_text(encoding="utf-8")
        for what, pattern in FORBIDDEN.items():
            for match in re.finditer(pattern, text):
                found.append(f"{path}:{text.count(chr(10), 0, match.start()) + 1}: {what}: {match[0]!r}")
    assert not found, "\n".join(found)


def test_license_changelog_and_portable_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    license_text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in license_text
    assert "END OF TERMS AND CONDITIONS" in license_text
    assert re.search(rf"(?m)^## {re.escape(project['version'])}\b", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert not {"torch", "transformers"} & {re.split(r"[<>=\[;~! ]", line)[0] for line in project["dependencies"]}
    flags = [path for path in (ROOT / "native").rglob("*") if path.name == "CMakeLists.txt" or path.suffix == ".cmake"]
    for path in [*flags, ROOT / "pyproject.toml", ROOT / "Makefile"]:
        said = re.sub(r"(?m)#.*$", "", path.read_text(encoding="utf-8"))
        assert "-march=native" not in said, f"{name(path)} builds for one machine only"


@pytest.mark.parametrize(("in_ci", "exit_code"), [("true", 1), ("", 0)])
def test_a_skip_is_named_and_fails_in_ci(tmp_path: Path, in_ci: str, exit_code: int) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text(encoding="utf-8"))
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = cuda: there is a device\n")
    (tmp_path / "test_one.py").write_text(
        "import pytest\ndef test_good(): pass\ndef test_bad(): pytest.skip('for a reason')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", str(tmp_path)],
        env={**os.environ, "CI": in_ci},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == exit_code, done.stdout
    assert "for a reason" in done.stdout
    assert ("in CI nothing may be" in done.stdout) == (in_ci == "true")


def test_the_emulated_cpu_has_no_avx_and_computes(emulator: Emulator) -> None:
    code = "import numpy, json; print(json.dumps(numpy.arange(4.0).cumsum().tolist()))"
    assert emulator.run(code) == "[0.0, 1.0, 3.0, 6.0]\n"
    with pytest.raises(subprocess.CalledProcessError):
        emulator.run("raise SystemExit(3)")

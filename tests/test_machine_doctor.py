"""The doctor's findings, here and on machines that lack things."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pintpot.machine import doctor as room
from pintpot.machine.doctor import doctor, home_finding, huge_pages_finding, platform_finding


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PINTPOT_HOME", str(tmp_path / "home"))


def test_everything_is_looked_at_once_and_in_words() -> None:
    found = doctor()
    names = [finding.name for finding in found]
    assert len(set(names)) == len(names)
    for name in ("platform", "python", "compiled part", "compiler", "memory", "disk", "direct reads", "memory cap"):
        assert name in names
    assert all(finding.what for finding in found)
    assert all(finding.advice for finding in found if finding.ok is False)
    assert next(finding for finding in found if finding.name == "python").ok is True


def test_another_system_is_refused_in_words() -> None:
    found = platform_finding("Windows")
    assert found.ok is False
    assert "Linux" in found.advice


def test_on_another_system_only_what_can_be_asked_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "platform_finding", lambda: platform_finding("Darwin"))
    assert [finding.name for finding in doctor()] == ["platform", "torch", "transformers", "gguf"]


def test_a_filesystem_without_direct_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "takes_direct_reads", lambda place: False)
    found = room.direct_finding()
    assert found.ok is None
    assert "does not take them" in found.what


def test_no_compiler_is_no_trouble_for_who_has_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room.shutil, "which", lambda name: None)
    found = room.compiler_finding()
    assert found.ok is None
    assert "install" in found.advice


def test_a_home_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert home_finding().ok is True
    assert list(tmp_path.iterdir()) == [], "what was tried leaves nothing"
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "home", tmp_path / "file", Path("/proc/nohome")):
        monkeypatch.setenv("PINTPOT_HOME", str(place))
        found = home_finding()
        assert found.ok is False
        assert f"{place} cannot be written (" in found.what
        assert "PINTPOT_HOME" in found.advice
        assert any(one == found for one in doctor()), "the other looks bear with such a home"


def test_huge_pages(tmp_path: Path) -> None:
    setting = tmp_path / "enabled"
    assert huge_pages_finding(setting).ok is None
    setting.write_text("always madvise [never]\n")
    assert (huge_pages_finding(setting).ok, huge_pages_finding(setting).what) == (None, "never")
    setting.write_text("always [madvise] never\n")
    assert huge_pages_finding(setting).ok is True


def test_looking_for_extras_imports_none() -> None:
    script = (
        "import sys; from pintpot.machine.doctor import doctor; doctor();"
        "print(sorted({'torch', 'transformers', 'gguf', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""Data sheets: every number has its source, and a user's own file is read or refused by key."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

import pintpot.machine.catalog as catalog
from pintpot.errors import BadInput
from pintpot.formats import KERNEL_FORMATS
from pintpot.machine.catalog import catalog_names, load_machine

FOLDER = Path(catalog.__file__).with_name("catalog")
OWN = """
name = "my box"
[sources.me]
title = "measured at home"
[device]
kind = "cpu"
memory_bytes = "16GB"
threads = 8
source = "me"
[[rates]]
what = "read"
per_second = 40e9
low = 30e9
source = "me"
[[rates]]
what = "disk"
per_second = 2e9
threads = 4
size = 1048576
source = "me"
"""


def own(tmp_path: Path, text: str = OWN) -> Path:
    path = tmp_path / "box.toml"
    path.write_text(text)
    return path


def test_the_promised_machines_are_there() -> None:
    for name in ("V100", "A100", "H100", "RTX 4060", "RTX 4090", "Jetson Orin Nano", "Apple M4", "Raspberry Pi 5"):
        assert load_machine(name).origin == "catalog"


@pytest.mark.parametrize("name", catalog_names())
def test_every_number_names_its_source_and_what_was_published(name: str) -> None:
    data = tomllib.loads((FOLDER / f"{name}.toml").read_text())
    for table in (data["device"], *data["rates"]):
        source = data["sources"][table["source"]]
        assert source["url"].startswith("https://")
        assert source["title"]
        assert table["published"]


@pytest.mark.parametrize("name", catalog_names())
def test_a_catalog_machine_can_be_planned_for_and_says_where_it_is_from(name: str) -> None:
    machine = load_machine(name)
    assert "data sheets" in machine.notes[0]
    for what in ("read", *(f"{kind}/{form}" for kind in ("matvec", "matmul", "expand") for form in KERNEL_FORMATS)):
        rate = machine.rate(what, threads=1)
        assert rate is not None
        assert 0 < rate.low <= rate.mid <= rate.high
    assert load_machine(name).digest == machine.digest


def test_names_are_found_in_any_spelling() -> None:
    assert load_machine("rtx-4090") == load_machine("NVIDIA GeForce RTX 4090") == load_machine("4090")
    with pytest.raises(BadInput, match=r"'PDP-11'.*raspberry_pi_5"):
        load_machine("PDP-11")


def test_the_rules_of_derivation_are_what_the_notes_say(tmp_path: Path) -> None:
    machine = load_machine(own(tmp_path))
    matvec, copy = machine.rate("matvec/f32"), machine.rate("copy")
    assert matvec is not None
    assert copy is not None
    assert (matvec.low, matvec.mid) == pytest.approx((30e9 / 4, 40e9 / 4))
    assert copy.mid == 20e9
    assert machine.rate("barrier") is None
    matmul = machine.rate("matmul/f32", size=64)
    assert matmul is not None
    assert (matmul.low, matmul.high) == pytest.approx((matvec.low, 64 * matvec.high))
    assert any("as if each came alone" in note for note in machine.notes)
    assert any(note.startswith("barriers") for note in machine.notes)
    assert not any("no disk rate" in note for note in machine.notes)
    assert machine.cpu.memory_bytes == 16_000_000_000


def test_a_given_rate_is_not_derived_again(tmp_path: Path) -> None:
    extra = '[[rates]]\nwhat = "matvec/sym4"\nper_second = 5e9\n[[rates]]\nwhat = "int8_peak"\nper_second = 1e12\n'
    machine = load_machine(own(tmp_path, OWN + extra))
    assert [rate.mid for rate in machine.rates if rate.what == "matvec/sym4"] == [5e9]
    matmul = machine.rate("matmul/sym4")
    assert matmul is not None
    assert matmul.mid == 1e12


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('name = "my box"', "", "name is missing"),
        ('name = "my box"', 'name = "x"\ncolour = "red"', "unknown key 'colour'"),
        ("threads = 8", "thread = 8", "device: unknown key 'thread'"),
        ("threads = 8", "threads = 0", "device.threads is 1 or more"),
        ('kind = "cpu"', 'kind = "tpu"', "device.kind is cpu or cuda"),
        ('memory_bytes = "16GB"', "", "device.memory_bytes"),
        ('what = "read"', 'what = "reed"', r"rates\[0\].what is no rate"),
        ("per_second = 40e9", "per_second = -1", r"rates\[0\].*more than 0"),
        ("per_second = 40e9", "per_second = nan", r"rates\[0\]: per_second is missing or not a number"),
        ("per_second = 40e9", "per_second = 20e9", "low <= per_second"),
        ('what = "read"', 'what = "copy"', "neither read nor cuda/read"),
        ('source = "me"\n[[rates]]\nwhat = "disk"', 'source = "you"\n[[rates]]\nwhat = "disk"', "source 'you' is not"),
        ('title = "measured at home"', "", "sources.me: title is missing"),
        ("[device]", "[device", "is not TOML"),
    ],
)
def test_a_wrong_file_is_refused_by_key(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    assert old in OWN
    with pytest.raises(BadInput, match=complaint):
        load_machine(own(tmp_path, OWN.replace(old, new)))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        load_machine(tmp_path / "none.toml")

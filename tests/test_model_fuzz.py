"""Damaged GGUF and safetensors files, 1,000 of them from fixed seeds: an error of ours or a valid description."""

from __future__ import annotations

import signal
import tracemalloc
from collections.abc import Iterator

import pytest
from fuzz import Original, damaged, originals, outcome

NUM_CASES = 1000
_PARTS = 4
_SPARE_BYTES = 2**20


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> list[Original]:
    return originals(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def impatient() -> Iterator[None]:
    """A case that hangs is interrupted after 10 seconds."""

    def late(*_: object) -> None:
        raise TimeoutError("describing a damaged file took over 10 seconds")

    before = signal.signal(signal.SIGALRM, late)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_sound_files_are_described(sound: list[Original]) -> None:
    for original in sound:
        assert outcome(original, original.data).startswith("ok")


@pytest.mark.parametrize("part", range(_PARTS))
def test_damaged_files(sound: list[Original], part: int, impatient: None) -> None:
    good = set()
    tracemalloc.start()
    try:
        for seed in range(part, NUM_CASES, _PARTS):
            original = sound[seed // 2 % len(sound)]
            data = damaged(original, seed)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            signal.alarm(10)
            result = outcome(original, data)
            used = tracemalloc.get_traced_memory()[1] - before
            assert used < len(data) + _SPARE_BYTES, f"seed {seed}: {used} bytes for a file of {len(data)}"
            good.add(result.split()[0])
    finally:
        tracemalloc.stop()
    assert "BadFile:" in good


def test_damage_reaches_what_it_should(sound: list[Original]) -> None:
    results = [outcome(original, damaged(original, seed)) for seed in range(0, 80, 2) for original in sound]
    refused = sum(result.startswith("BadFile") for result in results)
    assert 0.5 < refused / len(results) < 1.0
    assert len({result.split(":")[-1] for result in results}) > 30

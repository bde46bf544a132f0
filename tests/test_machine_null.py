"""The null machine, and looking up rates."""

from __future__ import annotations

import json

import pytest

from pintpot.errors import BadInput
from pintpot.machine.null import null_machine
from pintpot.machine.spec import Machine, Rate


def test_its_rates_are_round_and_known() -> None:
    machine = null_machine(memory_bytes=5, threads=4, ram_bw=30e9, disk_bw=3e9)
    assert machine.cpu.memory_bytes == 5
    for what, wanted in (("read", 30e9), ("copy", 15e9), ("disk", 3e9), ("int8_peak", 800e9), ("matmul/sym4", 400e9)):
        rate = machine.rate(what, threads=4)
        assert rate is not None
        assert rate.low == rate.mid == rate.high == wanted


def test_a_matvec_is_bound_by_ram_or_by_arithmetic() -> None:
    machine = null_machine(ram_bw=20e9)
    from_ram, cached = machine.rate("matvec/f32", threads=2), machine.rate("matvec/f32", threads=2, size=1 << 20)
    assert from_ram is not None
    assert cached is not None
    assert (from_ram.mid, cached.mid) == (5e9, 20e9)


def test_the_spread_is_as_asked() -> None:
    rate = null_machine(spread=0.25).rate("read")
    assert rate is not None
    assert (rate.low, rate.high) == (15e9, 25e9)


def test_a_record_survives_json() -> None:
    machine = null_machine()
    again = Machine.from_json(json.loads(json.dumps(machine.to_json())))
    assert again == machine
    assert again.digest == machine.digest
    assert null_machine(threads=3).digest != machine.digest


@pytest.mark.parametrize("key", ["devices", "rates", "process_bytes"])
def test_a_record_without_a_key_is_refused(key: str) -> None:
    data = null_machine().to_json()
    del data[key]
    with pytest.raises(BadInput, match=key):
        Machine.from_json(data)


def test_the_nearest_rate_is_looked_up() -> None:
    rates = tuple(Rate("read", 1, threads * 10 + size, 99, threads, size) for threads in (2, 4) for size in (1, 9))
    machine = Machine("m", "quick", "f", null_machine().devices, rates, 0, 0, True)
    seen = [machine.rate("read", threads=threads, size=size) for threads, size in ((1, 2), (3, 8), (8, 100))]
    assert [rate and rate.mid for rate in seen] == [21, 29, 49]
    assert machine.rate("write") is None

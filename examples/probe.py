"""Probe: measure this machine, and look at the rates that decide how fast models run on it."""

import pintpot
from pintpot.units import format_bytes

machine = pintpot.probe(quick=True)
print(f"{machine.name}: {machine.cpu.threads} threads, {format_bytes(machine.cpu.memory_bytes)}")
for what in ("read", "matvec/sym4", "matmul/sym4", "disk"):
    rate = machine.rate(what, threads=machine.cpu.threads)
    if rate is not None:
        print(f"  {what}: {rate.low / 1e9:.3g} to {rate.high / 1e9:.3g} billion a second")

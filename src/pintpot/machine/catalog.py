"""Machines one does not have: data sheets in TOML (`catalog/*.toml`), or a user's own file of the same form.

Every number names its source and what was published there; what no vendor's document gave is left out. Published peaks
are limits that real programs stay below. Rates that a plan needs and no data sheet gives are derived by the rules in
`_derived`, and the machine's notes say which.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

from pintpot.errors import BadInput, need
from pintpot.formats import KERNEL_FORMATS, encoding
from pintpot.machine.spec import CACHE_FORMATS, MATMUL_ROWS, PROLOGUES, Device, Machine, Rate
from pintpot.program.ops.attend import MANY
from pintpot.program.ops.linear import split_suffix
from pintpot.units import format_bytes, parse_bytes

_FOLDER = Path(__file__).with_name("catalog")
_PROCESS_BYTES = 60_000_000
_UNKNOWN_DISK_BYTES = 1 << 62
_PASSES = (1 / 90, 1 / 48, 1 / 16)
"""Values of a simple call of PyTorch's a second, of multiply-adds at the peak: a Xeon of the sixth generation gave a
48th from RAM, and a 16th from its caches."""
_TOP = {"name", "aliases", "sources", "device", "card", "rates"}
_DEVICE = {"kind", "memory_bytes", "threads", "features", "published", "source"}
_CARD = {"of", "published", "source"}
_RATE = {"what", "per_second", "low", "high", "threads", "size", "published", "source"}


def catalog_names() -> tuple[str, ...]:
    """Names that `load_machine` knows."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def load_machine(name_or_path: str | Path) -> Machine:
    """A machine of origin "catalog", by its name in the catalog (or an alias), or from a TOML file.

    Raises BadInput for an unknown name, and for a file whose keys or values are not what they should be, naming them.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml" or path.is_file():
        return _machine(_read(path), str(path))
    wanted = _plain(str(name_or_path))
    for stem in catalog_names():
        data = _read(_FOLDER / f"{stem}.toml")
        if wanted in {_plain(name) for name in (stem, data["name"], *data.get("aliases", ()))}:
            return _machine(data, stem)
    known = ", ".join(catalog_names())
    raise BadInput(f"no machine is called {str(name_or_path)!r}; there are {known}, or give a TOML file of your own")


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _read(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not TOML: {error}") from error


def _machine(data: dict[str, Any], where: str) -> Machine:
    _known(data, _TOP, where)
    name = _text(data, "name", where)
    table = data.get("device")
    need(isinstance(table, dict), f"{where}: [device] is missing")
    sources = data.get("sources", {})
    need(isinstance(sources, dict), f"{where}: sources is a table of tables with title and url")
    for key, source in sources.items():
        need(isinstance(source, dict), f"{where}: sources.{key} is a table with title and url")
        _text(source, "title", f"{where}: sources.{key}")
    device = _device(table, name, sources, f"{where}: device")
    tables = data.get("rates", [])
    need(isinstance(tables, list) and len(tables) > 0, f"{where}: [[rates]] is missing; read or cuda/read is needed")
    given = tuple(_rate(rate, device, sources, f"{where}: rates[{at}]") for at, rate in enumerate(tables))
    card, lent = _card(data["card"], device, sources, f"{where}: card") if "card" in data else ((), ())
    rates, notes = _derived(given, device)
    rates += lent
    titles = tuple(f"from {source['title']}, {source.get('url', 'no address')}" for source in sources.values())
    fingerprint = hashlib.sha256(repr((name, device, *card, rates)).encode()).hexdigest()[:16]
    notes = ("figures are from data sheets, not measured; real speed is lower", *titles, *notes)
    devices = (device, *card)
    return Machine(name, "catalog", fingerprint, devices, rates, _PROCESS_BYTES, _UNKNOWN_DISK_BYTES, True, notes)


def _device(table: Any, name: str, sources: dict[str, Any], where: str) -> Device:
    _known(table, _DEVICE, where)
    _source(table, sources, where)
    kind = _text(table, "kind", where)
    need(kind in ("cpu", "cuda"), f"{where}.kind is cpu or cuda, not {kind!r}")
    memory = table.get("memory_bytes")
    need(
        isinstance(memory, (int, str)) and memory is not True,
        f"{where}.memory_bytes is a size like 8000000000 or '8GB'",
    )
    num_bytes = parse_bytes(memory)
    threads = table.get("threads", 1)
    need(type(threads) is int and threads >= 1, f"{where}.threads is 1 or more, not {threads!r}")
    features = table.get("features", [])
    need(
        isinstance(features, list) and all(isinstance(item, str) for item in features),
        f"{where}.features is a list of names",
    )
    need(num_bytes > 0, f"{where}.memory_bytes is more than 0")
    return Device(name, kind, num_bytes, threads, tuple(features))


def _card(table: Any, host: Device, sources: dict[str, Any], where: str) -> tuple[tuple[Device, ...], tuple[Rate, ...]]:
    """The graphics card of a host, another entry of the catalog: the device, and its own rates."""
    need(isinstance(table, dict), f"{where} is a table")
    _known(table, _CARD, where)
    _source(table, sources, where)
    need(host.kind == "cpu", f"{where}: a card stands beside a device of kind cpu, not {host.kind}")
    machine = load_machine(_text(table, "of", where))
    need(machine.cpu.kind == "cuda", f"{where}: {machine.name} is no graphics card")
    return machine.devices[:1], tuple(rate for rate in machine.rates if rate.what.startswith("cuda/"))


def _rate(table: Any, device: Device, sources: dict[str, Any], where: str) -> Rate:
    need(isinstance(table, dict), f"{where} is a table")
    _known(table, _RATE, where)
    _source(table, sources, where)
    what = _text(table, "what", where)
    need(_is_rate_name(what), f"{where}.what is no rate: {what!r}; see pintpot.machine.spec.Rate")
    mid = _number(table, "per_second", where)
    low, high = (_number(table, key, where) if key in table else mid for key in ("low", "high"))
    need(0 < low <= mid <= high, f"{where}: low <= per_second <= high must hold, and all be more than 0")
    threads, size = (table.get(key, default) for key, default in (("threads", device.threads), ("size", 0)))
    need(type(threads) is int and threads >= 1, f"{where}.threads is 1 or more, not {threads!r}")
    need(type(size) is int and size >= 0, f"{where}.size is 0 or more, not {size!r}")
    return Rate(what, low, mid, high, threads, size)


def _is_rate_name(what: str) -> bool:
    kind, _, rest = what.partition("/")
    if kind == "cuda":
        return rest in ("read", "h2d_pinned", "h2d_pageable", "d2h_pinned") or rest.startswith("matmul/")
    if kind in ("matvec", "matmul", "expand"):
        return split_suffix(rest)[0] in KERNEL_FORMATS
    if kind == "prologue":
        return rest in PROLOGUES
    if kind in ("attend", *MANY):
        return rest in CACHE_FORMATS
    return what in ("read", "copy", "int8_peak", "float_peak", "disk", "barrier", "call")


def _derived(given: tuple[Rate, ...], device: Device) -> tuple[tuple[Rate, ...], tuple[str, ...]]:
    """The given rates and, for what they leave open, the rules: (rates, notes that state each rule used)."""
    rates = list(given)
    notes: list[str] = []

    def have(what: str) -> Rate | None:
        return next((rate for rate in rates if rate.what == what), None)

    def derive(what: str, base: Rate, factor: float, rule: str, size: int = 0) -> None:
        if not any(rate.what == what for rate in given):
            rates.append(Rate(what, factor * base.low, factor * base.mid, factor * base.high, device.threads, size))
            if rule not in notes:
                notes.append(rule)

    if device.kind == "cuda":
        for what, source in (("read", "read"), ("int8_peak", "matmul/int8"), ("float_peak", "matmul/f32")):
            if (rate := have(f"cuda/{source}")) is not None:
                derive(what, rate, 1.0, "the graphics card's own memory and arithmetic are taken for the device's")
    read = have("read")
    need(read is not None, f"{device.name}: neither read nor cuda/read is given, and nothing runs without memory")
    if read is None:
        return tuple(rates), tuple(notes)
    peak = have("float_peak")
    if peak is not None and device.kind == "cpu" and have("aten/values") is None:
        low, mid, high = (share * peak.mid for share in _PASSES)
        rates.append(Rate("aten/values", low, mid, high, device.threads))
        notes.append("passes over values: a 16th to a 90th of the float peak, as on processors that were measured")
    derive("copy", read, 0.5, "copy: half of read, each byte crosses the bus twice")
    for name in CACHE_FORMATS:
        derive(f"attend/{name}", read, 1.0, "attention: the cache is read at the memory's bandwidth")
    for name in KERNEL_FORMATS:
        bits = encoding(name).strip_bytes(4096) / (16 * 4096)
        derive(f"matvec/{name}", read, 1 / bits, "matvec: bound by reading the weights once")
        derive(f"expand/{name}", read, 1 / (4 + bits), "packing: bound by reading 4 bytes and writing the format")
    for rate, rule in _matmul_rules(rates):
        for rows in MATMUL_ROWS:
            known = not rate.what.startswith("matvec/")
            derive(rule[0], rate if known else _open(rate, rows), 1.0, rule[1], rows)
    notes += _missing(rates)
    return tuple(rates), tuple(notes)


def _open(single: Rate, rows: int) -> Rate:
    """Of products nobody has a peak for: as slow as so many single rows, as fast as one reading for all of them."""
    return replace(single, mid=single.mid * sqrt(rows), high=single.high * rows)


def _matmul_rules(rates: list[Rate]) -> Iterator[tuple[Rate, tuple[str, str]]]:
    by_name = {rate.what: rate for rate in rates}
    for name in KERNEL_FORMATS:
        is_float = encoding(name).kind == "float"
        peaks = (f"cuda/matmul/{name}", "float_peak") if is_float else ("int8_peak", "cuda/matmul/f16", "float_peak")
        peak = next((by_name[what] for what in peaks if what in by_name), None)
        if peak is not None:
            yield peak, (f"matmul/{name}", "matmul: at the published peak of the instructions that fit the format")
        else:
            rule = "matmul: no arithmetic peak was found; many rows may take as long as if each came alone"
            yield by_name[f"matvec/{name}"], (f"matmul/{name}", rule)


def _missing(rates: list[Rate]) -> Iterator[str]:
    names = {rate.what for rate in rates}
    if "disk" not in names:
        yield "no disk rate is known: streaming from disk cannot be priced; a TOML file of your own can give one"
    if "barrier" not in names or "call" not in names:
        yield "barriers and calls: in no data sheet, counted as nothing"
    yield f"interpreter and libraries: {format_bytes(_PROCESS_BYTES)} assumed, and disk room not checked"


def _known(table: dict[str, Any], keys: set[str], where: str) -> None:
    for key in table:
        need(key in keys, f"{where}: unknown key {key!r}; there are {', '.join(sorted(keys))}")


def _text(table: dict[str, Any], key: str, where: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value:
        raise BadInput(f"{where}: {key} is missing or not text")
    return value


def _number(table: dict[str, Any], key: str, where: str) -> float:
    value = table.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value < float("inf"):
        raise BadInput(f"{where}: {key} is missing or not a number")
    return float(value)


def _source(table: dict[str, Any], sources: dict[str, Any], where: str) -> None:
    source = table.get("source")
    need(source is None or source in sources, f"{where}: source {source!r} is not among [sources]")

"""Single values of a configuration, each checked and named in its error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pintpot.errors import BadFile

_MAX_NUMBER = 2**31 - 1


def integer(config: Mapping[str, Any], key: str, where: str, *, least: int = 1, default: int | None = None) -> int:
    """A whole number from `least` to 2^31 - 1. Raises BadFile naming the key where it is missing or is none."""
    value = _given(config, key, where, default)
    if type(value) is not int or not least <= value <= _MAX_NUMBER:
        raise BadFile(f"{where}: {key} is {show(value)}; a whole number from {least} to {_MAX_NUMBER} is needed")
    return value


def real(config: Mapping[str, Any], key: str, where: str, *, default: float | None = None) -> float:
    """A finite number above 0. Raises BadFile naming the key where it is missing or is none."""
    value = _given(config, key, where, default)
    if type(value) not in (int, float) or not 0 < value < 1e300 or not math.isfinite(value):
        raise BadFile(f"{where}: {key} is {show(value)}; a finite number above 0 is needed")
    return float(value)


def reals(config: Mapping[str, Any], key: str, where: str, *, count: int) -> list[float]:
    """So many finite numbers above 0. Raises BadFile naming the key where they are missing, more or fewer, or none."""
    values = config.get(key)
    if not isinstance(values, list) or len(values) != count:
        found = "is missing" if values is None else f"is {show(values)}"
        raise BadFile(f"{where}: {key} {found}; a list of {count} numbers is needed")
    return [real({key: value}, key, where) for value in values]


def flag(config: Mapping[str, Any], key: str, where: str, *, default: bool = False) -> bool:
    """True or false. Raises BadFile naming the key for anything else."""
    value = _given(config, key, where, default)
    if not isinstance(value, bool):
        raise BadFile(f"{where}: {key} is {show(value)}; true or false is needed")
    return value


def _given(config: Mapping[str, Any], key: str, where: str, default: Any) -> Any:
    value = config.get(key)
    if value is None and default is None:
        raise BadFile(f"{where}: {key} is missing")
    return default if value is None else value


def token_ids(value: Any, vocab_size: int) -> list[int]:
    """An id, a list of ids or nothing -> the ids that the vocabulary has, each once, in order."""
    listed = value if isinstance(value, list) else [value]
    good = (item for item in listed if type(item) is int and 0 <= item < vocab_size)
    return list(dict.fromkeys(good))


def show(value: Any) -> str:
    """A value as errors print it, at most 60 characters."""
    if isinstance(value, int) and value.bit_length() > 200:
        return "a number of over 60 digits"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

"""Whether values that came out of a file have the types that their dataclasses declare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pintpot.errors import need


def check_types(value: object, where: str) -> None:
    """Walk a dataclass and all inside it. Raises BadInput naming the first value of another type than declared."""
    kind: Any = type(value)
    for name, hint in _hints(kind):
        _check(getattr(value, name), hint, f"{where}.{name}")


@cache
def _hints(kind: Any) -> tuple[tuple[str, Any], ...]:
    hints = get_type_hints(kind)
    return tuple((field.name, hints[field.name]) for field in fields(kind))


def _check(value: object, hint: Any, where: str) -> None:
    if hint is Any:
        return
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        _check_union(value, arguments, where)
    elif origin is Literal:
        need(value in arguments, f"{where} is {value!r:.60}, not one of {arguments}")
    elif origin is tuple:
        _check_tuple(value, arguments, where)
    else:
        _check_plain(value, origin or hint, where)


def _check_plain(value: object, kind: Any, where: str) -> None:
    good = type(value) in (int, float) if kind is float else isinstance(value, kind)
    # True is an int to Python, and no number in a file.
    good = good and not (kind is int and isinstance(value, bool))
    need(good, f"{where} is {value!r:.60}, not {_name(kind)}")
    if isinstance(value, tuple):
        for index, item in enumerate(value):
            _inside(item, f"{where}[{index}]")
    else:
        _inside(value, where)


def _inside(value: object, where: str) -> None:
    if is_dataclass(value) and not isinstance(value, type):
        check_types(value, where)


def _check_union(value: object, kinds: tuple[Any, ...], where: str) -> None:
    if value is None and NoneType in kinds:
        return
    # The unions of what a pack holds are "something, or None".
    _check(value, next(kind for kind in kinds if kind is not NoneType), where)


def _check_tuple(value: object, kinds: tuple[Any, ...], where: str) -> None:
    if not isinstance(value, tuple):
        need(isinstance(value, list), f"{where} is {value!r:.60}, not a list")
    items: Any = value
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(items)
    need(len(items) == len(kinds), f"{where} has {len(items)} items, not {len(kinds)}")
    for index, (item, kind) in enumerate(zip(items, kinds, strict=True)):
        _check(item, kind, f"{where}[{index}]")


def _name(kind: Any) -> str:
    return "an object" if kind is Mapping else f"a {getattr(kind, '__name__', kind)}"

"""Whether values that came out of a file have the types that their dataclasses declare.

A type is turned into a function once, for a manifest holds thousands of values of a few types.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pintpot.errors import BadInput

Check = Callable[[Any], str]
"""What is wrong with a value, from its place within on (".field[3] is 'x', not a int"); "" where nothing is."""


def check_types(value: object, where: str) -> None:
    """Walk a dataclass and all inside it. Raises BadInput naming the first value of another type than declared."""
    kind: Any = type(value)
    wrong = _dataclass(kind)(value)
    if wrong:
        raise BadInput(where + wrong)


@cache
def _dataclass(kind: Any) -> Check:
    hints = get_type_hints(kind)
    checks = [(field.name, _check(hints[field.name])) for field in fields(kind)]

    def check(value: Any) -> str:
        for name, inside in checks:
            if wrong := inside(getattr(value, name)):
                return f".{name}{wrong}"
        return ""

    return check


@cache
def _check(hint: Any) -> Check:
    if hint is Any:
        return lambda value: ""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _optional(arguments)
    if origin is Literal:
        return lambda value: "" if value in arguments else f" is {value!r:.60}, not one of {arguments}"
    if origin is tuple:
        return _tuple(arguments)
    return _plain(origin or hint)


def _plain(kind: Any) -> Check:
    exact = (int, float) if kind is float else (kind,)

    def check(value: Any) -> str:
        found = type(value)
        if found in _SIMPLE:
            # True is an int to Python, and no number in a file.
            return "" if found in exact or (found is not bool and isinstance(value, kind)) else _differs(value, kind)
        if kind is float or not isinstance(value, kind):
            return _differs(value, kind)
        return _inside(value)

    return check


_SIMPLE = frozenset({int, float, str, bool, NoneType})


def _inside(value: Any) -> str:
    kind: Any = type(value)
    if is_dataclass(value):
        return _dataclass(kind)(value)
    items = enumerate(value) if kind is tuple else ()
    return next((f"[{index}]{wrong}" for index, item in items if (wrong := _inside(item))), "")


def _optional(kinds: tuple[Any, ...]) -> Check:
    # The unions of what a pack holds are "something, or None".
    inside = _check(next(kind for kind in kinds if kind is not NoneType))
    return lambda value: "" if value is None and NoneType in kinds else inside(value)


def _tuple(kinds: tuple[Any, ...]) -> Check:
    every = _check(kinds[0]) if len(kinds) == 2 and kinds[1] is Ellipsis else None
    each = None if every is not None else [_check(kind) for kind in kinds]

    def check(value: Any) -> str:
        if not isinstance(value, tuple | list):
            return f" is {value!r:.60}, not a list"
        checks = [every] * len(value) if every is not None else each or []
        if len(checks) != len(value):
            return f" has {len(value)} items, not {len(checks)}"
        for index, (inside, item) in enumerate(zip(checks, value, strict=True)):
            if wrong := inside(item):
                return f"[{index}]{wrong}"
        return ""

    return check


def _differs(value: object, kind: Any) -> str:
    name = "an object" if kind is Mapping else f"a {getattr(kind, '__name__', kind)}"
    return f" is {value!r:.60}, not {name}"

"""The filters and functions that a chat template may use.

Those of jinja2 that cannot grow what they are given are taken as they are; those that can are counted first. Any other
is not offered: a template that asks for one is refused, by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import wraps
from typing import Any

from jinja2.exceptions import SecurityError, TemplateRuntimeError
from jinja2.filters import FILTERS, do_indent, do_join, do_replace
from jinja2.nodes import EvalContext
from jinja2.utils import Namespace, pass_eval_context

from pintpot.model.tokens.template_meter import METER, bounded

_AS_THEY_ARE = (
    "abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "int", "items", "last",
    "length", "lower", "map", "max", "min", "reject", "rejectattr", "reverse", "safe", "select", "selectattr", "sort",
    "title", "trim", "truncate", "unique", "upper", "wordcount",
)  # fmt: skip
_MAX_INDENT = 64


class Refusal(TemplateRuntimeError):
    """The template itself says that it cannot render these messages."""


class SizedPasses:
    """What a loop runs over, every pass counted; it has a length, for a loop that asks for its own."""

    def __init__(self, values: Any) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[Any]:
        return _counted_passes(self._values)


class PlainNamespace(Namespace):
    """jinja2's namespace without names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args
        values = make_dict(*rest, **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def filters() -> dict[str, Callable[..., Any]]:
    """All filters by name; the last three are put into a template by the sandbox, around what must be counted."""
    own: dict[str, Callable[..., Any]] = {
        "indent": _indent, "join": _join, "list": _list, "replace": _replace, "string": _string, "tojson": _tojson,
        "_passes": _passes, "_weighed": _weighed, "_printable": _printable,
    }  # fmt: skip
    return {name: _counted(function) for name, function in ({key: FILTERS[key] for key in _AS_THEY_ARE} | own).items()}


def functions() -> dict[str, Callable[..., Any]]:
    """The functions of a template besides `range`."""
    return {
        "dict": make_dict, "namespace": PlainNamespace, "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
    }  # fmt: skip


def make_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    """`dict(...)`, weighed."""
    made: dict[Any, Any] = METER.get().weigh(dict(*args, **kwargs))
    return made


def _counted(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        METER.get().step()
        return function(*args, **kwargs)

    return counted


def _passes(values: Any) -> Any:
    return SizedPasses(values) if isinstance(values, (list, tuple, range, Mapping, str)) else _counted_passes(values)


def _counted_passes(values: Iterable[Any]) -> Iterator[Any]:
    meter = METER.get()
    for value in values:
        meter.step()
        yield value


def _weighed(value: Any) -> Any:
    return METER.get().weigh(value)


def _printable(value: Any) -> Any:
    return METER.get().printable(value)


def _list(values: Iterable[Any]) -> list[Any]:
    meter, made = METER.get(), []
    for value in values:
        meter.chars(8)
        made.append(value)
    return made


def _string(value: Any) -> str:
    return str(_printable(value))


@pass_eval_context
def _join(context: EvalContext, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    items = _list(value)
    METER.get().chars(len(items) * len(d))
    _printable(items)
    joined: str = do_join(context, items, d, attribute)
    return joined


@pass_eval_context
def _replace(context: EvalContext, s: str, old: str, new: str, count: int | None = None) -> str:
    text = _string(s)
    METER.get().chars(text.count(old) * len(new))
    return do_replace(context, text, old, new, count)


def _indent(s: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    margin = len(width) if isinstance(width, str) else width
    bounded(margin <= _MAX_INDENT, "it indents too far")
    METER.get().chars(len(s) + (len(s.splitlines()) + 1) * margin)
    return str(do_indent(s, width, first, blank))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as the templates of published models expect it: nothing is escaped for HTML."""
    bounded(indent is None or (isinstance(indent, int) and indent <= _MAX_INDENT), "it indents JSON too far")
    bounded(separators is None or all(len(text) <= 8 for text in separators), "its JSON has long separators")
    _printable(value)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: Any) -> None:
    raise Refusal(_string(message))


def _strftime_now(pattern: str) -> str:
    bounded(len(pattern) <= 200, "it writes the date in too long a form")
    return datetime.now().strftime(pattern)


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold {name!r:.60}")

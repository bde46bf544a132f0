"""What the body of a request may hold: each field reads its value, and says the same as a JSON schema."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pintpot.errors import UsageError


class Invalid(UsageError):
    """A field of a body that cannot be meant like this; `param` is its path."""

    def __init__(self, why: str, param: str | None = None) -> None:
        super().__init__(why)
        self.param = param


class Field(Protocol):
    """A kind of value."""

    @property
    def schema(self) -> dict[str, Any]:
        """What it may be, as a JSON schema."""

    def read(self, value: Any, at: str) -> Any:
        """The value as the program wants it. Raises Invalid, which names the place `at`."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text; one of `options`, where there are any."""

    options: tuple[str, ...] = ()
    most: int = 1 << 20

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "string"} | ({"enum": list(self.options)} if self.options else {})

    def read(self, value: Any, at: str) -> str:
        if not isinstance(value, str) or len(value) > self.most:
            raise Invalid(f"{at} is a text, not {kind_of(value)}", at)
        if self.options and value not in self.options:
            raise Invalid(f"{at} is one of {', '.join(self.options)}", at)
        return value


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}

    def read(self, value: Any, at: str) -> bool:
        if not isinstance(value, bool):
            raise Invalid(f"{at} is true or false, not {kind_of(value)}", at)
        return value


@dataclass(frozen=True, slots=True)
class Number:
    """A number within bounds; with `whole` an integer."""

    low: float
    high: float
    whole: bool = False

    @property
    def schema(self) -> dict[str, Any]:
        kind = "integer" if self.whole else "number"
        return {"type": kind, "minimum": self.low, "maximum": self.high}

    def read(self, value: Any, at: str) -> Any:
        right = isinstance(value, int | float) and not isinstance(value, bool)
        if not right or (isinstance(value, float) and not math.isfinite(value)):
            raise Invalid(f"{at} is a number, not {kind_of(value)}", at)
        if self.whole and value != int(value):
            raise Invalid(f"{at} is a whole number", at)
        if not self.low <= value <= self.high:
            raise Invalid(f"{at} is within {self.low:g} to {self.high:g}, not {value:.6g}", at)
        return int(value) if self.whole else float(value)


@dataclass(frozen=True, slots=True)
class Listed:
    """A list of so many of one kind."""

    item: Field
    least: int = 0
    most: int = 1 << 20

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": self.item.schema, "minItems": self.least, "maxItems": self.most}

    def read(self, value: Any, at: str) -> list[Any]:
        if not isinstance(value, list):
            raise Invalid(f"{at} is a list, not {kind_of(value)}", at)
        if not self.least <= len(value) <= self.most:
            raise Invalid(f"{at} has {self.least} to {self.most} items, not {len(value)}", at)
        return [self.item.read(one, f"{at}[{index}]") for index, one in enumerate(value)]


@dataclass(frozen=True, slots=True)
class Either:
    """One of several kinds; the first that reads a value counts."""

    kinds: tuple[Field, ...]
    said: str

    @property
    def schema(self) -> dict[str, Any]:
        return {"anyOf": [kind.schema for kind in self.kinds]}

    def read(self, value: Any, at: str) -> Any:
        wrong: list[Invalid] = []
        for kind in self.kinds:
            try:
                return kind.read(value, at)
            except Invalid as error:
                wrong.append(error)
        inside = [error for error in wrong if error.param != at]
        raise inside[0] if inside else Invalid(f"{at} is {self.said}, not {kind_of(value)}", at)


@dataclass(frozen=True)
class Record:
    """Named fields; those of `required` must be there, null stands for absent, others than these are left alone."""

    fields: Mapping[str, Field]
    required: tuple[str, ...] = ()

    @property
    def schema(self) -> dict[str, Any]:
        def nullable(name: str, field: Field) -> dict[str, Any]:
            return field.schema if name in self.required else {"anyOf": [field.schema, {"type": "null"}]}

        properties = {name: nullable(name, field) for name, field in self.fields.items()}
        return {"type": "object", "properties": properties, "required": list(self.required)}

    def read(self, value: Any, at: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Invalid(f"{at or 'the body'} is an object, not {kind_of(value)}", at or None)
        inside = f"{at}." if at else ""
        for name in self.required:
            if value.get(name) is None:
                raise Invalid(f"{inside}{name} is missing", inside + name)
        return {
            name: field.read(value[name], inside + name)
            for name, field in self.fields.items()
            if value.get(name) is not None
        }


@dataclass(frozen=True, slots=True)
class Anything:
    """An object that somebody else reads."""

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "object"}

    def read(self, value: Any, at: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Invalid(f"{at} is an object, not {kind_of(value)}", at)
        return value


@dataclass(frozen=True, slots=True)
class Bytes:
    """A file; it is read elsewhere."""

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "string", "format": "binary"}

    def read(self, value: Any, at: str) -> Any:
        return value


def kind_of(value: Any) -> str:
    """What a value of JSON is, in a word."""
    kinds = {bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object"}
    return "an empty list" if value == [] else kinds.get(type(value), "null")

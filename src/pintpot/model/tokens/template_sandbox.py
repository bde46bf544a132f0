"""The sandbox in which a chat template runs: what it may reach, and how much it may do.

A template is a program from outside. Python's internals, files and imports are out of its reach (jinja2's immutable
sandbox), and every loop pass, call, filter, operator, literal and output is counted by a `Meter`: MAX_STEPS steps,
MAX_CHARS characters in all texts together, those made on the way included (and 256 more for each character given to
it), MAX_SECONDS. What could grow a text or a number in one step is bounded before it is done. jinja2 is imported here
and in `template_meter` and `template_filters`, so these are imported only when a template is rendered.
"""

from __future__ import annotations

from typing import Any

from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pintpot.model.tokens.template_filters import filters, functions
from pintpot.model.tokens.template_meter import METER, Meter, bounded

_MAX_BITS = 512
_GROWING = frozenset({"center", "expandtabs", "format_map", "ljust", "maketrans", "rjust", "translate", "zfill"})


class _GenerationTag(Extension):
    """`{% generation %}` marks what the model has written; the text inside is all there is to it here."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


@pass_context
def _finalize(_: Context, value: Any) -> Any:
    return METER.get().printable(value)


class Sandbox(ImmutableSandboxedEnvironment):
    """jinja2's immutable sandbox with everything counted. Rendering needs a `Meter` in `METER`."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        # Not optimized: folding constants would run operations at a time when nothing counts them.
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols], optimized=False,
            finalize=_finalize,
        )  # fmt: skip
        self.filters = filters()
        self.globals = {"range": self.globals["range"], **functions()}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        _put_counters(template)
        template.set_environment(self)
        return template

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return not (isinstance(obj, str) and attr in _GROWING) and super().is_safe_attribute(obj, attr, value)

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        meter = METER.get()
        meter.step()
        # jinja2 hands out str.format inside a wrapper of its own.
        method = getattr(function, "__wrapped__", function)
        text = getattr(method, "__self__", None)
        if isinstance(text, str):
            _count_method(meter, text, method.__name__, args, kwargs)
        return super().call(context, function, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        meter = METER.get()
        meter.step()
        _count_operator(meter, operator, left, right)
        return super().call_binop(context, operator, left, right)


def _put_counters(template: nodes.Template) -> None:
    """Lead loops, literals, joined texts and constant texts of a parsed template through the counting filters."""

    def through(name: str, node: Any) -> nodes.Expr:
        return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)

    for node in list(template.find_all((nodes.For, nodes.Concat, nodes.Output, nodes.List, nodes.Tuple, nodes.Pair))):
        if isinstance(node, nodes.For):
            node.iter = through("_passes", node.iter)
        elif isinstance(node, nodes.Concat):
            node.nodes = [through("_printable", part) for part in node.nodes]
        elif isinstance(node, nodes.Output):
            # As an ordinary constant the text passes through `_finalize`.
            node.nodes = [
                nodes.Const(part.data, lineno=part.lineno) if isinstance(part, nodes.TemplateData) else part
                for part in node.nodes
            ]
        elif isinstance(node, nodes.Pair):
            node.value = through("_weighed", node.value)
        elif isinstance(node, nodes.List) or (isinstance(node, nodes.Tuple) and node.ctx == "load"):
            node.items = [through("_weighed", item) for item in node.items]


def _count_method(meter: Meter, text: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Count what a method of a text will make, before it does."""
    meter.chars(len(text))
    if name == "replace":
        bounded(len(args) >= 2 and all(isinstance(part, str) for part in args[:2]), "it replaces what is not text")
        meter.chars(text.count(args[0]) * len(args[1]))
    elif name == "join":
        bounded(len(args) == 1 and isinstance(args[0], (str, list, tuple)), "it joins what is not a list")
        meter.weigh(args[0])
        meter.chars(len(args[0]) * len(text))
    elif name == "format":
        fields = text.replace("{{", "").replace("}}", "").split("{")[1:]
        bounded(not any(":" in field.split("}")[0] for field in fields), "it formats with a width")
        meter.chars(
            len(fields) * max((len(str(meter.printable(value))) for value in (*args, *kwargs.values())), default=0)
        )


def _count_operator(meter: Meter, operator: str, left: Any, right: Any) -> None:
    """Count what an operator will make, before it does."""
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * max(1, right) if operator == "**" else left.bit_length() + right.bit_length()
        bounded(bits <= _MAX_BITS, "it computes with too large a number")
    elif operator == "%" and isinstance(left, str):
        raise SecurityError("formatting with % is not offered")
    elif operator == "*":
        for sequence, count in ((left, right), (right, left)):
            if isinstance(sequence, (str, list, tuple)) and isinstance(count, int):
                meter.weigh(sequence)
                meter.chars(8 * len(sequence) * max(0, count))
    elif operator == "+" and isinstance(left, (str, list, tuple)) and isinstance(right, (str, list, tuple)):
        meter.chars((len(left) + len(right)) * (1 if isinstance(left, str) else 8))

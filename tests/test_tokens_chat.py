"""Chat templates: equal to transformers on those of published models; hostile ones are refused soon and cheaply."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from tokens_data import templates

from pintpot.errors import BadInput
from pintpot.model.tokens import conversation, render_chat, template_meter

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Wetter – heute",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "where"}},
                "required": ["city"],
            },
        },
    },
]
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": {"city": "Köln"}}}
    ],
}
CONVERSATIONS: tuple[tuple[list[dict[str, Any]], dict[str, Any]], ...] = (
    ([{"role": "user", "content": "Hello <b>you</b> & 'them'"}], {}),
    (
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": " a "},
            {"role": "assistant", "content": "b\n"},
            {"role": "user", "content": "c {{ 1 }}"},
        ],
        {},
    ),
    (
        [{"role": "user", "content": "x"}, {"role": "assistant", "content": "<think>hm</think>\n\ny"}],
        {"add_generation_prompt": False},
    ),
    (
        [
            {"role": "user", "content": "rain?"},
            CALL,
            {"role": "tool", "name": "weather", "tool_call_id": "abcdefghi", "content": '{"rain": true}'},
        ],
        {"tools": TOOLS},
    ),
    ([{"role": "user", "content": [{"type": "text", "text": "in parts"}]}], {"enable_thinking": False}),
)


def _theirs(template: str, messages: list[dict[str, Any]], options: dict[str, Any]) -> str | None:
    from jinja2.exceptions import TemplateError
    from transformers.utils.chat_template_utils import _compile_jinja_template

    names = {"tools": None, "documents": None, "add_generation_prompt": True, **options}
    try:
        text = _compile_jinja_template(template).render(messages=messages, bos_token="<s>", eos_token="</s>", **names)
    except (TemplateError, TypeError, AttributeError, LookupError, ValueError):
        return None
    return str(text)


def _ours(template: str, messages: list[dict[str, Any]], options: dict[str, Any]) -> str | None:
    try:
        return render_chat(template, messages, bos_token="<s>", eos_token="</s>", **options)
    except BadInput:
        return None


def _cases() -> list[Path]:
    """The templates where `make test` has put them; one case that says so where it has not."""
    try:
        return templates()
    except pytest.skip.Exception:
        return [Path("missing")]


@pytest.mark.parametrize("path", _cases(), ids=lambda path: path.stem)
def test_published_templates_render_as_in_transformers(path: Path) -> None:
    template = next(known for known in templates() if known == path).read_text(encoding="utf-8")
    rendered = 0
    for messages, extra in CONVERSATIONS:
        options = {"functions": "[]", "datetime": "now", **extra}
        expected = _theirs(template, messages, options)
        assert _ours(template, messages, options) == expected
        rendered += expected is not None
    assert rendered


def test_system_prompt_comes_first_and_earlier_turns_follow() -> None:
    earlier = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    messages = conversation("c", "s", earlier)
    assert [(m["role"], m["content"]) for m in messages] == [
        ("system", "s"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
    ]
    assert conversation("c") == [{"role": "user", "content": "c"}]


def test_without_a_template_the_contents_are_the_text() -> None:
    assert render_chat(None, conversation("Once upon a time")) == "Once upon a time"
    assert render_chat(None, conversation("b", "a")) == "a\n\nb"
    with pytest.raises(BadInput, match="no text"):
        render_chat(None, [{"role": "user", "content": None}])


def test_a_template_that_refuses_is_quoted() -> None:
    with pytest.raises(BadInput, match="refuses these messages: no system prompt"):
        render_chat("{{ raise_exception('no system prompt') }}", conversation("x"))


@pytest.mark.parametrize(
    "template",
    [
        "{% for",
        "{{ nothing.at.all }}",
        "{{ messages | nofilter }}",
        "{{ 1 / 0 }}",
        "{% include 'x' %}",
        "{{ 'a' + 1 }}",
        "{{ messages[0].content.nothing() }}",
        "{{ messages[99].content }}",
        "{% for x in 5 %}{% endfor %}",
        "(" * 9 + "{{" + "(" * 500,
    ],
    ids=range(10),
)
def test_broken_templates_are_bad_input(template: str) -> None:
    with pytest.raises(BadInput):
        render_chat(template, conversation("x"))


ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__ }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ self.__init__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ namespace.__init__ }}",
    "{{ namespace(__class__=1) }}",
    "{% set ns = namespace() %}{% set ns._x = 1 %}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'a': 1}) }}",
    "{{ lipsum }}{{ lipsum() }}",
    "{{ '%s' % 1 }}",
    "{{ (1).__class__ }}",
    "{{ messages|map(attribute='__class__')|list }}",
    "{{ messages|attr('__class__') }}",
    "{{ namespace() }}",
    "{{ range }}",
)


@pytest.mark.parametrize("template", ESCAPES, ids=range(len(ESCAPES)))
def test_nothing_outside_the_sandbox_is_reached(template: str) -> None:
    try:
        text = render_chat(template, conversation("x"))
    except BadInput:
        return
    assert "class" not in text
    assert "object" not in text


DOUBLE = (
    "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = OP %}{% endfor %}{{ ns.x|length }}"
)
RANGE = "{% set r = range(99999)|list %}"
BOMBS = (
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    RANGE + "{% for i in r %}{% for j in r %}{% for k in r %}{% endfor %}{% endfor %}{% endfor %}",
    RANGE + "{% for i in r %}{% for j in r if j > 0 %}{% if false %}x{% endif %}{% endfor %}{% endfor %}",
    "{{ range(10**9)|list }}",
    "{{ 'a' * 10**9 }}",
    "{{ [1] * 10**9 }}",
    "{{ 10**400 }}",
    "{{ (9**99)**99 }}",
    DOUBLE.replace("OP", "ns.x + ns.x"),
    DOUBLE.replace("OP", "ns.x ~ ns.x"),
    DOUBLE.replace("OP", "ns.x.replace('a', 'aa')"),
    DOUBLE.replace("OP", "ns.x|replace('a', 'aa')"),
    DOUBLE.replace("OP", "[ns.x, ns.x]|join"),
    DOUBLE.replace("OP", "''.join([ns.x, ns.x])"),
    DOUBLE.replace("OP", "[ns.x, ns.x]"),
    DOUBLE.replace("OP", "{'a': ns.x, 'b': ns.x}"),
    DOUBLE.replace("OP", "dict(a=ns.x, b=ns.x)"),
    DOUBLE.replace("OP", "(ns.x, ns.x)") + "{{ ns.x }}",
    DOUBLE.replace("OP", "'{0}{0}'.format(ns.x)"),
    DOUBLE.replace("OP", "[ns.x]|list + [ns.x]"),
    DOUBLE.replace("OP", "namespace(a=ns.x, b=ns.x)") + "{{ ns.x }}",
    "{% set x = 'aaaaaaaa' %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 60 + "{{ x|length }}",
    "{% macro m(n) %}{{ m(n) }}{% endmacro %}{{ m(1) }}",
    "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "{% for x in [1] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "{{ 'x'|center(10**9) }}",
    "{{ 'x'.ljust(10**9) }}",
    "{{ 'x'.zfill(10**9) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%1000000000d'|format(1) }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '{:{}}'.format(1, 10**9) }}",
    "{{ messages|tojson(indent=10**9) }}",
    "{{ 'a\nb'|indent(10**9) }}",
    "{{ 1.5|round(10**9, 'ceil') }}",
    "{{ strftime_now('%Y' * 10**6) }}",
    "{{ 'a'|batch(10**9, 'x')|list }}",
    "{{ ('\t' * 999).expandtabs(10**7) }}",
    "{% for i in range(99999) %}" + "y" * 9999 + "{% endfor %}",
    "x" * 2**20,
    "{{" + "-" * 200000 + "1}}",
    "{{" + "[" * 200 + "]" * 200 + "}}",
    "{{ [[1]*99999]|sum(start=[]) }}",
    "{% set r = range(99999)|list %}{% for i in r %}{% set s = r|sort|list %}{% endfor %}",
)


@pytest.mark.parametrize("template", BOMBS, ids=range(len(BOMBS)))
def test_templates_that_never_end_or_grow_without_end_are_refused(
    template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_meter, "MAX_SECONDS", 0.5)
    start = time.monotonic()
    with pytest.raises(BadInput):
        render_chat(template, conversation("x"))
    # Not a measurement: without a limit it is minutes, or an exhausted memory.
    assert time.monotonic() - start < 30


def test_messages_are_plain_data() -> None:
    class Spy:
        def __str__(self) -> str:
            raise AssertionError("called")

    for message in ({"content": Spy()}, {"content": b"x"}, {1: "x"}):
        with pytest.raises(BadInput):
            render_chat("{{ messages[0].content }}", [message])  # type: ignore[list-item]
    deep: list[Any] = []
    for _ in range(100):
        deep = [deep]
    with pytest.raises(BadInput, match="nested"):
        render_chat("x", [{"content": deep}])


def test_a_long_conversation_is_within_the_limits() -> None:
    template = next(path for path in templates() if path.stem == "Qwen-Qwen3-0.6B").read_text(encoding="utf-8")
    turns = [{"role": "user" if index % 2 == 0 else "assistant", "content": "word " * 400} for index in range(301)]
    text = render_chat(template, turns)
    assert text.count("<|im_start|>") == 302
    assert len(text) > 600_000

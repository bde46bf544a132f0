"""Conversations to text: the chat template that the model came with, in a sandbox with limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pintpot.errors import BadInput, need

if TYPE_CHECKING:
    from jinja2 import Template

    from pintpot.model.tokens.tokenizer import Tokenizer

Message = Mapping[str, Any]
"""One message: `role` ("system", "user", "assistant", "tool") and `content`, and what else a template may ask for."""

MAX_TEMPLATE_CHARS = 2**19
"""The largest published template has 25,000."""
_MAX_DEPTH = 32
_MISHAPS = (
    ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, SyntaxError, TypeError, ValueError,
)  # fmt: skip


def conversation(prompt: str, system: str | None = None, earlier: Sequence[Message] = ()) -> list[Message]:
    """The messages for one more turn: the system prompt first, then the earlier ones, then the new prompt."""
    head = [{"role": "system", "content": system}] if system else []
    return [*head, *earlier, {"role": "user", "content": prompt}]


def render_chat(
    template: str | None,
    messages: Sequence[Message],
    *,
    bos_token: str = "",
    eos_token: str = "",
    add_generation_prompt: bool = True,
    tools: Sequence[Mapping[str, Any]] | None = None,
    **variables: Any,
) -> str:
    """The text that `template` makes of `messages`; without a template their contents, a blank line between them.

    `variables` are further names that the template may ask for (`enable_thinking`). Raises BadInput when the template
    refuses the messages (a system prompt where the model knows none), cannot be rendered, or does more than it may:
    see `template_sandbox` for the bounds.
    """
    given = _plain({"messages": list(messages), "tools": None if tools is None else list(tools), **variables})
    if template is None:
        return "\n\n".join(_content(message) for message in given["messages"])
    names = {"documents": None, "bos_token": bos_token, "eos_token": eos_token}
    return _render(template, {**names, **given, "add_generation_prompt": add_generation_prompt})


def encode_chat(tokenizer: Tokenizer, messages: Sequence[Message], **options: Any) -> list[int]:
    """Ids of a conversation, ready for the answer. `options` are those of `render_chat`.

    A template writes the model's special tokens itself; a plain text gets them here.
    """
    text = render_chat(
        tokenizer.chat_template, messages, bos_token=tokenizer.bos, eos_token=tokenizer.eos, **options
    )  # fmt: skip
    return tokenizer.encode(text, add_special=tokenizer.chat_template is None)


def _render(template: str, names: Mapping[str, Any]) -> str:
    from jinja2.exceptions import TemplateError

    from pintpot.model.tokens.template_filters import Refusal
    from pintpot.model.tokens.template_meter import METER, Meter

    need(len(template) <= MAX_TEMPLATE_CHARS, f"the chat template has {len(template)} characters: too long to be one")
    mark = METER.set(Meter(_num_chars(names)))
    try:
        return _compiled(template).render(names)
    except Refusal as error:
        raise BadInput(f"the chat template refuses these messages: {error.message}") from error
    except TemplateError as error:
        raise BadInput(f"the chat template cannot be rendered: {error.message}") from error
    except _MISHAPS as error:
        raise BadInput(f"the chat template cannot be rendered: {type(error).__name__}: {error}") from error
    finally:
        METER.reset(mark)


@lru_cache(maxsize=8)
def _compiled(template: str) -> Template:
    compiled: Template = _sandbox().from_string(template)
    return compiled


@lru_cache(maxsize=1)
def _sandbox() -> Any:
    from pintpot.model.tokens.template_sandbox import Sandbox

    return Sandbox()


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(part.get("text", "") for part in content if isinstance(part, dict))
    need(isinstance(content, str), "a message has no text (content)")
    return str(content)


def _plain(value: Any, depth: int = 0) -> Any:
    """A copy out of plain types only: nothing that a template could call into. Raises BadInput for anything else."""
    need(depth <= _MAX_DEPTH, f"messages are nested more than {_MAX_DEPTH} deep")
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        need(all(type(key) is str for key in value), "a message has a key that is not a text")
        return {key: _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth + 1) for item in value]
    raise BadInput(f"a message holds a {type(value).__name__}; text, numbers, lists and dictionaries are possible")


def _num_chars(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return sum(_num_chars(part) for part in parts)

"""Bodies of requests and answers, in the form of OpenAI's interface: what was asked, and what is told."""

from __future__ import annotations

import base64
import json
import re
import secrets
from dataclasses import dataclass, replace
from typing import Any

from pintpot.errors import BadInput, BadPack, Busy, DoesNotFit, PintpotError, UsageError, need
from pintpot.runtime.request import Sampling
from pintpot.server.schema import Anything, Either, Field, Flag, Invalid, Listed, Number, Record, Text

MOST_CHOICES = 8
MOST_STOPS = 16
_SEED = Number(-(2.0**63), 2.0**64 - 1, whole=True)
MOST_URL = 1 << 26
_BIAS = 100.0
_DATA = re.compile(r"data:image/[\w.+-]{1,40};base64,", re.IGNORECASE)

SHARED: dict[str, Field] = {
    "model": Text(),
    "max_tokens": Number(1, 1 << 24, whole=True),
    "temperature": Number(0, 2),
    "top_p": Number(0, 1),
    "top_k": Number(0, 1 << 24, whole=True),
    "min_p": Number(0, 1),
    "repetition_penalty": Number(0.01, 10),
    "presence_penalty": Number(-2, 2),
    "frequency_penalty": Number(-2, 2),
    "logit_bias": Anything(),
    "seed": _SEED,
    "n": Number(1, MOST_CHOICES, whole=True),
    "stop": Either((Text(), Listed(Text(), 0, MOST_STOPS)), "a text, or a list of texts"),
    "stream": Flag(),
    "stream_options": Record({"include_usage": Flag()}),
    "user": Text(),
}
_URL = Record({"url": Text(most=MOST_URL), "detail": Text()}, ("url",))
_PART = Record({"type": Text(("text", "image_url")), "text": Text(), "image_url": _URL}, ("type",))
_MESSAGE = Record(
    {
        "role": Text(("system", "developer", "user", "assistant", "tool")),
        "content": Either((Text(), Listed(_PART, 1, 256)), "a text, or a list of parts"),
        "name": Text(),
    },
    ("role", "content"),
)
_FORMAT = Record(
    {
        "type": Text(("text", "json_object", "json_schema")),
        "json_schema": Record({"name": Text(), "schema": Anything(), "strict": Flag()}, ("schema",)),
    },
    ("type",),
)
CHAT = Record(
    SHARED
    | {
        "messages": Listed(_MESSAGE, 1, 4096),
        "max_completion_tokens": Number(1, 1 << 24, whole=True),
        "logprobs": Flag(),
        "top_logprobs": Number(0, 20, whole=True),
        "response_format": _FORMAT,
        "tools": Listed(Anything(), 0, 0),
        "functions": Listed(Anything(), 0, 0),
    },
    ("model", "messages"),
)
_IDS = Listed(Number(0, 2**31 - 1, whole=True), 1)
COMPLETION = Record(
    SHARED
    | {
        "prompt": Either(
            (Text(), _IDS, Listed(Text(), 1, MOST_CHOICES), Listed(_IDS, 1, MOST_CHOICES)),
            "a text, a list of token ids, or a list of either",
        ),
        "logprobs": Number(0, 5, whole=True),
        "response_format": _FORMAT,
        "echo": Flag(),
        "suffix": Text(),
        "best_of": Number(1, MOST_CHOICES, whole=True),
    },
    ("model", "prompt"),
)

Prompt = str | list[int] | list[dict[str, Any]]
"""A text, ids, or the messages of a conversation."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a body asks for. `images` are those of a conversation, in their order; `max_tokens` None is as many as there
    may be, `grammar` a JSON schema or None."""

    model: str
    prompts: tuple[Prompt, ...]
    images: tuple[bytes, ...]
    chat: bool
    max_tokens: int | None
    sampling: Sampling
    num_choices: int
    stop: tuple[str, ...]
    bias: tuple[tuple[int, float], ...]
    num_likely: int | None
    grammar: dict[str, Any] | None
    stream: bool
    stream_usage: bool
    user: str = ""

    def sampling_of(self, choice: int) -> Sampling:
        """Choices of one request draw with seeds of their own, the first with the one that was asked for."""
        return replace(self.sampling, seed=(self.sampling.seed + choice * 0x9E3779B97F4A7C15) % 2**64)


def read_chat(body: Any) -> Asked:
    """The body of /v1/chat/completions. Raises Invalid."""
    found = CHAT.read(body, "")
    need(found.get("logprobs", False) or "top_logprobs" not in found, "top_logprobs goes with logprobs", Invalid)
    likely = found.get("top_logprobs", 0) if found.get("logprobs") else None
    images, messages = list[bytes](), list[dict[str, Any]]()
    for index, message in enumerate(found["messages"]):
        content = message["content"]
        if not isinstance(content, str):
            content = [_part(one, f"messages[{index}].content[{at}]", images) for at, one in enumerate(content)]
        messages.append(message | {"role": message["role"].replace("developer", "system"), "content": content})
    most = found.get("max_completion_tokens", found.get("max_tokens"))
    return replace(_asked(found, (messages,), True, most, likely), images=tuple(images))


def read_completion(body: Any) -> Asked:
    """The body of /v1/completions. Raises Invalid."""
    found = COMPLETION.read(body, "")
    for name in ("echo", "suffix"):
        if found.get(name):
            raise Invalid(f"{name} is not offered here", name)
    if found.get("best_of", 1) > found.get("n", 1):
        raise Invalid("best_of is not offered here; ask for n", "best_of")
    prompt = found["prompt"]
    several = isinstance(prompt, list) and isinstance(prompt[0], str | list)
    prompts = tuple(prompt) if several else (prompt,)
    return _asked(found, prompts, False, found.get("max_tokens", 16), found.get("logprobs"))


def _asked(
    found: dict[str, Any], prompts: tuple[Prompt, ...], chat: bool, max_tokens: int | None, likely: int | None
) -> Asked:
    seed = found.get("seed")
    sampling = Sampling(
        temperature=found.get("temperature", 1.0),
        top_p=found.get("top_p", 1.0) or 1e-9,
        top_k=found.get("top_k", 0),
        min_p=found.get("min_p", 0.0),
        repetition_penalty=found.get("repetition_penalty", 1.0),
        presence_penalty=found.get("presence_penalty", 0.0),
        frequency_penalty=found.get("frequency_penalty", 0.0),
        seed=secrets.randbits(64) if seed is None else seed % 2**64,
    )
    stop = found.get("stop", [])
    return Asked(
        model=found["model"], prompts=prompts, images=(), chat=chat, max_tokens=max_tokens, sampling=sampling,
        num_choices=found.get("n", 1), stop=tuple(text for text in ([stop] if isinstance(stop, str) else stop) if text),
        bias=_bias(found.get("logit_bias", {})), num_likely=likely, grammar=_grammar(found.get("response_format")),
        stream=found.get("stream", False), stream_usage=found.get("stream_options", {}).get("include_usage", False),
        user=found.get("user", ""),
    )  # fmt: skip


def _part(part: dict[str, Any], at: str, images: list[bytes]) -> dict[str, Any]:
    """A part of a message as chat templates want it; an image goes to `images`. Raises Invalid."""
    if part["type"] == "text":
        if "text" not in part:
            raise Invalid(f"{at}.text is missing", f"{at}.text")
        return {"type": "text", "text": part["text"]}
    url = part.get("image_url", {}).get("url", "")
    head = _DATA.match(url)
    if head is None:
        raise Invalid(f"{at}: an image comes as data:image/png;base64,...; none is fetched", f"{at}.image_url.url")
    try:
        images.append(base64.b64decode(url[head.end() :], validate=True))
    except ValueError as error:
        raise Invalid(f"{at}: the image is no base64: {error}", f"{at}.image_url.url") from error
    return {"type": "image"}


def _bias(given: dict[str, Any]) -> tuple[tuple[int, float], ...]:
    kind, found = Number(-_BIAS, _BIAS), []
    for token, value in given.items():
        if not (token.isascii() and token.isdigit() and len(token) < 10):
            raise Invalid("logit_bias is from ids of tokens to numbers", "logit_bias")
        found.append((int(token), kind.read(value, f"logit_bias.{token}")))
    return tuple(found)


def _grammar(asked: dict[str, Any] | None) -> dict[str, Any] | None:
    if asked is None or asked["type"] == "text":
        return None
    if asked["type"] == "json_object":
        return {"type": "object"}
    if "json_schema" not in asked:
        raise Invalid("response_format.json_schema is missing", "response_format.json_schema")
    schema: dict[str, Any] = asked["json_schema"]["schema"]
    return schema


def parse(body: bytes) -> Any:
    """JSON. Raises Invalid."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"the body is no JSON: {error}") from error


def error_of(error: PintpotError) -> tuple[int, dict[str, Any]]:
    """Status and body for an error, in OpenAI's form."""
    status, kind, code = 500, "server_error", None
    if isinstance(error, Busy):
        status, kind, code = 429, "rate_limit_error", "busy"
    elif isinstance(error, DoesNotFit):
        status, kind, code = 400, "invalid_request_error", "does_not_fit"
    elif isinstance(error, UsageError | BadInput) and not isinstance(error, BadPack):
        status, kind = 400, "invalid_request_error"
    param = error.param if isinstance(error, Invalid) else None
    return status, error_body(str(error), kind, param, code)


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's form."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}

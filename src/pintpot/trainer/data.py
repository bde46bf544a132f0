"""Examples to learn from: lines of JSON, each a conversation (`messages`) or a `text`, checked before anything begins.

A line may say of which `task` it is, for adapters that tasks mix in their own ways.

Of a conversation only the answers are learned, each after the words that stand before it when it is given; of a text
every word.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pintpot.errors import BadInput, need
from pintpot.model.tokens import Tokenizer
from pintpot.model.tokens.chat import render_chat

Kind = Literal["chat", "text"]
MOST_LINE_BYTES = 64 << 20
_KEYS: Mapping[str, Kind] = {"messages": "chat", "text": "text"}
_ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Example:
    """One line: `tokens` int32 [T], which of them are `learned` bool [T], and the number of its task."""

    tokens: NDArray[np.int32]
    learned: NDArray[np.bool_]
    task: int = 0


@dataclass(frozen=True)
class Examples:
    """All lines of a file, of one kind. `num_bytes` is what they take in memory.

    `tasks` are what lines call theirs (`task`), in the order in which they come; "" where a line names none.
    """

    kind: Kind
    items: tuple[Example, ...]
    tasks: tuple[str, ...] = ("",)

    @property
    def num_bytes(self) -> int:
        return sum(item.tokens.nbytes + item.learned.nbytes for item in self.items)


def read_examples(path: Path, tokenizer: Tokenizer) -> Examples:
    """Every line of a file. Raises BadInput with the number of the line that is wrong, and what is wrong there."""
    kind: Kind | None = None
    found: list[Example] = []
    tasks: dict[str, int] = {}
    for number, line in lines_of(path):
        where = f"{path}, line {number}"
        data = parsed(line, where)
        own = _kind(data, where)
        need(kind in (None, own), f"{where}: a {own} among lines of {kind}; one file holds one kind")
        kind = own
        try:
            read = _conversation if own == "chat" else _text
            item, task = read(data["messages" if own == "chat" else "text"], tokenizer), data.get("task", "")
            need(isinstance(task, str), f"'task' is {task!r:.40}, not a name")
            found.append(replace(item, task=tasks.setdefault(task, len(tasks))))
        except BadInput as error:
            raise BadInput(f"{where}: {error}") from error
    if kind is None:
        raise BadInput(f"{path} holds no line to learn from")
    return Examples(kind, tuple(found), tuple(tasks))


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that hold something, with their numbers."""
    number = 0
    try:
        with path.open("rb") as file:
            while line := file.readline(MOST_LINE_BYTES):
                number += 1
                need(len(line) < MOST_LINE_BYTES, f"{path}, line {number}: longer than {MOST_LINE_BYTES} bytes")
                text = line.decode("utf-8")
                if text.strip():
                    yield number, text
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}, line {number}: not UTF-8 at byte {error.start} of the line") from error


def parsed(line: str, where: str) -> Mapping[str, Any]:
    """The object of a line. Raises BadInput."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: not JSON ({error})") from error
    need(isinstance(data, dict), f"{where}: a JSON object is wanted, this is a {type(data).__name__}")
    return dict(data)


def _kind(data: Mapping[str, Any], where: str) -> Kind:
    found = [key for key in _KEYS if key in data]
    keys = ", ".join(map(repr, list(data)[:5])) or "nothing"
    need(len(found) == 1, f"{where}: has {keys}; exactly one of 'messages' and 'text' is wanted")
    return _KEYS[found[0]]


def _text(text: Any, tokenizer: Tokenizer) -> Example:
    need(isinstance(text, str) and bool(text), "'text' is not a text, or is empty")
    tokens = tokenizer.encode(text) + list(_end(tokenizer))
    return Example(np.array(tokens, np.int32), np.ones(len(tokens), np.bool_))


def _end(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The id that ends a text; none where the model has no such word."""
    found = tokenizer.token_id(tokenizer.eos) if tokenizer.eos else None
    return () if found is None else (found,)


def _conversation(messages: Any, tokenizer: Tokenizer) -> Example:
    """A conversation up to its last answer: before each answer the words as they stand when it is asked for."""
    checked = _messages(messages)
    answers = [index for index, message in enumerate(checked) if message["role"] == "assistant"]
    need(bool(answers), "no message of the role 'assistant', so there is no answer to learn")
    pieces = _pieces(checked, answers, tokenizer)
    if pieces is None:  # a template that writes earlier answers in another way than the last one
        pieces = _pieces(checked, answers[-1:], tokenizer)
    if pieces is None:
        raise BadInput("the chat template does not write an answer behind the words that ask for it")
    tokens: list[int] = []
    learned: list[bool] = []
    for text, is_answer in pieces:
        ids = tokenizer.encode(text, add_special=tokenizer.chat_template is None and not tokens)
        tokens += ids
        learned += [is_answer] * len(ids)
    return Example(np.array(tokens, np.int32), np.array(learned, np.bool_))


def _messages(messages: Any) -> Sequence[Mapping[str, Any]]:
    need(isinstance(messages, list) and bool(messages), "'messages' is not a list, or is empty")
    for number, message in enumerate(messages, 1):
        need(isinstance(message, dict), f"message {number} is a {type(message).__name__}, not an object")
        role = message.get("role")
        need(role in _ROLES, f"message {number} has the role {role!r:.40}; there are {', '.join(_ROLES)}")
        need(isinstance(message.get("content"), str), f"message {number} has no text (content)")
    return list(messages)


def _pieces(
    messages: Sequence[Mapping[str, Any]], answers: Sequence[int], tokenizer: Tokenizer
) -> list[tuple[str, bool]] | None:
    """(text, whether it is learned) in order; None where one rendering does not go on where the one before ended."""
    pieces: list[tuple[str, bool]] = []
    written = ""
    for index in answers:
        for count, asks in ((index, True), (index + 1, False)):
            text = render_chat(
                tokenizer.chat_template, messages[:count],
                bos_token=tokenizer.bos, eos_token=tokenizer.eos, add_generation_prompt=asks,
            )  # fmt: skip
            if not text.startswith(written):
                return None
            pieces.append((text[len(written) :], not asks))
            written = text
    return pieces

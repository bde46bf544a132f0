"""Tokens: text to ids and back, chat templates, and text as it streams out.

Everything is imported when it is first used; `tokenizers` and `jinja2` when the first tokenizer is loaded and the first
template rendered.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pintpot.model.tokens.build import build_tokenizer_json
    from pintpot.model.tokens.chat import Message, conversation, encode_chat, render_chat
    from pintpot.model.tokens.memory import estimated_bytes, kept_bytes
    from pintpot.model.tokens.source import TokenizerSource, from_folder, from_gguf, from_metadata
    from pintpot.model.tokens.stream import StopMatcher, TextStream
    from pintpot.model.tokens.tokenizer import Tokenizer

_HOMES = {
    "Message": "chat", "StopMatcher": "stream", "TextStream": "stream", "Tokenizer": "tokenizer",
    "TokenizerSource": "source", "build_tokenizer_json": "build", "conversation": "chat", "encode_chat": "chat",
    "estimated_bytes": "memory", "from_folder": "source", "from_gguf": "source", "from_metadata": "source",
    "kept_bytes": "memory", "render_chat": "chat",
}  # fmt: skip

__all__ = [
    "Message", "StopMatcher", "TextStream", "Tokenizer", "TokenizerSource", "build_tokenizer_json", "conversation",
    "encode_chat", "estimated_bytes", "from_folder", "from_gguf", "from_metadata", "kept_bytes", "render_chat",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)

"""Tokens: text to ids and back, chat templates, and text as it streams out.

`tokenizers` and `jinja2` are imported when the first tokenizer is loaded and the first template rendered.
"""

from pintpot.model.tokens.build import build_tokenizer_json
from pintpot.model.tokens.chat import Message, conversation, encode_chat, render_chat
from pintpot.model.tokens.memory import estimated_bytes, kept_bytes
from pintpot.model.tokens.source import TokenizerSource, from_folder, from_gguf, from_metadata
from pintpot.model.tokens.stream import StopMatcher, TextStream
from pintpot.model.tokens.tokenizer import Tokenizer

__all__ = [
    "Message", "StopMatcher", "TextStream", "Tokenizer", "TokenizerSource", "build_tokenizer_json", "conversation",
    "encode_chat", "estimated_bytes", "from_folder", "from_gguf", "from_metadata", "kept_bytes", "render_chat",
]  # fmt: skip

"""Text to ids and back: a thin skin over the `tokenizers` library, which is imported when the first one is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pintpot.errors import BadFile, BadInput, need
from pintpot.model.tokens.source import TokenizerSource, read_definition

if TYPE_CHECKING:
    import tokenizers


class Tokenizer:
    """A loaded tokenizer. `bos` and `eos` are texts (empty: none), `eos_ids` end an answer."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        bos: str = "",
        eos: str = "",
        eos_ids: Iterable[int] = (),
        chat_template: str | None = None,
    ) -> None:
        self._backend = backend
        self.bos, self.eos, self.chat_template = bos, eos, chat_template
        ends = {*eos_ids, *([backend.token_to_id(eos)] if eos else [])}
        self.eos_ids = tuple(sorted(index for index in ends if index is not None))

    @classmethod
    def load(cls, source: TokenizerSource) -> Tokenizer:
        """Load it and give the loader's memory back to the system. Raises BadFile when it cannot be one."""
        backend = _load(source.definition)
        return cls(
            backend, bos=source.bos, eos=source.eos, eos_ids=source.eos_ids, chat_template=source.chat_template
        )  # fmt: skip

    @classmethod
    def from_json(cls, definition: str | Path, *, eos_ids: Iterable[int] = ()) -> Tokenizer:
        """From tokenizer.json: its text, or the path of the file. Raises BadFile, or BadInput when unreadable."""
        return cls(_load(definition), eos_ids=eos_ids)

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that stand for no text: skipped when decoding."""
        added = self._backend.get_added_tokens_decoder()
        return frozenset(index for index, token in added.items() if token.special)

    def definition(self) -> str:
        """The text of tokenizer.json, as other libraries read it; it may be large."""
        return str(self._backend.to_str())

    def token_id(self, token: str) -> int | None:
        """The id of one word of the vocabulary, None when it has no such word."""
        index = self._backend.token_to_id(token)
        return None if index is None else int(index)

    def encode(self, text: str, add_special: bool = True) -> list[int]:
        """Ids of `text`; names of special tokens in it become those tokens.

        `add_special`: with the tokens that the model wants around a text (a chat template writes them itself).
        Raises BadInput for text that is not Unicode (lone surrogates).
        """
        _check_unicode(text)
        return list(self._backend.encode(text, add_special_tokens=add_special).ids)

    def encode_cut(self, text: str, most: int) -> tuple[list[int], bool]:
        """At most so many ids, those that the model wants around a text among them, and whether something was cut."""
        _check_unicode(text)
        self._backend.enable_truncation(most)
        try:
            with _library_errors():
                found = self._backend.encode(text)
        finally:
            self._backend.no_truncation()
        return list(found.ids), bool(found.overflowing)

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of `ids`; bytes that are no character come out as U+FFFD, ids beyond the vocabulary as nothing."""
        wanted = list(ids)
        need(all(0 <= index < 2**32 for index in wanted), "a token id is negative or has more than 32 bits")
        return str(self._backend.decode(wanted, skip_special_tokens=skip_special))


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadInput(f"the text has a lone surrogate at character {error.start}: it is not Unicode") from error


def _load(definition: str | Path) -> tokenizers.Tokenizer:
    import ctypes

    import tokenizers

    data = read_definition(definition)
    with _library_errors():
        # A buffer and not a file or a str: the least memory of the three, and as fast (benchmarks/tokenizer_memory.py).
        backend = tokenizers.Tokenizer.from_buffer(data)
        backend.no_truncation()
        backend.no_padding()
    del data
    ctypes.CDLL(None).malloc_trim(0)
    return backend


@contextmanager
def _library_errors() -> Iterator[None]:
    """The library raises bare Exception for a bad file, and a panic of its Rust code is not even an Exception."""
    try:
        yield
    except BaseException as error:
        if type(error) in (Exception, ValueError, TypeError) or type(error).__name__ == "PanicException":
            raise BadFile(f"tokenizer.json cannot be loaded: {error}") from error
        raise

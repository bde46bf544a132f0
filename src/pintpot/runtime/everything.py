"""Brings in all that a run of a language model uses, so that its memory is one number, known before anything loads."""

import jinja2.sandbox
import tokenizers

import pintpot._native
import pintpot.model.tokens.chat
import pintpot.model.tokens.template_filters
import pintpot.model.tokens.template_meter
import pintpot.model.tokens.template_sandbox
import pintpot.nets._rope
import pintpot.runtime.bound
import pintpot.runtime.engine
import pintpot.runtime.memory
import pintpot.runtime.session
import pintpot.techniques

__all__ = ["jinja2", "pintpot", "tokenizers"]

pintpot.techniques.classes()


def _run_once() -> None:
    """Run a little of each library, for their code counts once it has run."""
    pintpot.nets._rope.fill_rope_table(bytearray(64 * 64 * 4), {"head_dim": 64}, 64)
    pintpot._native.crc32c(bytes(64))
    words = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    words.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decode(words.encode("ab ba 1 é").ids)


_run_once()

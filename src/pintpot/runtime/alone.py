"""All that opening and running a language model may ever import, run a little: what a process weighs by itself.

`pintpot.machine.process` imports this in a fresh process and asks the kernel. What is rare in a run (a pack of another
machine is priced again) counts too, so that memory is promised at its bad end.
"""

import pintpot._native
import pintpot.machine.here
import pintpot.nets._rope
import pintpot.packer.packed_model
import pintpot.packer.shelf
import pintpot.planner.assess
import pintpot.runtime.opening

__all__ = ["pintpot"]


def _run_once() -> None:
    """Run a little of each library, for their code counts once it has run."""
    import tokenizers

    pintpot.nets._rope.fill_rope_table(bytearray(64 * 64 * 4), {"head_dim": 64}, 64)
    pintpot._native.crc32c(bytes(64))
    words = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    words.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decode(words.encode("ab ba 1 é").ids)


_run_once()

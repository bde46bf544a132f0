"""llama.cpp, through its C interface as `llama-cpp-python` binds it, compiled on this machine for this machine.

Its knobs: weights as they come or as Q4_0 (the format it repacks), repacking on and off, flash attention, threads.
"""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass
from typing import Any

from contenders import Config, timed

_GROUP, _Q4_0 = "llama.cpp, as is", "llama.cpp, Q4_0"
_BASE: dict[str, Any] = {"threads": 2, "repack": True, "flash": True}


def _native(group: str, name: str, *, quick: bool = True, **knobs: Any) -> Config:
    source = "q4_0" if group == _Q4_0 else "as is"
    return Config("llama_cpp", group, f"native, {name}", source, knobs=_BASE | knobs, quick=quick)


def _slots(group: str, name: str, *, quick: bool = True, **knobs: Any) -> Config:
    source = "q4_0" if group == _Q4_0 else "as is"
    return Config("llama_cpp", group, f"native, {name}", source, "batches", _BASE | knobs, quick=quick)


def _streaming(name: str, **knobs: Any) -> Config:
    """Repacked weights would have to be held whole."""
    return Config("llama_cpp", "llama.cpp", name, task="streaming 4 bits", knobs=_BASE | {"repack": False} | knobs)


CONFIGS = (
    _native(_GROUP, "2 threads"),
    _native(_GROUP, "2 threads, no flash attention", flash=False),
    _native(_GROUP, "1 thread", threads=1, quick=False),
    _native(_Q4_0, "2 threads"),
    _native(_Q4_0, "2 threads, not repacked", repack=False, quick=False),
    _native(_Q4_0, "2 threads, no flash attention", flash=False),
    _native(_Q4_0, "1 thread", threads=1, quick=False),
    _native(_Q4_0, "2 threads, not repacked, no flash attention", repack=False, flash=False, quick=False),
    _slots(_GROUP, "parallel sequences"),
    _slots(_GROUP, "parallel sequences, one cache", unified=True, quick=False),
    _slots(_Q4_0, "parallel sequences"),
    _slots(_Q4_0, "parallel sequences, one cache", unified=True, quick=False),
    _slots(_Q4_0, "parallel sequences, not repacked", repack=False, quick=False),
    _streaming("mmap", loading="mmap"),
    _streaming("mmap, 1 thread", loading="mmap", threads=1),
    _streaming("mmap, no flash attention", loading="mmap", flash=False),
    _streaming("direct reads", loading="direct"),
    Config("llama_cpp", "llama.cpp", "native, as is", task="start", knobs=_BASE | {"repack": False}),
    Config("llama_cpp", "llama.cpp", "native, repacked", "q4_0", task="start", knobs=_BASE),
)
_CACHES = {"f16": 1, "8 bits": 8}  # GGML_TYPE_F16, GGML_TYPE_Q8_0
_LOADING = {"auto": -1, "read": 0, "mmap": 1, "direct": 4}
_BATCH, _UBATCH = 2048, 512  # as llama.cpp has them by default


@dataclass(frozen=True, slots=True)
class Row:
    """A token at a position of a sequence; after the `last` one the next is wanted."""

    token: int
    position: int
    sequence: int
    last: bool


class Llama:
    """A model and its context."""

    def __init__(
        self,
        model: str,
        context: int,
        cache: str,
        threads: int,
        repack: bool,
        flash: bool,
        loading: str = "auto",
        sequences: int = 1,
        unified: bool = False,
    ) -> None:
        import llama_cpp

        self._lib: Any = llama_cpp
        self._quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        options = llama_cpp.llama_model_default_params()
        options.use_extra_bufts, options.load_mode = repack, _LOADING[loading]
        self._model = llama_cpp.llama_model_load_from_file(model.encode(), options)
        how = llama_cpp.llama_context_default_params()
        how.n_ctx, how.n_seq_max, how.kv_unified = context * sequences, sequences, unified
        how.n_batch, how.n_ubatch = _BATCH, _UBATCH
        how.n_threads = how.n_threads_batch = threads
        how.flash_attn_type = int(flash)
        how.type_k = how.type_v = _CACHES[cache]
        self._context = llama_cpp.llama_init_from_model(self._model, how)
        if not self._model or not self._context:
            raise RuntimeError(f"llama.cpp does not open {model}")
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._sampler = llama_cpp.llama_sampler_init_greedy()
        self._batch = llama_cpp.llama_batch_init(_BATCH, 0, 1)
        self._piece = ctypes.create_string_buffer(256)
        system = llama_cpp.llama_print_system_info().decode()
        self.versions = {"llama-cpp-python": llama_cpp.__version__, "features": system}

    def answers(self, prompts: list[list[int]], number: int) -> dict[str, Any]:
        """See `contenders.Peer`."""
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)
        texts, words = [bytearray() for _ in prompts], list[tuple[float, int]]()
        rows = [
            Row(token, position, sequence, position == len(tokens) - 1)
            for sequence, tokens in enumerate(prompts)
            for position, token in enumerate(tokens)
        ]
        started = time.perf_counter()
        begun: list[Row] = []
        for first in range(0, len(rows), _BATCH):
            begun += self._decode(rows[first : first + _BATCH], texts, words)
        for _ in range(number - 1):
            begun = self._decode(begun, texts, words)
        found = timed(started, words, time.perf_counter())
        return found | {"texts": [data.decode(errors="replace") for data in texts]}

    def _decode(self, rows: list[Row], texts: list[bytearray], words: list[tuple[float, int]]) -> list[Row]:
        """One batch; the rows that follow those that were the last of their sequence."""
        self._run(rows)
        lib = self._lib
        following = []
        for at, row in enumerate(rows):
            if row.last:
                token = int(lib.llama_sampler_sample(self._sampler, self._context, at))
                size = lib.llama_token_to_piece(self._vocabulary, token, self._piece, len(self._piece), 0, False)
                texts[row.sequence] += self._piece.raw[: max(size, 0)]
                words.append((time.perf_counter(), row.sequence))
                following.append(Row(token, row.position + 1, row.sequence, True))
        return following

    def _run(self, rows: list[Row]) -> None:
        batch = self._batch
        batch.n_tokens = len(rows)
        for at, row in enumerate(rows):
            batch.token[at], batch.pos[at], batch.logits[at] = row.token, row.position, row.last
            batch.n_seq_id[at], batch.seq_id[at][0] = 1, row.sequence
        code = self._lib.llama_decode(self._context, batch)
        if code != 0:
            raise RuntimeError(f"llama_decode ended with {code}")


def open_peer(**knobs: Any) -> Llama:
    """Open a model; see `Llama`."""
    return Llama(**knobs)

"""llama.cpp, through its C interface as `llama-cpp-python` binds it, compiled on this machine for this machine.

Its knobs: weights as they come or as Q4_0 (the format it repacks), repacking on and off, flash attention, threads.
"""

from __future__ import annotations

import ctypes
import time
from typing import Any

from contenders import Config

_GROUP, _Q4_0 = "llama.cpp, as is", "llama.cpp, Q4_0"
_BASE: dict[str, Any] = {"threads": 2, "repack": True, "flash": True}


def _native(group: str, name: str, *, quick: bool = True, **knobs: Any) -> Config:
    source = "q4_0" if group == _Q4_0 else "as is"
    return Config("llama_cpp", group, f"native, {name}", source, knobs=_BASE | knobs, quick=quick)


def _streaming(name: str, **knobs: Any) -> Config:
    """Repacked weights would have to be held whole."""
    return Config("llama_cpp", "llama.cpp", name, task="streaming 4 bits", knobs=_BASE | {"repack": False} | knobs)


CONFIGS = (
    _native(_GROUP, "2 threads"),
    _native(_GROUP, "2 threads, no flash attention", flash=False),
    _native(_GROUP, "1 thread", threads=1, quick=False),
    _native(_Q4_0, "2 threads"),
    _native(_Q4_0, "2 threads, not repacked", repack=False),
    _native(_Q4_0, "2 threads, no flash attention", flash=False),
    _native(_Q4_0, "1 thread", threads=1, quick=False),
    _native(_Q4_0, "2 threads, not repacked, no flash attention", repack=False, flash=False, quick=False),
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
        how.n_ctx, how.n_batch, how.n_ubatch, how.n_seq_max = context, _BATCH, _UBATCH, sequences
        how.n_threads = how.n_threads_batch = threads
        how.flash_attn_type = int(flash)
        how.type_k = how.type_v = _CACHES[cache]
        self._context = llama_cpp.llama_init_from_model(self._model, how)
        if not self._model or not self._context:
            raise RuntimeError(f"llama.cpp does not open {model}")
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._sampler = llama_cpp.llama_sampler_init_greedy()
        self._piece = ctypes.create_string_buffer(256)
        system = llama_cpp.llama_print_system_info().decode()
        self.versions = {"llama-cpp-python": llama_cpp.__version__, "features": system}

    def answer(self, tokens: list[int], number: int) -> dict[str, Any]:
        """See `contenders.Peer`."""
        lib, data = self._lib, bytearray()
        lib.llama_memory_clear(lib.llama_get_memory(self._context), True)
        started = time.perf_counter()
        for first in range(0, len(tokens), _BATCH):
            self._decode(tokens[first : first + _BATCH])
        token = self._sample(data)
        first_at = time.perf_counter()
        for _ in range(number - 1):
            self._decode([token])
            token = self._sample(data)
        ended = time.perf_counter()
        text = data.decode(errors="replace")
        return {
            "number": number, "first_number": 1, "first_s": first_at - started, "rest_s": ended - first_at,
            "text": text,
        }  # fmt: skip

    def _decode(self, tokens: list[int]) -> None:
        array = (ctypes.c_int32 * len(tokens))(*tokens)
        code = self._lib.llama_decode(self._context, self._lib.llama_batch_get_one(array, len(tokens)))
        if code != 0:
            raise RuntimeError(f"llama_decode ended with {code}")

    def _sample(self, data: bytearray) -> int:
        token = int(self._lib.llama_sampler_sample(self._sampler, self._context, -1))
        size = self._lib.llama_token_to_piece(self._vocabulary, token, self._piece, len(self._piece), 0, False)
        data += self._piece.raw[: max(size, 0)]
        return token


def open_peer(**knobs: Any) -> Llama:
    """Open a model; see `Llama`."""
    return Llama(**knobs)

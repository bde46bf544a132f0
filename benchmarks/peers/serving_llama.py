"""llama.cpp's own server over HTTP, out of the wheel `xllamacpp`: runs in the peers' environment until its input ends.

python benchmarks/peers/serving_llama.py MODEL CONTEXT SLOTS THREADS
"""

from __future__ import annotations

import json
import os
import sys


def main(model: str, context: str, slots: str, threads: str) -> None:
    """Print the address as a JSON line, then serve. Each slot has its context; beginnings in a slot are reused."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import xllamacpp as lib

    how = lib.CommonParams()
    how.model.path, how.n_ctx, how.n_parallel = model, int(context) * int(slots), int(slots)
    how.cpuparams.n_threads = how.cpuparams_batch.n_threads = int(threads)
    how.flash_attn_type = lib.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
    how.fit_params, how.verbosity, how.hostnames, how.port = False, 0, ["127.0.0.1"], 0
    server = lib.Server(how)
    answers.write(json.dumps({"url": server.listening_address}) + "\n")
    answers.flush()
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Inside a contender's process, under its own interpreter: opens it and answers questions line by line.

    PYTHON benchmarks/peers/worker.py MODULE KNOBS

The first line out says how long opening took; after that one JSON line answers each JSON line in. What a peer prints
itself goes to standard error.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import Any


def main() -> None:
    """Answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(line: dict[str, Any]) -> None:
        answers.write(json.dumps(line) + "\n")
        answers.flush()

    module, knobs = sys.argv[1], json.loads(sys.argv[2])
    started = time.perf_counter()
    peer = importlib.import_module(f"contenders.{module}").open_peer(**knobs)
    say({"open_s": time.perf_counter() - started, "versions": peer.versions})
    for line in sys.stdin:
        request = json.loads(line)
        say(getattr(peer, request.pop("what"))(**request))
    # Nothing is left to tidy up, and some libraries take their time over it.
    os._exit(0)


if __name__ == "__main__":
    main()

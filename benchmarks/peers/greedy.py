"""llama.cpp's greedy answers with the two likeliest tokens of each step: runs in the peers' environment.

    python benchmarks/peers/greedy.py MODEL ASKED.json NUMBER

ASKED has `prompts`, lists of tokens, and `ends`, tokens that no answer may hold. Prints one JSON line for each prompt:
`tokens`, NUMBER of them; `gaps`, by how much the logit of each lies above that of the likeliest other one. A gap is
null for a token that ends within a character, about which the server says nothing. The cache is in float32.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from contenders.llama_wheel import Server

_TELLS_TOKENS = 10


class Teller(Server):
    """The server of the wheel `xllamacpp`, asked for what it drew and from what."""

    def greedy(self, prompt: list[int], number: int, ends: list[int]) -> dict[str, Any]:
        """See above. One slot, nothing kept of earlier prompts."""
        request = {
            "prompt": prompt, "n_predict": number, "temperature": 0.0, "samplers": ["temperature"], "stream": False,
            "logit_bias": [[end, False] for end in ends], "n_probs": len(ends) + 2, "return_tokens": True,
            "cache_prompt": False,
        }  # fmt: skip
        found: list[Any] = []

        def take(answer: Any) -> bool:
            found.append(json.loads(answer) if isinstance(answer, str) else answer)
            return False

        self._server.handle_completions(request, take)
        tokens: list[int] = found[0]["__verbose"]["tokens"]
        told = _told(tokens, found[0]["choices"][0]["logprobs"]["content"])
        return {"tokens": tokens, "gaps": [step and _gap(step, ends) for step in told]}


def _told(tokens: list[int], steps: list[Any]) -> list[Any]:
    """What was said about each token, None where it was held back for the rest of its character."""
    told: list[Any] = []
    for step in steps:
        # Bytes of what was held back stand before its own.
        held = len(step["bytes"]) > len(_own(step)["bytes"])
        at = tokens.index(step["id"], len(told) + held)
        told += [None] * (at - len(told)) + [step]
    return told + [None] * (len(tokens) - len(told))


def _own(step: Any) -> Any:
    return next(one for one in step["top_logprobs"] if one["id"] == step["id"])


def _gap(step: Any, ends: list[int]) -> float:
    others = [one["logprob"] for one in step["top_logprobs"] if one["id"] not in (*ends, step["id"])]
    return float(step["logprob"] - max(others))


def main(model: str, path: str, number: str) -> None:
    """Answer all prompts."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints itself goes to standard error
    peer = Teller(model, 512, "f32", threads=1, repack=False, flash=False, verbosity=_TELLS_TOKENS)
    asked = json.loads(Path(path).read_text())
    for prompt in asked["prompts"]:
        answers.write(json.dumps(peer.greedy(prompt, int(number), asked["ends"])) + "\n")
        answers.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])

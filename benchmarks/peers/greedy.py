"""llama.cpp's greedy answers with the two likeliest tokens of each step: runs in the peers' environment.

    python benchmarks/peers/greedy.py MODEL PROMPTS.json NUMBER

PROMPTS is a list of lists of tokens. Prints one JSON line for each: `tokens`, NUMBER of them; `gaps`, by how much the
likeliest logit of each step lies above the second; `seconds`, those second tokens.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from contenders.llama_wheel import Server


class Teller(Server):
    """The server of the wheel `xllamacpp`, asked for what it drew and from what."""

    def greedy(self, prompt: list[int], number: int) -> dict[str, Any]:
        """See above. One slot, nothing kept of earlier prompts."""
        request = {
            "prompt": prompt, "n_predict": number, "temperature": 0.0, "samplers": ["temperature"], "ignore_eos": True,
            "cache_prompt": False, "n_probs": 2, "return_tokens": True, "stream": False,
        }  # fmt: skip
        found: list[Any] = []

        def take(answer: Any) -> bool:
            found.append(json.loads(answer) if isinstance(answer, str) else answer)
            return False

        self._server.handle_completions(request, take)
        steps = [step for answer in found for step in answer["choices"][0]["logprobs"]["content"]]
        tops = [sorted(step["top_logprobs"], key=lambda one: -one["logprob"])[:2] for step in steps]
        return {
            "tokens": [step["id"] for step in steps],
            "gaps": [first["logprob"] - second["logprob"] for first, second in tops],
            "seconds": [second["id"] for _, second in tops],
        }


def main(model: str, prompts: str, number: str) -> None:
    """Answer all prompts."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints itself goes to standard error
    peer = Teller(model, 512, "f16", threads=1, repack=False, flash=False)
    for prompt in json.loads(Path(prompts).read_text()):
        answers.write(json.dumps(peer.greedy(prompt, int(number))) + "\n")
        answers.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])

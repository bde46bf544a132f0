"""What replays of an engine took."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

MOST_STEPS = 1 << 16
"""Steps of which each one's time is kept; a server may take more."""


@dataclass
class Timing:
    """What replays took: tokens and seconds of prompts, and of words after the first, of all sequences together.

    `decode_tokens` are words that came of steps, without guesses that were wrong; whoever takes steps counts them.

    `longest_chunk_s` is the longest that one replay of prompts took: so much longer may somebody wait for a word.
    """

    prompt_tokens: int = 0
    prompt_s: float = 0.0
    longest_chunk_s: float = 0.0
    decode_tokens: int = 0
    decode_s: float = 0.0
    step_s: array[float] = field(default_factory=lambda: array("d"))

    def note(self, stage: str, num_tokens: int, seconds: float) -> None:
        """A replay of a stage, of so many tokens, took so long."""
        if stage == "prefill":
            self.prompt_tokens += num_tokens
            self.prompt_s += seconds
            self.longest_chunk_s = max(self.longest_chunk_s, seconds)
            return
        self.decode_s += seconds
        if len(self.step_s) < MOST_STEPS:
            self.step_s.append(seconds)

"""What somebody asks of an open pack."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from pintpot.errors import UsageError, need
from pintpot.runtime.pictures import Picture, check_pictures


class Guide(Protocol):
    """Says of every next token of one answer which it may be; how a grammar takes part."""

    def allowed(self) -> memoryview[int]:
        """A bit for each token, in words of 32 bits; at least one is set."""

    def took(self, token: int) -> bool:
        """The answer goes on with this token. Returns whether nothing may follow it."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn; `temperature` 0 takes the most likely one.

    `top_k` 0 and `top_p` 1 leave every token in; `min_p` drops tokens less likely than that share of the likeliest;
    `repetition_penalty` 1 changes nothing. `presence_penalty` is taken from the logit of each word that the answer
    has, `frequency_penalty` once for each time it has it. The same seed gives the same answer.
    """

    temperature: float = 0.7
    top_k: int = 0
    top_p: float = 0.95
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    def __post_init__(self) -> None:
        need(0 <= self.temperature <= 100, f"temperature {self.temperature} is not within 0 to 100", UsageError)
        need(self.top_k >= 0, f"top-k {self.top_k} is negative; 0 leaves every token in", UsageError)
        need(0 < self.top_p <= 1, f"top-p {self.top_p} is not within 0 to 1", UsageError)
        need(0 <= self.min_p <= 1, f"min-p {self.min_p} is not within 0 to 1", UsageError)
        need(0 < self.repetition_penalty <= 10, "repetition penalty is within 0 to 10; 1 changes nothing", UsageError)
        need(0 <= self.seed < 2**64, f"seed {self.seed} is not within 0 to 2^64", UsageError)
        for name in ("presence_penalty", "frequency_penalty"):
            need(-2 <= getattr(self, name) <= 2, f"{name} {getattr(self, name)} is not within -2 to 2", UsageError)


@dataclass(frozen=True, slots=True)
class Request:
    """Tokens in, at most `max_tokens` out, ended early by an end token of the model or a stop string.

    `bias` is added to the logits of some tokens, `guide` says which may come at all, and with `num_likely` every token
    comes with its log probability, and with those of so many of the likeliest.
    Tokens below 0 are those of `pictures`, in the same order.
    """

    tokens: tuple[int, ...]
    max_tokens: int = 256
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    ignore_end: bool = False
    bias: tuple[tuple[int, float], ...] = ()
    guide: Guide | None = None
    num_likely: int | None = None
    pictures: tuple[Picture, ...] = ()

    def __post_init__(self) -> None:
        need(len(self.tokens) > 0, "the prompt is empty", UsageError)
        need(self.max_tokens >= 1, f"{self.max_tokens} tokens are no answer; ask for 1 or more", UsageError)
        need(all(self.stop), "a stop string is empty", UsageError)
        if self.pictures or min(self.tokens) < 0:
            check_pictures(self.tokens, self.pictures)

    @property
    def size(self) -> int:
        """Tokens to read before the first one of the answer."""
        return len(self.tokens)

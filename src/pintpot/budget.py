"""What will be asked of the model, and what it may cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pintpot.errors import UsageError, need

Prefer = Literal["speed", "quality", "memory"]
RateUnit = Literal["tokens/s", "answers/s", "steps/s", "pictures/s"]
DEFAULT_CONTEXT = 2048
DEFAULT_DEGRADATION = 0.05
DEFAULT_MEMORY_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Train:
    """Learning: `steps` of `sequences` of `length` tokens; `held_out` sequences are asked `evaluations` times.

    Of what sees sequences are pictures, `of` them, each counted as one token.
    """

    length: int = 512
    sequences: int = 4
    steps: int = 100
    held_out: int = 1
    evaluations: int = 2
    of: Literal["tokens", "pictures"] = "tokens"

    def __post_init__(self) -> None:
        words = self.of == "tokens"
        need(
            self.length >= 2 if words else self.length == 1,
            f"sequences of {self.length} tokens hold no word and its next one",
            UsageError,
        )
        need(self.sequences >= 1 and self.steps >= 1, "steps, and sequences of a step, are at least one", UsageError)

    @property
    def unit(self) -> str:
        """What an answer that is learned is."""
        return "word" if self.of == "tokens" else "picture"

    @property
    def units(self) -> str:
        """Tokens in short, or pictures."""
        return "tok" if self.of == "tokens" else self.of

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.sequences * self.length


@dataclass(frozen=True, slots=True)
class Workload:
    """The work to plan for: `context` positions per sequence, of which `prompt` come in and `output` go out.

    `given` of the prompt's positions at most are no words: what pictures became takes them. There are so many
    `pictures` in all prompts. A step has room for `guesses` more words than there are sequences.
    """

    context: int = DEFAULT_CONTEXT
    batch: int = 1
    prompt: int = 512
    output: int = 128
    task: str = "chat"
    given: int = 0
    pictures: int = 0
    guesses: int = 0
    train: Train | None = None

    def __post_init__(self) -> None:
        need(self.context >= 2, f"a context of {self.context} holds no word and its answer; use 2 or more", UsageError)
        need(self.batch >= 1, f"a batch of {self.batch} is empty; use 1 or more", UsageError)
        need(0 <= self.given < self.context, f"{self.given} positions for images in {self.context}", UsageError)
        need(self.guesses >= 0, f"{self.guesses} guesses in a step", UsageError)
        need(self.prompt >= 1 and self.output >= 1, "prompt and output are at least one token", UsageError)

    @property
    def rate_unit(self) -> RateUnit:
        """What is counted by the second: tokens of a text, steps of a drawing, pictures learned, else answers."""
        if self.train is not None and self.train.of == "pictures":
            return "pictures/s"
        rates: dict[str, RateUnit] = {"chat": "tokens/s", "train": "tokens/s", "denoise": "steps/s"}
        return rates.get(self.task, "answers/s")


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits, each None or a number the plan must keep at its bad end.

    `memory_bytes` is the whole process on the device; `degradation` is the mean KL divergence in nats per token
    against the unpacked model; `first_token_s` and `per_token_s` bound the speed. `below_4_bits` allows formats under
    4 bits whose degradation nobody has measured yet, `windowed` plans that forget the middle of a long text, `lending`
    plans in which sequences share fewer pages of the cache than their contexts have; `uncalibrated` rules out rounding
    that has to look at texts before packing, `balanced` asks that it count pictures and words by how much the loss
    moves with them. `chosen` names the fields that the person set.
    """

    memory_bytes: int
    workload: Workload = field(default_factory=Workload)
    degradation: float = DEFAULT_DEGRADATION
    first_token_s: float | None = None
    per_token_s: float | None = None
    prefer: Prefer = "speed"
    threads: int | None = None
    below_4_bits: bool = False
    windowed: bool = False
    lending: bool = False
    uncalibrated: bool = False
    balanced: bool = False
    chosen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        need(self.memory_bytes > 0, "a memory budget is more than 0 bytes", UsageError)
        need(self.degradation >= 0, f"degradation {self.degradation} is negative; 0 asks for none", UsageError)
        for name in ("first_token_s", "per_token_s"):
            value = getattr(self, name)
            need(value is None or value > 0, f"{name} is more than 0 seconds", UsageError)
        known = self.prefer in ("speed", "quality", "memory")
        need(known, f"prefer is speed, quality or memory, not {self.prefer!r}", UsageError)

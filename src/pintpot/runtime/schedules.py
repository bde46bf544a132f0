"""How noise is taken away in diffusion: DDIM and Euler's method over a flow, from the files that diffusers writes.

Each step of both has one form. With `x` as it is and `y` what the network answers, the clean image and the noise are
guessed as `clean = a x + b y` and `noise = c x + d y`, and the next `x` is `e clean + f noise`. So a schedule is a
tuple of such steps, made of plain numbers before anything runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from operator import mul
from typing import Any, Final

from pintpot.errors import BadFile, UnsupportedModel, UsageError, need

Pair = tuple[float, float]
MOST_TIMES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Move:
    """One step: the network is asked at `time`; `clean` and `noise` weigh x and answer, `blend` weighs those two."""

    time: float
    clean: Pair
    noise: Pair
    blend: Pair
    clip: float | None

    def __call__(self, x: Any, answer: Any) -> Any:
        """The next x; both are arrays of one shape, of numpy or of PyTorch."""
        clean = self.clean[0] * x + self.clean[1] * answer
        if self.clip is not None:
            clean = clean.clip(-self.clip, self.clip)
        return self.blend[0] * clean + self.blend[1] * (self.noise[0] * x + self.noise[1] * answer)


def moves(config: Mapping[str, Any], num_steps: int) -> tuple[Move, ...]:
    """The steps of a scheduler_config.json. Raises UnsupportedModel for another kind of schedule, or an option of these
    that is not known here, UsageError for more steps than there are times, BadFile for values that mean nothing.
    """
    name = config.get("_class_name")
    known = isinstance(name, str) and name in _SCHEDULES
    need(known, f"no schedule {name!r:.60}; there are {', '.join(_SCHEDULES)}", UnsupportedModel)
    made = _SCHEDULES[str(name)]
    found = {**made.defaults, **{key: value for key, value in config.items() if not key.startswith("_")}}
    for key, value in made.fixed.items():
        same = found.get(key, value) == value
        need(same, f"a {name} whose {key} is {found.get(key)!r:.40} is not known here", UnsupportedModel)
    times = found["num_train_timesteps"]
    need(type(times) is int and 0 < times <= MOST_TIMES, f"{times!r:.40} times of a schedule", BadFile)
    need(1 <= num_steps <= times, f"{num_steps} steps; use 1 to {times}", UsageError)
    try:
        return made.steps(found, num_steps)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise BadFile(f"a {name} that makes no steps: {error}") from error


def _ddim(config: Mapping[str, Any], num_steps: int) -> tuple[Move, ...]:
    """Without noise of its own (Song, Meng and Ermon 2021, arXiv:2010.02502, formula 12 with sigma 0)."""
    kept, num_times = _kept(config), config["num_train_timesteps"]
    last = 1.0 if config["set_alpha_to_one"] else kept[0]
    clip = float(config["clip_sample_range"]) if config["clip_sample"] else None
    found = []
    for time in _times(config, num_steps):
        before = time - num_times // num_steps
        now, then = kept[time], kept[before] if before >= 0 else last
        signal, noise = math.sqrt(now), math.sqrt(1 - now)
        if config["prediction_type"] == "epsilon":
            guesses = (1 / signal, -noise / signal), (0.0, 1.0)
        elif config["prediction_type"] == "sample":
            guesses = (0.0, 1.0), (1 / noise, -signal / noise)
        else:
            need(config["prediction_type"] == "v_prediction", f"a prediction {config['prediction_type']!r}", BadFile)
            guesses = (signal, -noise), (noise, signal)
        found.append(Move(float(time), *guesses, (math.sqrt(then), math.sqrt(1 - then)), clip))
    return tuple(found)


def _kept(config: Mapping[str, Any]) -> list[float]:
    """What is left of an image's variance at each time of training."""
    count, first, last = config["num_train_timesteps"], config["beta_start"], config["beta_end"]
    if config["beta_schedule"] == "squaredcos_cap_v2":
        share = [math.cos((i / count + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(count + 1)]
        lost = [min(1 - after / before, 0.999) for before, after in pairwise(share)]
    else:
        power = {"linear": 1, "scaled_linear": 2}.get(config["beta_schedule"], 0)
        need(power > 0, f"noise by {config['beta_schedule']!r:.40} is not known here", UnsupportedModel)
        low, high = first ** (1 / power), last ** (1 / power)
        lost = [(low + (high - low) * i / max(1, count - 1)) ** power for i in range(count)]
    kept = list(accumulate((1 - one for one in lost), mul))
    if config["rescale_betas_zero_snr"]:
        # Nothing of the image is left at the last time (Lin and others 2024, arXiv:2305.08891, algorithm 1).
        start, end = math.sqrt(kept[0]), math.sqrt(kept[-1])
        kept = [((math.sqrt(one) - end) * start / (start - end)) ** 2 for one in kept]
    return kept


def _times(config: Mapping[str, Any], num_steps: int) -> list[int]:
    count, spacing = config["num_train_timesteps"], config["timestep_spacing"]
    if spacing == "trailing":
        return [max(0, round(count - i * count / num_steps) - 1) for i in range(num_steps)]
    if spacing == "linspace":
        return [round(i * (count - 1) / max(1, num_steps - 1)) for i in reversed(range(num_steps))]
    need(spacing == "leading", f"times spaced as {spacing!r:.40}", BadFile)
    return [min(count - 1, i * (count // num_steps) + config["steps_offset"]) for i in reversed(range(num_steps))]


def _flow(config: Mapping[str, Any], num_steps: int) -> tuple[Move, ...]:
    """Euler's method along straight ways from noise to images (Liu, Gong and Liu 2023, arXiv:2209.03003).

    `shift` spends more of the steps where there is more noise (Esser and others 2024, arXiv:2403.03206, formula 23).
    """
    count, shift = config["num_train_timesteps"], config["shift"]

    def shifted(share: float) -> float:
        return float(shift * share / (1 + (shift - 1) * share))

    least = shifted(1 / count)
    shares = [shifted(1 + (least - 1) * i / max(1, num_steps - 1)) for i in range(num_steps)]
    return tuple(
        Move(now * count, (1.0, -now), (1.0, 1 - now), (1 - then, then), None) for now, then in pairwise((*shares, 0.0))
    )


@dataclass(frozen=True, slots=True)
class _Schedule:
    """A scheduler of diffusers: what it does where its file is silent, and options that have to be as they are here."""

    steps: Callable[[Mapping[str, Any], int], tuple[Move, ...]]
    defaults: Mapping[str, Any]
    fixed: Mapping[str, Any]


_SCHEDULES: Final[Mapping[str, _Schedule]] = {
    "DDIMScheduler": _Schedule(
        _ddim,
        {
            "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear",
            "clip_sample": True, "clip_sample_range": 1.0, "set_alpha_to_one": True, "steps_offset": 0,
            "prediction_type": "epsilon", "timestep_spacing": "leading", "rescale_betas_zero_snr": False,
        },
        {"thresholding": False, "trained_betas": None},
    ),
    "FlowMatchEulerDiscreteScheduler": _Schedule(
        _flow,
        {"num_train_timesteps": 1000, "shift": 1.0},
        {
            "use_dynamic_shifting": False, "invert_sigmas": False, "shift_terminal": None, "use_karras_sigmas": False,
            "use_exponential_sigmas": False, "use_beta_sigmas": False, "stochastic_sampling": False,
        },
    ),
}  # fmt: skip

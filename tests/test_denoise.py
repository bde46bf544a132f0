"""Loops that take noise away: the same images as diffusers' own schedules make, step by step, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from pintpot.errors import BadFile, PintpotError, UnsupportedModel, UsageError
from pintpot.runtime.kinds._noise import normal
from pintpot.runtime.loops import denoise
from pintpot.runtime.schedules import moves

DDIM = (
    {},
    {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
     "beta_schedule": "squaredcos_cap_v2"},
    {"prediction_type": "sample", "clip_sample": False, "timestep_spacing": "linspace", "set_alpha_to_one": False},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1,
     "clip_sample": False, "set_alpha_to_one": False, "num_train_timesteps": 500},
)  # fmt: skip
FLOW = ({}, {"shift": 3.0})


def network(x: torch.Tensor, time: float) -> torch.Tensor:
    """Not a network, but as far from linear in both as one."""
    return torch.tanh(x.roll(1, -1) * 1.3 + time / 700) + 0.2 * x


def written(scheduler: Any) -> dict[str, Any]:
    """What `save_pretrained` writes."""
    return dict(json.loads(scheduler.to_json_string()))


def drive(loop: Any) -> tuple[torch.Tensor, list[float]]:
    times, answer = [], None
    while True:
        try:
            asked = loop.send(answer)
        except StopIteration as end:
            return end.value, times
        times.append(asked.time)
        assert asked.index == len(times) - 1
        answer = network(asked.x, asked.time)


@pytest.mark.parametrize("config", DDIM)
@pytest.mark.parametrize("num_steps", [1, 7, 30])
def test_ddim_is_that_of_diffusers(config: dict[str, Any], num_steps: int) -> None:
    theirs = DDIMScheduler(**config)
    theirs.set_timesteps(num_steps)
    noise = x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found, times = drive(denoise(noise, moves(written(theirs), num_steps)))
    assert times == theirs.timesteps.tolist()
    for t in theirs.timesteps:
        x = theirs.step(network(x, float(t)), t, x).prev_sample
    torch.testing.assert_close(found, x, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("config", FLOW)
@pytest.mark.parametrize("num_steps", [1, 7, 30])
def test_euler_over_a_flow_is_that_of_diffusers(config: dict[str, Any], num_steps: int) -> None:
    theirs = FlowMatchEulerDiscreteScheduler(**config)
    theirs.set_timesteps(num_steps)
    noise = x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found, times = drive(denoise(noise, moves(written(theirs), num_steps)))
    torch.testing.assert_close(torch.tensor(times), theirs.timesteps, atol=1e-2, rtol=1e-5)
    for t in theirs.timesteps:
        x = theirs.step(network(x, float(t)), t, x).prev_sample
    torch.testing.assert_close(found, x, atol=2e-4, rtol=2e-4)


def test_guidance_leads_away_from_the_answer_without_a_condition() -> None:
    steps = moves({"_class_name": "FlowMatchEulerDiscreteScheduler"}, 4)
    noise = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    loop, answer = denoise(noise, steps, guidance=3.0), None
    with pytest.raises(StopIteration) as end:
        while True:
            asked = loop.send(answer)
            free = network(asked.x, asked.time)
            # Two more channels: what a network guesses of the variance is no part of the image.
            answer = torch.cat([torch.cat([free + 0.25, free]), torch.ones(4, 2, 4, 4)], 1)
    x = noise
    for move in steps:
        x = move(x, network(x, move.time) + 3.0 * 0.25)
    torch.testing.assert_close(end.value.value, x)


@pytest.mark.parametrize(
    ("config", "num_steps", "error", "why"),
    [
        ({"_class_name": "PNDMScheduler"}, 3, UnsupportedModel, "no schedule 'PNDMScheduler'; there are DDIM"),
        ({}, 3, UnsupportedModel, "no schedule None"),
        ({"_class_name": "DDIMScheduler", "thresholding": True}, 3, UnsupportedModel, "thresholding is True"),
        ({"_class_name": "DDIMScheduler", "beta_schedule": "laplace"}, 3, UnsupportedModel, "noise by 'laplace'"),
        ({"_class_name": "DDIMScheduler"}, 1001, UsageError, "use 1 to 1000"),
        ({"_class_name": "DDIMScheduler"}, 0, UsageError, "use 1 to 1000"),
        ({"_class_name": "DDIMScheduler", "num_train_timesteps": 1 << 40}, 3, BadFile, "times of a schedule"),
        ({"_class_name": "DDIMScheduler", "beta_end": 9.0}, 3, BadFile, "makes no steps"),
        ({"_class_name": "DDIMScheduler", "beta_end": "x"}, 3, BadFile, "makes no steps"),
        ({"_class_name": "DDIMScheduler", "timestep_spacing": 3}, 3, BadFile, "spaced as 3"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "use_karras_sigmas": True}, 3, UnsupportedModel, "karras"),
    ],
)
def test_what_is_no_schedule_here_is_refused(
    config: dict[str, Any], num_steps: int, error: type[PintpotError], why: str
) -> None:
    with pytest.raises(error, match=why):
        moves(config, num_steps)


@pytest.mark.parametrize("shape", [(1, 1, 28, 28), (3, 5, 7), (17,), (2, 4, 8, 8)])
@pytest.mark.parametrize("seed", [0, 1, 7, 123456789])
def test_noise_is_what_pytorch_draws(shape: tuple[int, ...], seed: int) -> None:
    due = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).numpy()
    np.testing.assert_allclose(normal(shape, seed), due, atol=2e-6)

"""A graphics card that takes steps: the values of the processor's but for rounding, whatever the order."""

from __future__ import annotations

import pytest
import torch

from pintpot.kernels.torch.adam import Rates, adam
from pintpot.kernels.torch.card import CudaCard
from pintpot.techniques.train.deep_optimizer_states import InTurns
from pintpot.trainer.learned import Learned, Pace

pytestmark = pytest.mark.cuda


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_steps_there_are_steps_here() -> None:
    card, rates = CudaCard(1000, 3), Rates(1e-2, 0.1, 0.001)
    given = [tuple(drawn(1000 - at, seed=4 * at + part).abs() for part in range(4)) for at in range(20)]
    wanted = [tuple(one.clone() for one in four) for four in given]
    for value, grad, m, v in wanted:
        adam(value, grad, m, v, rates)
    card.hold([one for value, _, m, v in given for one in (value, m, v)])
    for value, grad, m, v in given:
        card.give((value, grad, m, v), rates)
    card.wait()
    for ours, theirs in zip(given, wanted, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
    card.release()


def test_what_learns_in_turns_learns_the_same() -> None:
    def learned(updating: InTurns | None) -> dict[str, torch.Tensor]:
        found = Learned({"a": drawn(3000, 1000, seed=0), "b": drawn(70, 11, seed=1)}, updating=updating)
        for step in range(3):
            grads = {"a": drawn(3000, 1000, seed=2 + step), "b": drawn(70, 11, seed=9 + step)}
            found.update(grads, Pace(1e-2), step, 3)
        kept = {name: one.clone() for name, one in found.tensors().items()}
        found.ended()
        return kept

    plain, turns = learned(None), learned(InTurns(2))
    for name, one in plain.items():
        torch.testing.assert_close(turns[name], one, rtol=1e-5, atol=1e-6)

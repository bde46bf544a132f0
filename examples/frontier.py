"""Frontier: quality against bytes and against speed, for the plans that are chosen at some budgets."""

from smollm2 import model

import pintpot

found = pintpot.frontier(model(), context=256, budgets=2, runs=1, tokens=256, progress=lambda done, what: None)
for point in found.points:
    mean = point.answers.kl.mean
    print(f"{point.weight_bytes / 1e6:.4g} MB of weights: {mean:.2g} nats, {point.decode:.3g} tokens a second")

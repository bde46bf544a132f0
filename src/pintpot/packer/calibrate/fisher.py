"""How much a model's answers move when a weight is rounded, to second order and from gradients alone.

The divergence of a changed model is half the change squared, weighed by the Fisher information (Kullback's identity;
for networks Martens 2014, arXiv:1412.1193): with labels y drawn from the model's own distribution, a text of T tokens
has the gradient G = d log p(y) / dW, and KL(W + dW) = E[<G, dW>^2] / 2T for each token. Errors of rounding differ from
value to value without a pattern, so only the squares of G's entries stay: one text gives one sample of the diagonal
(Kirkpatrick et al. 2017, arXiv:1612.00796, uses it to the same end). What a factorized Fisher (Martens and Grosse 2015,
arXiv:1503.05671) leaves out, that gradients of one text's positions belong together, is in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from pintpot.errors import BadInput
from pintpot.formats import DENSE_FORMATS, encoding, is_lossless
from pintpot.formats.convert import encode
from pintpot.formats.tiles import unpack

Floats = NDArray[np.float32]
FIRST_ROWS, OTHER_ROWS = 64, 192
"""How many rows of a matrix are rounded to learn what its rounding costs: those that matter most, and of the others."""


def add_squares(rows: Floats, grads: Floats, lengths: Sequence[int], into: Floats) -> None:
    """Add each text's squared gradient [N, K], from rows [T, K] and gradients [T, N] of texts one after the other."""
    first = 0
    for length in lengths:
        part = slice(first, first + length)
        gradient = grads[part].T @ rows[part]
        np.multiply(gradient, gradient, out=gradient)
        into += gradient
        first = part.stop


def losses(values: Floats, squares: Floats, formats: Iterable[str]) -> dict[str, float]:
    """Sum of squares x rounding error squared over a matrix [N, K], by format; without those that cannot hold it.

    The rows with the largest share of squares x values squared are rounded, and of the others evenly spread ones, which
    stand for their like.
    """
    energy = np.einsum("nk,nk,nk->n", squares, values, values, dtype=np.float64)
    order = np.argsort(-energy, kind="stable")
    first, rest = np.sort(order[:FIRST_ROWS]), order[FIRST_ROWS:]
    some = np.sort(rest[:: max(1, len(rest) // OTHER_ROWS)])
    share = float(energy[rest].sum() / energy[some].sum()) if len(some) and energy[some].any() else 0.0
    found = {}
    for name in formats:
        try:
            found[name] = _lost(values[first], squares[first], name)
            if len(some):
                found[name] += share * _lost(values[some], squares[some], name)
        except BadInput:
            found.pop(name, None)
    return found


def rounded(values: Floats, name: str) -> Floats:
    """A matrix as a format keeps it. Raises BadInput for values that it cannot hold."""
    return unpack(encode(values, name), name, *values.shape)


def worth_measuring(source: str) -> tuple[str, ...]:
    """Formats that weights of a source can be kept in with fewer bits than its own, and not all of its values."""
    own = encoding(encoding(source).packed_as).bits
    return tuple(name for name in DENSE_FORMATS if encoding(name).bits < own and not is_lossless(source, name))


def _lost(values: Floats, squares: Floats, name: str) -> float:
    error = rounded(values, name)
    error -= values
    return float(np.einsum("nk,nk,nk->", squares, error, error, dtype=np.float64))

"""METER: how far one model's answers are from another's. Pure functions of arrays; whoever measures imports this late.

For text the measure is the Kullback-Leibler divergence of the next-token distributions, in nats per token, of the model
under test from the reference: KL(reference || test) = sum over the vocabulary of p (log p - log q). Beside it stand how
often both prefer the same token, and the perplexity of each on the text that was read. For other kinds of model: cosine
and peak signal-to-noise ratio of arrays, and the word error rate of transcripts.

Legend: T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pintpot.errors import need

Floats = NDArray[np.float64]
CHUNK_BYTES = 32 << 20
TOKENS_PER_BLOCK = 64
MOST_TOKENS = 1_000_000_000  # nobody reads more to decide a thing
# Student's t at 97.5% for 1 to 10 degrees of freedom; beyond, an expansion around the normal is exact to 0.1%.
_T_975 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
_Z_975 = 1.959964


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95% confidence interval."""

    low: float
    mean: float
    high: float

    def below(self, limit: float) -> bool | None:
        """Whether the quantity is at most `limit`; None where the interval reaches to both sides of it."""
        if self.high <= limit:
            return True
        return False if self.low > limit else None


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Per token [T]: divergence in nats, whether both prefer the same token, and the cost of the true one in nats.

    The two costs are empty where no targets were given.
    """

    kl: Floats
    same_top1: NDArray[np.bool_]
    nll_reference: Floats
    nll_test: Floats


@dataclass(frozen=True, slots=True)
class Agreement:
    """What `Comparison.result` hands out. Divergences in nats per token; perplexities None without targets."""

    num_tokens: int
    num_sequences: int
    kl: Interval
    kl_p99: float
    kl_max: float
    top1: float
    perplexity_reference: float | None
    perplexity_test: float | None


class Comparison:
    """Gathers a comparison sequence by sequence. It keeps a few numbers per token, never the logits."""

    def __init__(self) -> None:
        self._scores: list[TokenScores] = []

    def add(self, reference: ArrayLike, test: ArrayLike, targets: ArrayLike | None = None) -> None:
        """Add one sequence: logits [T, V] of both models, and the T tokens that really came next, where known.

        Raises BadInput for shapes that disagree, for NaN, or when only some of the sequences have targets.
        """
        self.add_scores(compare(reference, test, targets))

    def add_scores(self, scores: TokenScores) -> None:
        """Add one sequence whose scores are known already. Raises BadInput when only some sequences have targets."""
        known = scores.nll_test.size > 0
        need(
            not self._scores or (self._scores[0].nll_test.size > 0) == known,
            "either all sequences of a comparison have targets or none has",
        )
        self._scores.append(scores)

    def merge(self, other: Comparison) -> None:
        """Take in what another comparison gathered; the order makes no difference to the result but for rounding."""
        self._scores.extend(other._scores)

    def result(self) -> Agreement:
        """The whole, as numbers. Raises BadInput when nothing was added."""
        need(len(self._scores) > 0, "nothing was compared yet")
        kl = np.concatenate([scores.kl for scores in self._scores])
        nll_reference = np.concatenate([scores.nll_reference for scores in self._scores])
        nll_test = np.concatenate([scores.nll_test for scores in self._scores])
        return Agreement(
            num_tokens=kl.size,
            num_sequences=len(self._scores),
            kl=mean_interval([scores.kl for scores in self._scores], floor=0.0),
            kl_p99=float(np.quantile(kl, 0.99)),
            kl_max=float(kl.max()),
            top1=float(np.concatenate([scores.same_top1 for scores in self._scores]).mean()),
            perplexity_reference=_exp_mean(nll_reference),
            perplexity_test=_exp_mean(nll_test),
        )


def compare(reference: ArrayLike, test: ArrayLike, targets: ArrayLike | None = None) -> TokenScores:
    """Compare two arrays of logits [T, V] token by token, in float64, a few rows at a time.

    A token that the reference excludes (logit -inf) adds nothing; one that only the test excludes makes the divergence
    infinite. Beside its arguments it needs about `CHUNK_BYTES`. Raises BadInput for shapes that disagree and for NaN.
    """
    ref, other = np.asarray(reference), np.asarray(test)
    need(ref.ndim == 2 and ref.shape == other.shape, f"logits are [T, V] twice, not {ref.shape} and {other.shape}")
    need(ref.size > 0, f"logits of shape {ref.shape} hold no token")
    true = None if targets is None else _checked_targets(targets, ref.shape)
    kl, same = np.empty(len(ref)), np.empty(len(ref), np.bool_)
    nll = np.empty((2, 0 if true is None else len(ref)))
    for rows in _row_chunks(*ref.shape):
        log_p, log_q = log_softmax(ref[rows]), log_softmax(other[rows])
        kl[rows] = _divergence(log_p, log_q)
        same[rows] = ref[rows].argmax(axis=1) == other[rows].argmax(axis=1)
        if true is not None:
            at = (np.arange(len(log_p)), true[rows])
            nll[0, rows], nll[1, rows] = -log_p[at], -log_q[at]
    return TokenScores(kl, same, nll[0], nll[1])


def kl_divergence(reference: ArrayLike, test: ArrayLike) -> Floats:
    """Nats per token [T] by which `test` diverges from `reference`, both logits [T, V]. Raises as `compare` does."""
    return compare(reference, test).kl


def top1_agreement(reference: ArrayLike, test: ArrayLike) -> float:
    """The share of tokens for which both prefer the same one; the lowest index wins a tie. Raises as `compare`."""
    return float(compare(reference, test).same_top1.mean())


def perplexity(logits: ArrayLike, targets: ArrayLike) -> float:
    """exp of the mean cost in nats of `targets` [T] under `logits` [T, V]. Raises BadInput as `compare` does."""
    array = np.asarray(logits)
    need(array.ndim == 2 and array.size > 0, f"logits are [T, V], not {array.shape}")
    true = _checked_targets(targets, array.shape)
    nll = np.empty(len(array))
    for rows in _row_chunks(*array.shape):
        log_p = log_softmax(array[rows])
        nll[rows] = -log_p[np.arange(len(log_p)), true[rows]]
    return float(np.exp(nll.mean()))


def log_softmax(logits: ArrayLike) -> Floats:
    """Log-probabilities in float64 over the last axis, safe for large logits. Raises BadInput for NaN and +inf."""
    shifted = np.array(logits, dtype=np.float64)
    peak = shifted.max(axis=-1, keepdims=True)
    need(bool(np.isfinite(peak).all()), "logits hold NaN or +inf, or a row without any finite value")
    shifted -= peak
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def mean_interval(groups: Sequence[ArrayLike], floor: float | None = None) -> Interval:
    """The mean of all values and its 95% interval, values inside a group (a sequence) being dependent on each other.

    The variance is that of a ratio of sums over clusters (Cochran, Sampling Techniques, 1977), with Student's t. A
    single group is cut into blocks of `TOKENS_PER_BLOCK`, which stand in for groups; a single block has no spread, so
    its interval is unbounded above. `floor` is a value below which the quantity cannot be.
    """
    arrays = [np.asarray(group, np.float64).ravel() for group in groups]
    if len(arrays) == 1:
        whole = arrays[0]
        arrays = np.array_split(whole, max(1, len(whole) // TOKENS_PER_BLOCK))
    values = np.concatenate(arrays) if arrays else np.empty(0)
    need(values.size > 0, "an interval needs at least one value")
    mean = float(values.mean())
    if not np.isfinite(mean) or len(arrays) == 1:
        return Interval(-np.inf if floor is None else floor, mean, np.inf)
    excess = np.array([float((array - mean).sum()) for array in arrays])
    num = len(arrays)
    half = student_t_975(num - 1) * float(np.sqrt(num / (num - 1) * (excess**2).sum())) / values.size
    low = mean - half
    return Interval(low if floor is None else max(floor, low), mean, mean + half)


def tokens_to_decide(found: Agreement, limit: float) -> int | None:
    """How many tokens, in sequences like these, would tell on which side of `limit` the mean divergence lies.

    They are expected to vary as those that were seen. None where nothing is known of that, or no number would do.
    """
    num = found.num_sequences if found.num_sequences > 1 else found.num_tokens // TOKENS_PER_BLOCK
    half, gap = found.kl.high - found.kl.mean, abs(limit - found.kl.mean)
    if num < 2 or not np.isfinite(half + gap) or gap == 0:
        return None
    deviation = half * num**0.5 / student_t_975(num - 1)

    def decides(count: int) -> bool:
        return bool(student_t_975(count - 1) * deviation / count**0.5 < gap)

    enough = num
    while not decides(enough):
        enough *= 2
        if enough * found.num_tokens > num * MOST_TOKENS:
            return None
    few = 1
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if decides(middle) else (middle, enough)
    return -(-enough * found.num_tokens // num)


def student_t_975(degrees: int) -> float:
    """Student's t at 97.5%: half the width, in standard errors, of a 95% interval (Abramowitz and Stegun, 26.7.5)."""
    need(degrees >= 1, f"{degrees} degrees of freedom leave no spread")
    if degrees <= len(_T_975):
        return _T_975[degrees - 1]
    z = _Z_975
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / degrees + second / degrees**2


def cosine(reference: ArrayLike, test: ArrayLike) -> float:
    """Cosine similarity of two arrays of one shape, flattened. Raises BadInput when shapes differ or one is zero."""
    a, b = _same_shape(reference, test)
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    need(norms > 0, "the cosine of an array of zeros is not defined")
    return float(np.dot(a, b) / norms)


def psnr(reference: ArrayLike, test: ArrayLike, peak: float) -> float:
    """Peak signal-to-noise ratio in dB, `peak` being the largest value possible; equal arrays give infinity."""
    need(peak > 0, f"a peak of {peak} leaves no signal")
    a, b = _same_shape(reference, test)
    error = float(np.square(a - b).mean())
    return float("inf") if error == 0 else float(10 * np.log10(peak**2 / error))


def word_error_rate(references: Iterable[str], hypotheses: Iterable[str]) -> float:
    """Words inserted, left out or replaced over all transcripts, per word of the references.

    Words are what white space separates; lower-casing and punctuation are the caller's choice. Raises BadInput when
    the numbers of transcripts differ or the references hold no word.
    """
    told, heard = [text.split() for text in references], [text.split() for text in hypotheses]
    need(len(told) == len(heard), f"{len(told)} references and {len(heard)} hypotheses do not pair up")
    num_words = sum(map(len, told))
    need(num_words > 0, "the references hold no word")
    return sum(edit_distance(a, b) for a, b in zip(told, heard, strict=True)) / num_words


def edit_distance(a: Sequence[str], b: Sequence[str]) -> int:
    """The fewest insertions, deletions and replacements that turn `a` into `b` (Wagner and Fischer, 1974)."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            change = diagonal + (left != right)
            diagonal, row[j] = row[j], min(change, row[j] + 1, row[j - 1] + 1)
    return row[-1]


def _divergence(log_p: Floats, log_q: Floats) -> Floats:
    p = np.exp(log_p)
    with np.errstate(invalid="ignore"):  # 0 * (-inf - -inf): excluded by both, adds nothing
        terms = p * (log_p - log_q)
    terms[p == 0] = 0.0
    total: Floats = terms.sum(axis=1)
    return np.maximum(total, 0.0)


def _row_chunks(num_rows: int, num_columns: int) -> Iterator[slice]:
    # Two log-softmaxes, their exponentials and the terms live at once: six float64 arrays at the widest.
    step = max(1, CHUNK_BYTES // (6 * 8 * num_columns))
    return (slice(start, min(start + step, num_rows)) for start in range(0, num_rows, step))


def _checked_targets(targets: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.int64]:
    true = np.asarray(targets)
    need(true.shape == shape[:1], f"{shape[0]} rows of logits need as many targets, not {true.shape}")
    need(true.dtype.kind in "iu", f"targets are token ids, not {true.dtype}")
    inside = bool(((true >= 0) & (true < shape[1])).all())
    need(inside, f"targets reach from {true.min()} to {true.max()}, and the vocabulary holds {shape[1]}")
    return true.astype(np.int64)


def _same_shape(reference: ArrayLike, test: ArrayLike) -> tuple[Floats, Floats]:
    a, b = np.asarray(reference, np.float64), np.asarray(test, np.float64)
    need(a.shape == b.shape and a.size > 0, f"arrays of one shape are compared, not {a.shape} and {b.shape}")
    return a.ravel(), b.ravel()


def _exp_mean(nll: Floats) -> float | None:
    return float(np.exp(nll.mean())) if nll.size else None

"""Agreement between models: every measure against the formula of scipy or torch, and the edges."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import spatial, special, stats

from pintpot.errors import BadInput
from pintpot.meter import agreement as ag
from pintpot.meter.agreement import Agreement, Comparison, Interval, TokenScores, tokens_to_decide


def logits(seed: int, num_tokens: int, num_vocab: int, scale: float = 4.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, (num_tokens, num_vocab)).astype(np.float32)


def test_divergence_is_scipys_relative_entropy() -> None:
    ref, test = logits(0, 50, 333), logits(1, 50, 333)
    expected = stats.entropy(special.softmax(ref.astype(float), 1), special.softmax(test.astype(float), 1), axis=1)
    np.testing.assert_allclose(ag.kl_divergence(ref, test), expected, rtol=1e-10)


def test_divergence_and_perplexity_are_torchs() -> None:
    torch = pytest.importorskip("torch")
    ref, test = logits(2, 40, 1000), logits(3, 40, 1000)
    targets = np.random.default_rng(4).integers(0, 1000, 40)
    double = [torch.from_numpy(array).double() for array in (ref, test)]
    log_p, log_q = (torch.log_softmax(array, -1) for array in double)
    expected = torch.nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    np.testing.assert_allclose(ag.kl_divergence(ref, test), expected.numpy(), rtol=1e-10)
    loss = torch.nn.functional.cross_entropy(double[0], torch.from_numpy(targets))
    assert ag.perplexity(ref, targets) == pytest.approx(float(loss.exp()), rel=1e-12)


def test_nothing_is_lost_to_large_offsets_or_chunking(monkeypatch: pytest.MonkeyPatch) -> None:
    ref, test = logits(5, 33, 100), logits(6, 33, 100)
    whole = ag.compare(ref, test, np.zeros(33, np.int32))
    monkeypatch.setattr(ag, "CHUNK_BYTES", 6 * 8 * 100 * 4)
    pieces = ag.compare(ref.astype(float) + 3000, test.astype(float) - 9000, np.zeros(33, np.int32))
    np.testing.assert_allclose(pieces.kl, whole.kl, rtol=1e-9)
    np.testing.assert_allclose(pieces.nll_test, whole.nll_test, rtol=1e-9)
    assert (pieces.same_top1 == whole.same_top1).all()


def test_memory_stays_bounded() -> None:
    ref, test = logits(7, 256, 50_000), logits(8, 256, 50_000)
    tracemalloc.start()
    ag.kl_divergence(ref, test)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.25 * ag.CHUNK_BYTES < ref.nbytes


def test_the_same_logits_agree_wholly() -> None:
    ref = logits(9, 20, 77)
    scores = ag.compare(ref, ref)
    assert (scores.kl == 0).all()
    assert scores.same_top1.all()
    assert ag.top1_agreement(ref, ref) == 1.0


def test_top1_counts_rows_and_breaks_ties_low() -> None:
    ref = np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.0, 0.0, 3.0], [5.0, 0.0, 0.0]])
    test = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 2.0], [0.0, 1.0, 3.0], [1.0, 1.0, 0.0]])
    assert ag.top1_agreement(ref, test) == 0.75


def test_excluded_tokens() -> None:
    ref = np.array([[0.0, 0.0, -np.inf]])
    assert ag.kl_divergence(ref, ref)[0] == 0
    assert ag.kl_divergence(ref, np.zeros((1, 3)))[0] == pytest.approx(np.log(3 / 2))
    assert ag.kl_divergence(np.zeros((1, 3)), ref)[0] == np.inf


@pytest.mark.parametrize(
    ("ref", "test", "targets", "words"),
    [
        (np.zeros((2, 3)), np.zeros((2, 4)), None, "not (2, 3) and (2, 4)"),
        (np.zeros(3), np.zeros(3), None, r"\[T, V\]"),
        (np.zeros((0, 3)), np.zeros((0, 3)), None, "no token"),
        (np.array([[0.0, np.nan]]), np.zeros((1, 2)), None, "NaN"),
        (np.zeros((1, 2)), np.array([[0.0, np.inf]]), None, "inf"),
        (np.zeros((2, 3)), np.zeros((2, 3)), [0, 3], "vocabulary holds 3"),
        (np.zeros((2, 3)), np.zeros((2, 3)), [0, -1], "from -1"),
        (np.zeros((2, 3)), np.zeros((2, 3)), [0], "as many targets"),
        (np.zeros((2, 3)), np.zeros((2, 3)), [0.0, 1.0], "token ids"),
    ],
)
def test_what_cannot_be_compared_is_refused(ref: np.ndarray, test: np.ndarray, targets: object, words: str) -> None:
    with pytest.raises(BadInput, match=words.replace("(", r"\(").replace(")", r"\)")):
        ag.compare(ref, test, targets)


def test_gathering_in_pieces_gives_the_whole() -> None:
    rng = np.random.default_rng(10)
    lengths = (30, 7, 51, 12)
    pairs = [(logits(i, n, 64), logits(i + 50, n, 64), rng.integers(0, 64, n)) for i, n in enumerate(lengths)]
    left, right, whole = ag.Comparison(), ag.Comparison(), ag.Comparison()
    for i, pair in enumerate(pairs):
        (left if i < 2 else right).add(*pair)
        whole.add(*pair)
    left.merge(right)
    got = left.result()
    assert got == whole.result()
    kl = np.concatenate([ag.kl_divergence(ref, test) for ref, test, _ in pairs])
    assert (got.num_tokens, got.num_sequences) == (100, 4)
    assert got.kl.mean == pytest.approx(kl.mean())
    assert got.kl_p99 == pytest.approx(np.quantile(kl, 0.99))
    assert got.kl_max == kl.max()
    stacked = [np.concatenate([pair[i] for pair in pairs]) for i in range(3)]
    assert got.perplexity_reference == pytest.approx(ag.perplexity(stacked[0], stacked[2]))
    assert got.perplexity_test == pytest.approx(ag.perplexity(stacked[1], stacked[2]))
    assert got.top1 == pytest.approx(ag.top1_agreement(stacked[0], stacked[1]))


def test_targets_all_or_none() -> None:
    comparison = ag.Comparison()
    with pytest.raises(BadInput, match="nothing"):
        comparison.result()
    comparison.add(logits(0, 3, 5), logits(1, 3, 5))
    assert comparison.result().perplexity_test is None
    with pytest.raises(BadInput, match="all sequences"):
        comparison.add(logits(0, 3, 5), logits(1, 3, 5), [0, 1, 2])


def test_interval_of_groups_of_one_is_the_students() -> None:
    values = np.random.default_rng(11).exponential(1, 40)
    low, high = stats.t.interval(0.95, 39, values.mean(), stats.sem(values))
    got = ag.mean_interval([[value] for value in values])
    np.testing.assert_allclose((got.low, got.mean, got.high), (low, values.mean(), high), rtol=1e-3)


def test_interval_covers_the_truth_of_dependent_tokens() -> None:
    rng, hits, naive_hits = np.random.default_rng(12), 0, 0
    for _ in range(400):
        groups = [rng.normal(1, 1) + rng.normal(0, 0.3, rng.integers(20, 60)) for _ in range(25)]
        got = ag.mean_interval(groups)
        hits += got.low <= 1 <= got.high
        tokens = np.concatenate(groups)
        naive_hits += abs(tokens.mean() - 1) <= 1.96 * stats.sem(tokens)
    assert 0.92 <= hits / 400 <= 0.98
    assert naive_hits / 400 < 0.6


def test_one_sequence_is_cut_into_blocks_and_one_block_promises_nothing() -> None:
    values = np.random.default_rng(13).exponential(1, 640)
    got = ag.mean_interval([values])
    assert 0.8 < got.low < got.mean < got.high < 1.25
    short = ag.mean_interval([values[:100]], floor=0.0)
    assert (short.low, short.high) == (0.0, np.inf)


def test_an_interval_says_on_which_side_of_a_limit_it_lies() -> None:
    found = Interval(1.0, 2.0, 3.0)
    assert [found.below(limit) for limit in (0.5, 1.0, 2.0, 2.9, 3.0, 4.0)] == [False, None, None, None, True, True]


def test_so_many_tokens_decide() -> None:
    """Forty sequences leave it open; as many as were told decide it, nearly always where the limit is not too near."""
    rng = np.random.default_rng(4)

    def measured(num: int) -> Agreement:
        comparison = Comparison()
        for kl in rng.gamma(2.0, 0.005, num):
            empty = np.zeros(0)
            comparison.add_scores(TokenScores(np.full(50, kl), np.ones(50, np.bool_), empty, empty))
        return comparison.result()

    limit, few = 0.0106, measured(40)
    assert few.kl.below(limit) is None
    needed = tokens_to_decide(few, limit)
    assert needed is not None
    assert needed > few.num_tokens
    # What is needed is a guess from few words: the gap to the limit is one as well.
    assert measured(4 * needed // 50).kl.below(few.kl.mean + 2 * abs(limit - few.kl.mean)) is True
    half = few.kl.high - few.kl.mean
    assert tokens_to_decide(few, few.kl.mean + half / 2) == pytest.approx(4 * few.num_tokens, rel=0.1)
    assert tokens_to_decide(few, few.kl.mean) is None
    assert tokens_to_decide(measured(1), limit) is None, "one block has no spread"


@pytest.mark.parametrize("degrees", [*range(1, 31), 50, 100, 1000])
def test_students_t(degrees: int) -> None:
    assert ag.student_t_975(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-3)


def test_cosine_and_noise_ratio() -> None:
    a, b = logits(14, 8, 9), logits(15, 8, 9)
    assert ag.cosine(a, b) == pytest.approx(1 - spatial.distance.cosine(a.ravel(), b.ravel()), rel=1e-6)
    expected = 20 * np.log10(255) - 10 * np.log10(np.square(a.astype(float) - b).mean())
    assert ag.psnr(a, b, 255) == pytest.approx(expected, rel=1e-12)
    assert ag.psnr(a, a, 1) == np.inf
    with pytest.raises(BadInput, match="zeros"):
        ag.cosine(a, np.zeros_like(a))
    with pytest.raises(BadInput, match="one shape"):
        ag.psnr(a, b[1:], 1)


def test_word_error_rate() -> None:
    assert ag.word_error_rate(["the cat sat on the mat"], ["the cat sat on mat"]) == pytest.approx(1 / 6)
    assert ag.word_error_rate(["a b c", "d"], ["a x c y", ""]) == pytest.approx(3 / 4)
    assert ag.word_error_rate(["a"], ["b c d"]) == 3
    with pytest.raises(BadInput, match="pair up"):
        ag.word_error_rate(["a"], [])
    with pytest.raises(BadInput, match="no word"):
        ag.word_error_rate([" "], ["a"])


WORDS = st.lists(st.sampled_from("abc"), max_size=7)


@given(WORDS, WORDS, WORDS)
def test_edit_distance_is_a_metric(a: list[str], b: list[str], c: list[str]) -> None:
    ab = ag.edit_distance(a, b)
    assert ab == ag.edit_distance(b, a)
    assert (ab == 0) == (a == b)
    assert abs(len(a) - len(b)) <= ab <= max(len(a), len(b))
    assert ab <= ag.edit_distance(a, c) + ag.edit_distance(c, b)


def test_edit_distance_of_known_pairs() -> None:
    assert ag.edit_distance("kitten", "sitting") == 3
    assert ag.edit_distance("intention", "execution") == 5

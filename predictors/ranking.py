"""How well predictions rank: Kendall's tau and its kin, with intervals and a verdict in words.

A search needs the order of architectures, not their scores, so rank correlation is what a predictor is judged by.
All functions take the true scores first; higher is better in both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from search_spaces.errors import DataError

Scores = Sequence[float] | np.ndarray

STRONG, USABLE, WEAK = 0.7, 0.5, 0.3
"""Kendall's tau from which a ranking is called strong, usable, weak; below the last it is not to be trusted."""
FEW = 20
"""Number of architectures below which no verdict is given."""


def _pair(true: Scores, predicted: Scores) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(true, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise DataError(f"true and predicted scores of shapes {a.shape} and {b.shape}; give two equal, non-empty lists")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise DataError("some scores are not finite; leave these architectures out")
    return a, b


def kendall_tau(true: Scores, predicted: Scores) -> float:
    """Kendall's tau-b, -1 to 1: agreeing minus disagreeing pairs over all, corrected for ties (Kendall 1945).

    0 where either side is constant: that ranks nothing.

    >>> round(kendall_tau([1, 2, 3, 4], [10, 30, 20, 40]), 3)
    0.667
    """
    from scipy.stats import kendalltau

    a, b = _pair(true, predicted)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(kendalltau(a, b).statistic)


def spearman(true: Scores, predicted: Scores) -> float:
    """Spearman's rank correlation, -1 to 1; 0 where either side is constant."""
    from scipy.stats import rankdata

    a, b = _pair(true, predicted)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def normal_scores(scores: Scores) -> np.ndarray:
    """What normal values of these ranks would be, `(n,)`: the quantile at (rank - 1/2) / n; ties share their mean rank.

    >>> normal_scores([10.0, 30.0, 20.0]).round(2).tolist()
    [-0.97, 0.97, 0.0]
    """
    from scipy.stats import norm, rankdata

    return np.asarray(norm.ppf((rankdata(np.asarray(scores, dtype=np.float64)) - 0.5) / len(scores)))


def top_k_precision(true: Scores, predicted: Scores, k: int) -> float:
    """Share of the `k` predicted best that are among the `k` truly best, 0 to 1."""
    a, b = _pair(true, predicted)
    k = _within(k, len(a))
    return len(set(_best(a, k).tolist()) & set(_best(b, k).tolist())) / k


def top_k_regret(true: Scores, predicted: Scores, k: int) -> float:
    """What is lost by trying only the `k` predicted best: best true score minus the best among them."""
    a, b = _pair(true, predicted)
    return float(a.max() - a[_best(b, _within(k, len(a)))].max())


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-scores, kind="stable")[:k]


def _within(k: int, n: int) -> int:
    if not 1 <= k <= n:
        raise DataError(f"the top {k} of {n} scores do not exist; 1 to {n} are allowed")
    return k


def bootstrap_interval(
    true: Scores,
    predicted: Scores,
    rng: np.random.Generator,
    *,
    statistic: Callable[[np.ndarray, np.ndarray], float] = kendall_tau,
    level: float = 0.95,
    samples: int = 1000,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a rank statistic over resampled architectures (Efron 1979).

    For long lists fewer samples are drawn: two million scores in all, but at least 100 samples.
    """
    a, b = _pair(true, predicted)
    samples = min(samples, max(100, 2_000_000 // len(a)))
    drawn = []
    for _ in range(samples):
        which = rng.integers(len(a), size=len(a))
        drawn.append(statistic(a[which], b[which]))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Trust:
    """How far a ranking can be trusted.

    Attributes:
        tau: Kendall's tau between true and predicted scores.
        low, high: its 95 % bootstrap interval.
        n: number of architectures compared.
        words: the verdict, a sentence; it warns where `low_trust` is set.
    """

    tau: float
    low: float
    high: float
    n: int
    words: str

    @property
    def low_trust(self) -> bool:
        """Too few architectures for a verdict, a tau below `USABLE`, or an interval that reaches 0."""
        return self.n < FEW or self.tau < USABLE or self.low <= 0

    def to_dict(self) -> dict[str, Any]:
        """For JSON, with the verdict."""
        return {**asdict(self), "low_trust": self.low_trust}


def trust(true: Scores, predicted: Scores, *, rng: np.random.Generator | None = None) -> Trust:
    """Judge predicted scores by true ones.

    Thresholds on tau: 0.7 strong (85 % of pairs ordered rightly), 0.5 usable (75 %), 0.3 weak (65 %). With fewer
    than 20 architectures, or where the 95 % interval reaches 0, the sentence says so.

    Args:
        rng: of the bootstrap; by default one of a fixed seed.
    """
    a, b = _pair(true, predicted)
    tau = kendall_tau(a, b)
    low, high = bootstrap_interval(a, b, rng or np.random.default_rng(0))
    return Trust(tau, low, high, len(a), _words(tau, low, high, len(a)))


def _words(tau: float, low: float, high: float, n: int) -> str:
    span = f"Kendall tau {tau:.2f}, 95 % interval {low:.2f} to {high:.2f}, n={n}"
    pairs = f"{(1 + tau) / 2:.0%} of pairs are ordered rightly ({span})"
    if n < FEW:
        return f"too few architectures for a verdict: {pairs}; compare at least {FEW}"
    if low <= 0:
        return f"not to be trusted: {pairs}, which may be chance; score more architectures"
    if tau >= STRONG:
        return f"ranks strongly: {pairs}"
    if tau >= USABLE:
        return f"usable: {pairs}; train several of the best ranked, not one"
    if tau >= WEAK:
        return f"weak, take care: {pairs}; score more architectures, or train many candidates"
    return f"not to be trusted: {pairs}; score more architectures before choosing by it"

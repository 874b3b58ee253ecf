"""The time of a unit that was not measured, from those that were.

A roofline with non-negative rates for each kind of operator carries the shape of the law and extrapolates; trees learn
the ratio of measured to roofline where cross-validation says that they help.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from search_spaces.graph import Signature

from .features import SHARED, Terms, columns, sizes, terms

Floats = NDArray[np.float64]
Kind = Literal["roofline", "roofline+trees"]
KINDS: tuple[Kind, ...] = ("roofline", "roofline+trees")
SHORTEST_MS = 1e-6
_FOLDS = 5
_FEWEST_FOR_TREES, _MOST_FOR_FOLDS = 50, 400
_RIDGE = 0.01  # draws the rates by kind to zero, so that what all kinds share explains what it can
_HUBER = 2.0  # residuals beyond so many robust standard deviations weigh less


@dataclass(frozen=True, slots=True)
class Row:
    """Features of a unit. Kept beside its measurement, so that a stored model needs no operator to be refitted."""

    terms: Terms
    sizes: Terms

    @classmethod
    def of(cls, signature: Signature) -> Row:
        return cls(terms(signature), sizes(signature))


@dataclass(frozen=True)
class Roofline:
    """`latency = sum over kinds of calls t + MACs / peak + bytes / bandwidth`, all rates non-negative.

    Fitted by non-negative least squares on relative errors with Huber weights, as a measurement that was disturbed
    is far off. Kinds unknown at the time of the fit have the rates that all kinds share.
    """

    names: tuple[str, ...]
    rates: tuple[float, ...]

    @classmethod
    def fit(cls, rows: Sequence[Row], latencies_ms: Floats) -> Roofline:
        names = columns(row.terms for row in rows)
        x = _matrix([row.terms for row in rows], names)
        return cls(names, tuple(_robust_rates(x, latencies_ms, names).tolist()))

    def predict(self, rows: Sequence[Row]) -> Floats:
        x = _matrix([row.terms for row in rows], self.names)
        # not x @ rates: BLAS rounds a row by where it stands in the batch, and a unit must always cost the same
        return np.maximum((x * np.asarray(self.rates)).sum(axis=1), SHORTEST_MS)


def _robust_rates(x: Floats, y: Floats, names: Sequence[str]) -> Floats:
    from scipy.optimize import nnls

    scale = np.maximum(x.max(axis=0), 1e-12)
    relative = x / scale / y[:, None]
    pull = np.sqrt(len(y)) * np.diag([0.0 if name.startswith(SHARED) else _RIDGE for name in names])
    weights, rates = np.ones(len(y)), np.zeros(len(names))
    for _ in range(4):
        root = np.sqrt(weights)
        rates, _ = nnls(np.vstack([relative * root[:, None], pull]), np.concatenate([root, np.zeros(len(names))]))
        error = np.abs(relative @ rates - 1)
        limit = _HUBER * max(1.4826 * float(np.median(error)), 1e-6)
        weights = np.minimum(1.0, limit / np.maximum(error, 1e-12))
    return np.asarray(rates / scale)


class Interpolator:
    """Times of units from their features.

    Args:
        kind: `roofline`, or `roofline+trees` for extremely randomised trees on the logarithm of measured / roofline.
        rows: features of the measured units.
        latencies_ms: their times.
        seed: of the trees.
        roofline: where it is known already; by default it is fitted.
    """

    def __init__(
        self,
        kind: Kind,
        rows: Sequence[Row],
        latencies_ms: Floats,
        seed: int = 0,
        roofline: Roofline | None = None,
    ) -> None:
        self.kind, self.rows, self.seed = kind, tuple(rows), seed
        self.latencies_ms = np.maximum(np.asarray(latencies_ms, np.float64), SHORTEST_MS)
        self.roofline = roofline or Roofline.fit(self.rows, self.latencies_ms)
        self._names = columns({**row.terms, **row.sizes} for row in self.rows)

    @cached_property
    def _trees(self) -> Any:
        from sklearn.ensemble import ExtraTreesRegressor

        target = np.log(self.latencies_ms / self.roofline.predict(self.rows))
        trees = ExtraTreesRegressor(100, min_samples_leaf=2, random_state=self.seed)
        return trees.fit(self._inputs(self.rows), target)

    def _inputs(self, rows: Sequence[Row]) -> Floats:
        base = np.log(self.roofline.predict(rows))
        return np.column_stack([_matrix([{**r.terms, **r.sizes} for r in rows], self._names), base])

    def predict(self, rows: Sequence[Row]) -> Floats:
        """Times in milliseconds, positive."""
        if not rows:
            return np.zeros(0)
        base = self.roofline.predict(rows)
        return base if self.kind == "roofline" else base * np.exp(self._trees.predict(self._inputs(rows)))

    def to_dict(self) -> dict[str, Any]:
        """Rates, and the measurements that the trees are fitted to again after `from_dict`."""
        return {
            "kind": self.kind,
            "seed": self.seed,
            "roofline": dict(zip(self.roofline.names, self.roofline.rates, strict=True)),
            "rows": [asdict(row) for row in self.rows],
            "latencies_ms": self.latencies_ms.tolist(),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Interpolator:
        rates = data["roofline"]
        rows = [Row(**row) for row in data["rows"]]
        roofline = Roofline(tuple(rates), tuple(rates.values()))
        if data["kind"] not in KINDS:
            raise ValueError(f"kind {data['kind']!r}, expected one of {KINDS}")
        return cls(data["kind"], rows, np.array(data["latencies_ms"]), data["seed"], roofline)


@dataclass(frozen=True)
class UnitError:
    """Cross-validated error of interpolated units.

    Attributes:
        median_ape: median absolute percentage error, as a share (0.03 is 3 %).
        spearman: rank correlation of interpolated and measured times.
        units: number of measured units.
    """

    median_ape: float
    spearman: float
    units: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def choose(
    rows: Sequence[Row], latencies_ms: Floats, rng: np.random.Generator
) -> tuple[Interpolator, UnitError | None]:
    """The interpolator with the smallest cross-validated median error; no error is known with few units."""
    y = np.maximum(np.asarray(latencies_ms, np.float64), SHORTEST_MS)
    seed = int(rng.integers(2**31))
    if len(rows) < 2 * _FOLDS:
        return Interpolator("roofline", rows, y, seed), None
    some = rng.permutation(len(rows))[:_MOST_FOR_FOLDS].tolist()
    few, truth = [rows[i] for i in some], y[some]
    kinds = KINDS if len(rows) >= _FEWEST_FOR_TREES else KINDS[:1]
    held_out = {kind: _cross_validate(kind, few, truth, seed) for kind in kinds}
    error = {kind: float(np.median(np.abs(p / truth - 1))) for kind, p in held_out.items()}
    best = min(kinds, key=lambda kind: error[kind])
    return Interpolator(best, rows, y, seed), UnitError(error[best], spearman(held_out[best], truth), len(rows))


def _cross_validate(kind: Kind, rows: Sequence[Row], y: Floats, seed: int) -> Floats:
    """Each row's prediction by a fit to the other folds; the rows come shuffled."""
    fold = np.arange(len(rows)) % _FOLDS
    predicted = np.zeros(len(rows))
    for k in range(_FOLDS):
        held = np.flatnonzero(fold == k).tolist()
        kept = np.flatnonzero(fold != k).tolist()
        fitted = Interpolator(kind, [rows[i] for i in kept], y[kept], seed)
        predicted[held] = fitted.predict([rows[i] for i in held])
    return predicted


def spearman(a: Floats, b: Floats) -> float:
    """Spearman's rank correlation; 0 where one side is constant."""
    from scipy.stats import spearmanr

    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(spearmanr(a, b).statistic)


def _matrix(rows: Sequence[Terms], names: Sequence[str]) -> Floats:
    """Rows by columns; what a row lacks is 0, what no column holds is left out (the shared columns have it)."""
    at = {name: j for j, name in enumerate(names)}
    x = np.zeros((len(rows), len(names)))
    for i, row in enumerate(rows):
        for name, value in row.items():
            if name in at:
                x[i, at[name]] = value
    return x

"""From the sum of its units to the time of a network: a robust straight line, judged by leaving networks out.

Units are timed with warm caches and on their own; in a network the same work takes a little more, about in proportion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .interpolation import spearman

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Correction:
    """`latency = offset_ms + scale * sum`, with `offset_ms >= 0` and `scale > 0`: it never changes an order."""

    offset_ms: float = 0.0
    scale: float = 1.0

    def __call__(self, sums_ms: Floats) -> Floats:
        return self.offset_ms + self.scale * sums_ms

    @classmethod
    def proportional(cls, sums_ms: Floats, measured_ms: Floats) -> Correction:
        """Median of the ratios."""
        return cls(0.0, float(np.median(measured_ms / sums_ms)))

    @classmethod
    def affine(cls, sums_ms: Floats, measured_ms: Floats) -> Correction:
        """Theil-Sen: median slope of all pairs, median offset; proportional where that gives no admissible line."""
        from scipy.stats import theilslopes

        if len(sums_ms) < 4 or np.ptp(sums_ms) < 0.05 * float(np.median(sums_ms)):
            return cls.proportional(sums_ms, measured_ms)
        slope = float(theilslopes(measured_ms, sums_ms).slope)
        offset = float(np.median(measured_ms - slope * sums_ms))
        return cls(offset, slope) if slope > 0 and offset >= 0 else cls.proportional(sums_ms, measured_ms)

    @classmethod
    def none(cls, sums_ms: Floats, measured_ms: Floats) -> Correction:
        """The sums as they are."""
        return cls()


Fit = Callable[[Floats, Floats], Correction]


@dataclass(frozen=True)
class NetworkError:
    """Error of whole networks, each predicted by a correction that was fitted without it.

    Attributes:
        median_ape: median absolute percentage error after the correction, as a share (0.03 is 3 %).
        largest_ape: the largest.
        uncorrected_ape: median without any correction.
        spearman: rank correlation of predicted and measured times.
        networks: number of networks.
    """

    median_ape: float
    largest_ape: float
    uncorrected_ape: float
    spearman: float
    networks: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def fit_correction(sums_ms: Floats, measured_ms: Floats) -> tuple[Correction, NetworkError | None]:
    """The line that predicts networks left out best: proportional, affine, or none; no error with fewer than three."""
    if len(sums_ms) == 0:
        return Correction(), None
    if len(sums_ms) < 3:
        return Correction.proportional(sums_ms, measured_ms), None
    fits: tuple[Fit, ...] = (Correction.proportional, Correction.affine, Correction.none)
    left_out = [leave_one_out(fit, sums_ms, measured_ms) for fit in fits]
    errors = [np.abs(p / measured_ms - 1) for p in left_out]
    best = int(np.argmin([float(np.median(e)) for e in errors]))
    error = NetworkError(
        median_ape=float(np.median(errors[best])),
        largest_ape=float(errors[best].max()),
        uncorrected_ape=float(np.median(np.abs(sums_ms / measured_ms - 1))),
        spearman=spearman(left_out[best], measured_ms),
        networks=len(sums_ms),
    )
    return fits[best](sums_ms, measured_ms), error


def leave_one_out(fit: Fit, sums_ms: Floats, measured_ms: Floats) -> Floats:
    """Prediction of each network by the line through the others."""
    predicted = np.zeros(len(sums_ms))
    for i in range(len(sums_ms)):
        others = np.arange(len(sums_ms)) != i
        predicted[i] = float(fit(sums_ms[others], measured_ms[others])(sums_ms[i]))
    return predicted

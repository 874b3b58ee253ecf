"""A Gaussian process for costs: a sum of operators, each with a weight of its own, and what a sum cannot explain.

The kernel adds a linear part (costs add up) to a squared exponential one (they do not quite), over the same length
scale for each feature, so that a feature which the device does not follow is switched off in both. With measurements
of other devices a third part is linear in what those devices say about a network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]
_JITTER = 1e-4
_CLIP = 8.0  # standard deviations
_PRIOR = (0.0, -3.0, 0.0, 1.0)  # logarithms of variances: smooth, noise, linear, other devices
_PRIOR_WIDTH = 2.0
_AT_ONCE = 4096
_STORED = ("target", "scales", "variances", "doubt")
_LEARNED = ("scales", "variances")
_FREEDOM = 2.0  # of Student's t
_MEDIAN_OF_SQUARE = 0.455  # of a standard normal variable


@dataclass(frozen=True)
class Process:
    """Posterior of `z = f(x) + noise`, `k(x, x') = a exp(-|u - u'|^2 / 2) + b u.u' + c v.v'`, `u_f = x_f / l_f`.

    Rasmussen and Williams 2006, eq. 2.25, 2.26 and 5.1. Targets are standardised; v are what other devices say.
    Measurements that do not fit with the others get more noise, as under Student's t (see `fit`).

    Attributes:
        points: measured networks, `(n, F)`, as given.
        others: the same networks on other devices, `(n, D)`, as given; D is 0 without any.
        target: what was measured, `(n,)`.
        scales: logarithms of l, `(F,)`.
        variances: logarithms of a, of the noise, of b and of c, `(4,)`.
        doubt: what the noise of each measurement is multiplied by, `(n,)`.
    """

    points: Floats
    others: Floats
    target: Floats
    scales: Floats
    variances: Floats
    doubt: Floats

    def __post_init__(self) -> None:
        import torch

        seen = (self._standard(self.points), torch.from_numpy(self._beside(self.others)))
        covariance = _kernel(seen, seen, *self._learned())
        covariance += torch.from_numpy(np.diag(math.exp(self.variances[1]) * self.doubt + _JITTER))
        root = torch.linalg.cholesky(covariance)
        goal = torch.from_numpy((self.target - self._centre) / self._spread)
        object.__setattr__(self, "_seen", seen)
        object.__setattr__(self, "_root", root)
        object.__setattr__(self, "_weights", torch.cholesky_solve(goal[:, None], root)[:, 0])

    @classmethod
    def fit(
        cls,
        points: Floats,
        target: Floats,
        others: Floats | None = None,
        *,
        spread: float,
        steps: int,
        rounds: int = 3,
        scales_from: int = 512,
    ) -> Process:
        """The posterior at the most probable scales and variances (evidence times their prior).

        In rounds, each measurement's noise is then set from how far off it is when left out, as expectation
        maximisation for Student's t with 2 degrees of freedom does, and the scales are found again.

        Args:
            spread: standard deviation of the logarithmic length scales under their prior.
            steps: of L-BFGS at most, halved in later rounds.
            rounds: of doubting measurements.
            scales_from: measurements, the first ones, that the scales are found from before all of them refine these.
        """
        others = np.zeros((len(points), 0)) if others is None else others
        centre = 0.5 * math.log(max(points.shape[1], 1)) + 0.3  # so that two random members correlate, whatever F
        few = slice(0, scales_from)
        start = np.full(points.shape[1], centre), np.array(_PRIOR)
        process = cls(points[few], others[few], target[few], *start, np.ones(len(target[few])))
        process = process._rescaled(centre, spread, steps)
        for _ in range(rounds):
            process = process._doubting()._doubting()._rescaled(centre, spread, steps // 2)
        if len(points) > scales_from:
            process = cls(points, others, target, process.scales, process.variances, np.ones(len(points)))
            for _ in range(2 * rounds):
                process = process._doubting()
            process = process._rescaled(centre, spread, steps // 2)._doubting()._doubting()
        return process

    def _rescaled(self, centre: float, spread: float, steps: int) -> Process:
        """The same with the most probable scales and variances."""
        return replace(self, **dict(zip(_LEARNED, self._most_probable(centre, spread, steps), strict=True)))

    def _most_probable(self, centre: float, spread: float, steps: int) -> tuple[Floats, Floats]:
        """Scales and variances, from those at hand."""
        import torch

        told: Any = self
        scales, variances = (value.clone().requires_grad_() for value in self._learned())
        prior = torch.tensor(_PRIOR, dtype=torch.float64)
        goal = torch.from_numpy((self.target - self._centre) / self._spread)
        doubt = torch.from_numpy(self.doubt)
        optimizer = torch.optim.LBFGS([scales, variances], max_iter=steps, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            covariance = _kernel(told._seen, told._seen, scales, variances)
            root, failed = torch.linalg.cholesky_ex(covariance + torch.diag(variances[1].exp() * doubt + _JITTER))
            if failed:  # a step too far: the line search turns back
                return torch.full((), 1e12, dtype=torch.float64)
            weights = torch.cholesky_solve(goal[:, None], root)[:, 0]
            unlikely = goal @ weights / 2 + root.diagonal().log().sum()
            unlikely = unlikely + ((scales - centre) ** 2).sum() / (2 * spread**2)
            unlikely = unlikely + ((variances - prior) ** 2).sum() / (2 * _PRIOR_WIDTH**2)
            unlikely.backward()  # type: ignore[no-untyped-call]
            return unlikely

        optimizer.step(loss)  # type: ignore[no-untyped-call]
        found = (scales.detach().numpy().copy(), variances.detach().numpy().copy())
        return found if all(np.isfinite(part).all() for part in found) else (self.scales, self.variances)

    def _doubting(self) -> Process:
        """The same with the noise of each measurement as its residual asks, their geometric mean kept."""
        off = (self.target - self.left_out()[0]) ** 2
        usual = float(np.median(off)) / _MEDIAN_OF_SQUARE or 1.0
        doubt = (_FREEDOM + off / usual) / (_FREEDOM + 1)
        doubt /= np.exp(np.log(doubt).mean())
        return replace(self, doubt=doubt)

    def predict(self, points: Floats, others: Floats | None = None) -> tuple[Floats, Floats]:
        """Mean and standard deviation of a measurement of other networks, both `(m,)`."""
        import torch

        told: Any = self
        others = np.zeros((len(points), 0)) if others is None else others
        means, stds = [np.zeros(0)], [np.zeros(0)]
        for start in range(0, len(points), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            new = (self._standard(points[part]), torch.from_numpy(self._beside(others[part])))
            near = _kernel(new, told._seen, *self._learned())
            known = torch.linalg.solve_triangular(told._root, near.T, upper=False)
            own = _own(*new, *self._learned()) - (known * known).sum(0)
            means.append(self._centre + self._spread * (near @ told._weights).numpy())
            stds.append(self._spread * (own.clamp(min=0) + math.exp(self.variances[1])).sqrt().numpy())
        return np.concatenate(means), np.concatenate(stds)

    def left_out(self) -> tuple[Floats, Floats]:
        """Mean and standard deviation of each target given all others (Rasmussen and Williams 2006, eq. 5.12)."""
        import torch

        told: Any = self
        precision = torch.cholesky_inverse(told._root).diagonal()
        mean = self.target - self._spread * (told._weights / precision).numpy()
        return mean, self._spread * precision.rsqrt().numpy()

    # ---- units -------------------------------------------------------------------------------------------

    @property
    def _centre(self) -> float:
        return float(self.target.mean())

    @property
    def _spread(self) -> float:
        return float(self.target.std()) or 1.0

    def _standard(self, points: Floats) -> Tensor:
        import torch

        mean, scale = self.points.mean(0), self.points.std(0)
        same = scale <= 1e-9  # the measured networks do not differ here, so nothing is known about it
        return torch.from_numpy(np.where(same, 0.0, (points - mean) / np.where(same, 1.0, scale)).clip(-_CLIP, _CLIP))

    def _beside(self, others: Floats) -> Floats:
        """Other devices about networks, centred; on one scale, so that what they agree on counts most."""
        if others.shape[1] == 0:
            return others
        return (others - self.others.mean(0)) / (float(np.sqrt(self.others.var(0).sum())) or 1.0)

    def _learned(self) -> tuple[Tensor, Tensor]:
        import torch

        return torch.from_numpy(self.scales), torch.from_numpy(self.variances)

    # ---- storing -----------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """As JSON stores it, but for the points and other devices, which the owner stores."""
        return {name: getattr(self, name).tolist() for name in _STORED}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], points: Floats, others: Floats) -> Process:
        """Inverse of `to_dict`."""
        parts = (np.asarray(data[name], dtype=np.float64) for name in _STORED)
        return cls(points, others, *parts)


def _kernel(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor], scales: Tensor, variances: Tensor) -> Tensor:
    """Covariances of networks (features, other devices) with others, `(n, m)`."""
    (x, v), (y, w) = left, right
    a, b = x / scales.exp(), y / scales.exp()
    products = a @ b.T
    distances = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * products
    smooth = variances[0].exp() * (-distances.clamp(min=0) / 2).exp()
    return smooth + variances[2].exp() * products + variances[3].exp() * (v @ w.T)


def _own(x: Tensor, v: Tensor, scales: Tensor, variances: Tensor) -> Tensor:
    """Variance of each network, `(n,)`."""
    a = x / scales.exp()
    return variances[0].exp() + variances[2].exp() * (a * a).sum(1) + variances[3].exp() * (v * v).sum(1)

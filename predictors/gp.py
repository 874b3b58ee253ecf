"""A Gaussian process on graph features, with a length scale for each of them.

Exact inference on few data, which is where searches live: the scales are found by the evidence, under a prior that
keeps features apart which few data cannot tell apart. The posterior's own variance is the ranking's uncertainty.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from search_spaces.errors import ConfigError

from .base import register_predictor
from .ranked import Ranking, RankPredictor, RankSettings
from .ranking import kendall_tau
from .reading import Members

_JITTER = 1e-6
_REACH = 7.0  # how far logarithms may move; a step of the optimiser may try absurd ones
_PRIOR, _PRIOR_WIDTH = (0.0, -3.0, -2.0), 2.0  # logarithms of the variances: of the kernel's parts and of the noise
_AT_ONCE = 4096


@dataclass(frozen=True)
class GPSettings(RankSettings):
    """Settings of `GPPredictor`.

    Attributes:
        scale_spreads: standard deviations, to choose from on held-out folds, of the logarithmic length scales under
            their prior; under a small one all features count alike, which is what noisy scores allow.
        steps: of L-BFGS, for the scales.
        scales_from: scored members, at most, from which the scales are found.
        most: scored members, at most, that the posterior rests on; a random choice of more.
    """

    scale_spreads: tuple[float, ...] = (0.1, 1.0)
    steps: int = 40
    scales_from: int = 400
    most: int = 4000

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need_positive("steps", "scales_from", "most")
        object.__setattr__(self, "scale_spreads", tuple(self.scale_spreads))
        if not self.scale_spreads or min(self.scale_spreads) <= 0:
            raise ConfigError(f"predictor 'gp' needs scale_spreads above 0, at least one; got {self.scale_spreads}")


@dataclass(frozen=True)
class Kernel:
    """Matern 5/2 with automatic relevance determination, beside a linear kernel (Rasmussen and Williams 2006, ch. 4).

    `k(x, x') = a (1 + sqrt(5) r + 5/3 r^2) exp(-sqrt(5) r) + b x.x' / F` with `r^2 = sum_f (x_f - x'_f)^2 / l_f^2`, and
    the noise variance s on the diagonal. The linear part is what much noise leaves to be learned.

    Attributes:
        scales: logarithms of l, `(F,)`.
        variances: logarithms of a, s and b, `(3,)`.
    """

    scales: Tensor
    variances: Tensor

    def __call__(self, left: Tensor, right: Tensor) -> Tensor:
        """`(L, F)` and `(R, F)` to `(L, R)`, without the noise."""
        return self.between(self.ready(left), self.ready(right))

    def ready(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `between` needs of points `(B, F)`: scaled, the squares of that, and as they are."""
        scaled = points / self.scales.exp()
        return scaled, (scaled * scaled).sum(1), points

    def between(self, left: tuple[Tensor, Tensor, Tensor], right: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """The covariance of points that are `ready`."""
        (a, aa, plain), (b, bb, other) = left, right
        squares = 5 * (aa[:, None] + bb - 2 * a @ b.T).clamp(min=_JITTER)
        root = squares.sqrt()
        near = self.variances[0].exp() * (1 + root + squares / 3) * torch.exp(-root)
        return near + self.variances[2].exp() / plain.shape[1] * plain @ other.T

    def prior_variance(self, points: Tensor) -> Tensor:
        """`k(x, x)` of each point, `(B,)`."""
        return self.variances[0].exp() + self.variances[2].exp() * points.square().mean(1)

    def noisy(self, points: Tensor) -> Tensor:
        """Covariance of the observations; a little more noise, relative to all, keeps it positive definite."""
        noise = self.variances[1].exp() + _JITTER * self.prior_variance(points).mean()
        return self(points, points) + noise * torch.eye(len(points), dtype=points.dtype)

    @classmethod
    def fit(cls, points: Tensor, target: Tensor, *, spread: float, steps: int) -> Kernel:
        """The most probable scales and variances given observations (their evidence times the prior)."""
        centre = 0.5 * math.log(points.shape[1]) + 0.3  # so that two random members correlate, whatever F
        scales = torch.full((points.shape[1],), centre, dtype=points.dtype, requires_grad=True)
        prior = torch.tensor(_PRIOR, dtype=points.dtype)
        variances = prior.clone().requires_grad_()
        optimizer = torch.optim.LBFGS([scales, variances], max_iter=steps, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            kernel = cls(scales.clamp(centre - _REACH, centre + _REACH), variances.clamp(-_REACH, _REACH))
            root = torch.linalg.cholesky(kernel.noisy(points))
            weights = torch.cholesky_solve(target[:, None], root)[:, 0]
            unlikely = target @ weights / 2 + root.diagonal().log().sum()
            unlikely = unlikely + ((scales - centre) ** 2).sum() / (2 * spread**2)
            unlikely = unlikely + ((variances - prior) ** 2).sum() / (2 * _PRIOR_WIDTH**2)
            unlikely.backward()
            return unlikely

        optimizer.step(loss)
        found = scales.detach().clamp(centre - _REACH, centre + _REACH)
        return cls(found, variances.detach().clamp(-_REACH, _REACH))


@dataclass(frozen=True)
class Posterior:
    """A Gaussian process given observations.

    Attributes:
        kernel: of the process.
        points: that were observed, `(n, F)`.
        weights: of the observations in the mean, `(n,)`.
        root: Cholesky factor of their covariance, `(n, n)`.
    """

    kernel: Kernel
    points: Tensor
    weights: Tensor
    root: Tensor

    @classmethod
    def given(cls, kernel: Kernel, points: Tensor, target: Tensor) -> Posterior:
        """The process after `target` `(n,)` was seen at `points` `(n, F)`."""
        root = torch.linalg.cholesky(kernel.noisy(points))
        return cls(kernel, points, torch.cholesky_solve(target[:, None], root)[:, 0], root)

    def mean(self, points: Tensor) -> Tensor:
        """Expected values `(B,)` at points `(B, F)`."""
        return self.kernel(points, self.points) @ self.weights

    def __call__(self, points: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Expected values and their standard deviations without the noise, each `(B,)`, at points `(B, F)`."""
        centres, variances = [], []
        for start in range(0, len(points), _AT_ONCE):
            part = points[start : start + _AT_ONCE]
            near = self.kernel(part, self.points)
            centres.append(near @ self.weights)
            told = torch.linalg.solve_triangular(self.root, near.T, upper=False)
            variances.append(self.kernel.prior_variance(part) - (told * told).sum(0))
        return torch.cat(centres).numpy(), torch.cat(variances).clamp(min=0).sqrt().numpy()


class Watch:
    """What a process says of many points as observations come in, each of which costs one more pass over the points.

    Kept are rows of `L^-1 k(observed, points)` in single precision, L being the Cholesky factor of the covariance of
    what was observed; one more observation is one more row (Rasmussen and Williams 2006, algorithm 2.1).

    Args:
        kernel: of the process, which stays.
        points: `(B, F)`.
    """

    def __init__(self, kernel: Kernel, points: Tensor) -> None:
        self.kernel, self._single = kernel, Kernel(kernel.scales.float(), kernel.variances.float())
        self._points = self._single.ready(points.float())
        self._prior = self._single.prior_variance(self._points[2])
        self._seen, self._root = points[:0], points.new_zeros(0, 0)
        self._rows, self._told = self._prior.new_zeros(0, len(points)), torch.zeros_like(self._prior)

    def __call__(self, seen: Tensor, target: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Expected values and standard deviations of the points, each `(B,)`, given `target` `(n,)` at `seen` `(n, F)`.

        The part of `seen` that begins as in the last call is not looked at again.
        """
        shared = min(len(seen), len(self._seen))
        differ = (seen[:shared] != self._seen[:shared]).any(1).nonzero()
        shared = int(differ[0]) if len(differ) else shared
        if shared < len(self._seen):
            self._told -= self._rows[shared:].square().sum(0)
            self._seen, self._root, self._rows = seen[:shared], self._root[:shared, :shared], self._rows[:shared]
        if shared < len(seen):
            self._hear(seen[shared:])
        weights = torch.linalg.solve_triangular(self._root, target[:, None], upper=False)[:, 0]
        variance = (self._prior - self._told).clamp(min=0)
        return (weights.float() @ self._rows).double().numpy(), variance.sqrt().double().numpy()

    def _hear(self, new: Tensor) -> None:
        """Append observations: the next rows of the Cholesky factor, and with it of what is kept."""
        beside = torch.linalg.solve_triangular(self._root, self.kernel(self._seen, new), upper=False)
        noise = (self.kernel.variances[1].exp() + _JITTER) * torch.eye(len(new), dtype=new.dtype)
        corner = torch.linalg.cholesky(self.kernel(new, new) + noise - beside.T @ beside)
        near = self._single.between(self._single.ready(new.float()), self._points) - beside.T.float() @ self._rows
        rows = torch.linalg.solve_triangular(corner.float(), near, upper=False)
        old = torch.nn.functional.pad(self._root, (0, len(new)))
        self._root = torch.cat([old, torch.cat([beside.T, corner], 1)])
        self._seen, self._rows = torch.cat([self._seen, new]), torch.cat([self._rows, rows])
        self._told += rows.square().sum(0)


@register_predictor("gp")
class GPPredictor(RankPredictor):
    """Gaussian process regression of transformed scores on graph features and further inputs."""

    Settings = GPSettings
    settings: GPSettings
    _posterior: Posterior

    def learn(self, seen: Members, target: np.ndarray, folds: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(self.settings.seed)
        points, goal = torch.from_numpy(seen.features), torch.from_numpy(target)
        order = rng.permutation(len(seen))
        trials = [self._held_out(points, goal, folds, order, spread) for spread in self.settings.scale_spreads]
        best = int(np.argmax([kendall_tau(target, unseen) for unseen in trials]))
        kernel = self._fit_kernel(points[order], goal[order], self.settings.scale_spreads[best])
        kept = order[: self.settings.most]
        self._posterior = Posterior.given(kernel, points[kept], goal[kept])
        return trials[best]

    def _held_out(
        self, points: Tensor, goal: Tensor, folds: np.ndarray, order: np.ndarray, spread: float
    ) -> np.ndarray:
        """Posterior means of each fold, `(n,)`, given the others, which its kernel is fitted to as well."""
        unseen = np.empty(len(points))
        for fold in np.unique(folds):
            out = folds == fold
            rest = order[folds[order] != fold] if fold >= 0 else order
            kernel = self._fit_kernel(points[rest], goal[rest], spread)
            rest = rest[: self.settings.most]
            unseen[out] = Posterior.given(kernel, points[rest], goal[rest]).mean(points[out])
        return unseen

    def _fit_kernel(self, points: Tensor, goal: Tensor, spread: float) -> Kernel:
        few = self.settings.scales_from
        return Kernel.fit(points[:few], goal[:few], spread=spread, steps=self.settings.steps)

    def rank(self, members: Members) -> Ranking:
        return self._posterior(torch.from_numpy(members.features))

    def learned(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        tensors = {
            "points": self._posterior.points,
            "weights": self._posterior.weights,
            "scales": self._posterior.kernel.scales,
            "variances": self._posterior.kernel.variances,
        }
        return {k: v.numpy() for k, v in tensors.items()}, {}

    def recall(self, tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        scales, variances, points, weights = (
            torch.from_numpy(tensors[k].copy()) for k in ("scales", "variances", "points", "weights")
        )
        kernel = Kernel(scales, variances)
        self._posterior = Posterior(kernel, points, weights, torch.linalg.cholesky(kernel.noisy(points)))

"""CHIP (Sui et al. 2021, arXiv 2110.13981): keep the feature maps that the other maps of a layer cannot stand in for.

How independent a map is, is the nuclear norm that the matrix of maps loses with it. The loss of all maps follows from
one eigendecomposition of the Gram matrix by an integral, so no decomposition a map is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from search_spaces.errors import ConfigError, did_you_mean

from .base import Criterion, Scores, register_criterion
from .maps import maps, read_sites, sum_over

if TYPE_CHECKING:
    from search_spaces.coupling import Gated

NORMALISATIONS = ("mean", "none")
_ROUNDING = 1e-12
_STEP, _REACH = 0.25, 30.0  # of the trapezoid rule in log s: errors of exp(-pi^2 / step) and exp(-reach)


@register_criterion("chip")
class Chip(Criterion):
    """Channel independence of the maps that are read, averaged over images and summed over the places; no labels.

    A place whose maps are one number an image (a linear layer) takes the batch as the map.

    Args:
        images: look at the first so many only; the published scores take 640, and 128 already rank nearly the same.
        normalise: "mean" divides by the mean of the unit's group, as maps of layers differ in size; "none" leaves
            scores as published, to be compared within a group only.

    Raises:
        ConfigError: settings that are not known.
    """

    needs = frozenset({"activations"})

    def __init__(self, images: int = 128, normalise: str = "mean") -> None:
        if images < 1:
            raise ConfigError(f"chip needs 1 image or more, not {images}: 128 give stable scores")
        if normalise not in NORMALISATIONS:
            raise ConfigError(f"unknown normalisation {normalise!r}: {did_you_mean(normalise, NORMALISATIONS)}")
        self.images, self.normalise = images, normalise
        self.comparable = normalise == "mean"

    def begin(self, gated: Gated) -> None:
        super().begin(gated)
        self._sites = read_sites(gated.coupling)
        self._total = np.zeros(gated.coupling.count)
        self._seen = 0

    @torch.no_grad()
    def observe(self, inputs: Tensor, targets: Tensor) -> None:
        inputs = inputs[: self.images - self._seen]
        if not len(inputs):
            return
        _, values = self.gated.values(inputs, {site.node for site in self._sites})
        found = []
        for site in self._sites:
            rows, units = maps(values[site.node], site)
            found.append((units, _independence_of_images(rows).cpu().numpy()))
        self._total += len(inputs) * sum_over(found, self.gated.coupling.count)
        self._seen += len(inputs)

    def finish(self) -> Scores:
        scores = self._total / self._seen
        if self.normalise == "mean":
            for group in self.gated.coupling.groups:
                mean = scores[group.units].mean()
                scores[group.units] /= mean if mean > 0 else 1.0
        return Scores(units=scores)


def _independence_of_images(rows: Tensor) -> Tensor:
    """(rows,) mean independence over images `(B, rows, features)`."""
    if rows.shape[2] == 1:
        return independence(rows[:, :, 0].T) / len(rows) ** 0.5
    return torch.stack([independence(image) for image in rows]).mean(0)


def nuclear_norm(matrix: Tensor) -> Tensor:
    """Sum of the singular values of `(..., c, n)`, from the eigenvalues of its smaller Gram matrix, in float64."""
    matrix = matrix.double()
    if not matrix.numel():
        return matrix.new_zeros(matrix.shape[:-2])
    gram = matrix @ matrix.mT if matrix.shape[-2] <= matrix.shape[-1] else matrix.mT @ matrix
    return _positive(torch.linalg.eigvalsh(gram)).sqrt().sum(-1)


def independence_by_removal(matrix: Tensor) -> Tensor:
    """(c,) `||A||_* - ||A without row i||_*` of `(c, n)` by its definition: a decomposition for each row."""
    whole = nuclear_norm(matrix)
    rest = [nuclear_norm(torch.cat([matrix[:i], matrix[i + 1 :]])) for i in range(len(matrix))]
    return whole - torch.stack(rest)


def independence(matrix: Tensor) -> Tensor:
    """(c,) `||A||_* - ||A without row i||_*` of `(c, n)`, in float64.

    With eigenvalues l and eigenvectors q of the Gram matrix G, `x_i(s) = s^2 ((G + s^2)^-1)_ii` is the ratio of the
    characteristic polynomials without and with row i, so by `pi sqrt(l) = integral of log(1 + l / s^2) ds` over s > 0
    the difference is `-1/pi` times the integral of `log x_i(s)`; in log s the trapezoid rule is exact to rounding.
    """
    matrix = matrix.double()
    energy = matrix.square().sum(1)
    scale = energy.sum().sqrt()
    if scale == 0:
        return torch.zeros_like(energy)
    values, shares = _spectrum(matrix / scale)
    u = torch.arange(-_REACH, _REACH, _STEP, dtype=torch.float64, device=matrix.device)
    squares = (2 * u).exp()
    low, high = squares[u < 0], squares[u >= 0]
    outside = 1 - shares.sum(1, keepdim=True)
    outside = torch.where(outside > _ROUNDING, outside, 0)  # 0 where a map is needed for all that the others span
    near = (outside + shares @ (low / (values[:, None] + low))).clamp(max=1).log()
    far = torch.log1p(-shares @ (values[:, None] / (values[:, None] + high)))
    return -scale * _STEP / torch.pi * (torch.cat([near, far], 1) @ u.exp())


def _spectrum(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues above zero `(k,)` of `A A^T`, and the squares of their eigenvectors' entries `(c, k)`."""
    wide = matrix.shape[0] <= matrix.shape[1]
    values, vectors = torch.linalg.eigh(matrix @ matrix.mT if wide else matrix.mT @ matrix)
    held = _positive(values) > 0
    values, vectors = values[held], vectors[:, held]
    return values, vectors.square() if wide else (matrix @ vectors).square() / values


def _positive(eigenvalues: Tensor) -> Tensor:
    """Eigenvalues of a Gram matrix; those that are zero but for rounding are zero."""
    least = eigenvalues.shape[-1] * torch.finfo(eigenvalues.dtype).eps * eigenvalues.amax(-1, keepdim=True)
    return torch.where(eigenvalues > least, eigenvalues, 0)

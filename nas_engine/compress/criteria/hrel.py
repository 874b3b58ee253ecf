"""HRel (Sarvani et al. 2022, arXiv 2202.10716): keep the filters whose maps tell most about the label.

The mutual information of a map and the labels is taken from kernel matrices over the images of a batch, by matrix-based
Renyi entropy; no density is estimated. The width of a layer's kernel is the one that agrees best with the labels.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from search_spaces.errors import ConfigError, DataError, did_you_mean

from .base import Criterion, Scores, register_criterion
from .maps import made_sites, maps, read_sites, sum_over

if TYPE_CHECKING:
    from search_spaces.coupling import Gated

SITES = ("conv_out", "after_act")
_NARROWEST, _WIDEST = 0.3, 10.0  # the grid of kernel widths: from a number to a multiple of the mean distance
_FINE, _COARSE, _FINE_BATCHES = 300, 100, 20  # widths tried in the first batches and in later ones
_MEMORY = 0.9  # of the running average of widths
_AT_ONCE = 256  # kernel matrices in memory


@register_criterion("hrel")
class HRel(Criterion):
    """Mutual information, in bits, of a unit's maps and the labels, averaged over batches and summed over places.

    The kernel width of a place is a running average over the batches; each batch is judged by the width of its moment.

    Args:
        site: "conv_out", the raw output of the layer that makes the unit, as published, or "after_act", the values
            that are read, where a unit whose activation never fires tells nothing.
        alpha: order of the Renyi entropy; 1 is its von Neumann limit, as published, 2 needs no eigenvalues.
        images: larger batches are split in parts of about so many, as costs grow with the cube.

    Raises:
        ConfigError: settings that are not known.
    """

    needs = frozenset({"activations", "labels"})
    comparable = False

    def __init__(self, site: str = "conv_out", alpha: float = 1.0, images: int = 100) -> None:
        if site not in SITES:
            raise ConfigError(f"unknown site {site!r}: {did_you_mean(site, SITES)}")
        if not 0 < alpha < math.inf:
            raise ConfigError(f"the order alpha of an entropy is above 0; got {alpha}")
        if images < 2:
            raise ConfigError(f"hrel compares images, so it needs 2 or more at once, not {images}: 100 are usual")
        self.site, self.alpha, self.images = site, alpha, images

    def begin(self, gated: Gated) -> None:
        super().begin(gated)
        find = made_sites if self.site == "conv_out" else read_sites
        self._sites = find(gated.coupling)
        self.widths: dict[str, float] = {}
        self._total = np.zeros(gated.coupling.count)
        self._batches = 0

    @torch.no_grad()
    def observe(self, inputs: Tensor, targets: Tensor) -> None:
        """Take in a batch; one of a single image, as a last batch may be, tells nothing and is passed over.

        Raises:
            DataError: labels that are not one class for each image, or all the same.
        """
        if targets.dim() != 1:
            raise DataError(f"hrel needs one class for each image; targets have the shape {tuple(targets.shape)}")
        parts = max(1, round(len(inputs) / self.images))
        pairs = zip(inputs.tensor_split(parts), targets.tensor_split(parts), strict=True)
        for some, classes in pairs:
            if len(some) > 1:
                self._total += self._relevances(some, classes)
                self._batches += 1

    def finish(self) -> Scores:
        if not self._batches:
            raise DataError("hrel compares the images of a batch, and all batches have one image: use batches of 100")
        return Scores(units=self._total / self._batches)

    def _relevances(self, inputs: Tensor, targets: Tensor) -> np.ndarray:
        """(units,) of one batch."""
        same = same_class(targets)
        _, values = self.gated.values(inputs, {site.node for site in self._sites})
        found = []
        for site in self._sites:
            rows, units = maps(values[site.node], site)
            parts = rows.transpose(0, 1).split(_AT_ONCE)
            distances = torch.cat([squared_distances(part.double()) for part in parts])
            width = self._widen(site.node, distances.sum(0), same)  # maps lie side by side in the layer's value
            kernels = (gaussian(part, width) for part in distances.split(_AT_ONCE))
            found.append((units, torch.cat([relevance(k, targets, self.alpha) for k in kernels]).cpu().numpy()))
        return sum_over(found, self.gated.coupling.count)

    def _widen(self, node: str, distances: Tensor, same: Tensor) -> float:
        """The width of a place, moved towards what suits this batch."""
        best = best_width(distances, same, _FINE if self._batches < _FINE_BATCHES else _COARSE)
        before = self.widths.get(node, best)
        self.widths[node] = _MEMORY * before + (1 - _MEMORY) * best
        return self.widths[node]


def same_class(targets: Tensor) -> Tensor:
    """(B, B) kernel of labels: 1 within a class, 0 between (a Gaussian of width 0.1 on one-hot labels is e^-200 there).

    Raises:
        DataError: all of one class.
    """
    if bool((targets == targets[0]).all()):
        raise DataError(
            f"all {len(targets)} images of a batch are of class {int(targets[0])}, so no map can tell classes apart: "
            "shuffle the images, or take larger batches"
        )
    return (targets[:, None] == targets).double()


def squared_distances(points: Tensor) -> Tensor:
    """(..., B, B) of points `(..., B, features)`; they are centred first, so that a large mean costs no digits."""
    points = points - points.mean(-2, keepdim=True)
    squares = points.square().sum(-1)
    found = squares[..., :, None] + squares[..., None, :] - 2 * points @ points.mT
    found.diagonal(dim1=-2, dim2=-1).zero_()
    return found.clamp_(min=0)


def gaussian(distances: Tensor, width: float) -> Tensor:
    """`exp(-d^2 / width^2)` of squared distances."""
    return torch.exp(-distances / width**2)


def best_width(distances: Tensor, same: Tensor, points: int = _FINE) -> float:
    """The width whose kernel is best aligned with the labels: `tr(K L) / (|K| |L|)` is the largest.

    Args:
        distances: (B, B) squared distances.
        same: (B, B) kernel of the labels.
        points: widths tried, evenly spaced from 0.3 to ten mean distances.
    """
    mean = float(distances.sqrt().sum()) / (len(distances) * (len(distances) - 1))
    widths = torch.linspace(_NARROWEST, max(_WIDEST * mean, _NARROWEST), points, dtype=torch.float64)
    alignments = [float((k * same).sum() / k.norm()) for k in (gaussian(distances, w) for w in widths.tolist())]
    return float(widths[int(np.argmax(alignments))])


def relevance(kernels: Tensor, targets: Tensor, alpha: float = 1.0) -> Tensor:
    """(...,) mutual information `S(K) + S(L) - S(K o L)`, in bits, of kernels `(..., B, B)` and classes `(B,)`.

    L is `same_class`, so `K o L` falls apart into a block for each class.
    """
    blocks = [torch.nonzero(targets == c)[:, 0] for c in targets.unique()]
    apart = [kernels.index_select(-2, rows).index_select(-1, rows) for rows in blocks]
    labels = kernels.new_tensor([len(rows) for rows in blocks])
    joint = _of_eigenvalues(torch.cat([torch.linalg.eigvalsh(part) for part in apart], -1), alpha)
    return (entropy(kernels, alpha) + _of_eigenvalues(labels, alpha) - joint).clamp(min=0)


def entropy(kernels: Tensor, alpha: float = 1.0) -> Tensor:
    """(...,) matrix-based Renyi entropy in bits of kernels `(..., B, B)`.

    It is `log2(sum of l^alpha) / (1 - alpha)`, l the eigenvalues of `K / tr K`, or `-sum of l log2 l` at alpha = 1.
    """
    if alpha == 2:
        traces = kernels.diagonal(dim1=-2, dim2=-1).sum(-1)
        return 2 * traces.log2() - kernels.square().sum((-2, -1)).log2()
    return _of_eigenvalues(torch.linalg.eigvalsh(kernels), alpha)


def _of_eigenvalues(values: Tensor, alpha: float) -> Tensor:
    values = values.clamp(min=0)
    values = values / values.sum(-1, keepdim=True)
    if alpha == 1:
        return -torch.special.xlogy(values, values).sum(-1) / math.log(2)
    return (values**alpha).sum(-1).log2() / (1 - alpha)

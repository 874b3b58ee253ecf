"""LayerPrune (Elkerdawy et al. 2020, arXiv 2007.05667): which whole blocks can go.

A block is worth the mean of any criterion over its filters, or what it adds to the accuracy of a classifier that is
imprinted: the mean map of each class serves as its weights, and nothing is trained.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from search_spaces.errors import ConfigError, DataError, did_you_mean

from .base import Criterion, Scores, criteria, register_criterion

if TYPE_CHECKING:
    from search_spaces.coupling import Coupling, Gated

IMPRINT = "imprint"
_FEATURES = 512  # of an embedding, about
_HELD = 4  # each so manieth image judges, the others imprint


@register_criterion("layerprune")
class LayerPrune(Criterion):
    """Scores for removable blocks, none for units.

    Args:
        criterion: the name of a criterion of units, whose mean over the units that live inside a block is its score, or
            "imprint": the rise in accuracy of imprinted classifiers from before the block to behind it. Each fourth
            calibration image judges, the others imprint.
        settings: of that criterion. One that can normalise its scores by group does not, unless asked here: all blocks
            would be alike.

    Raises:
        ConfigError: no such criterion, or one that is made of blocks itself; settings where there are none to make.
    """

    needs = frozenset({"activations", "labels"})

    def __init__(self, criterion: str = IMPRINT, settings: Mapping[str, Any] | None = None) -> None:
        if criterion == IMPRINT:
            if settings:
                raise ConfigError(f"criterion 'imprint' has no settings; got {', '.join(settings)}")
            self._judge: _Imprint | _Means = _Imprint()
            return
        if criterion not in criteria or criterion == self.name:
            allowed = [IMPRINT, *(name for name in criteria if name != self.name)]
            raise ConfigError(f"layerprune knows no criterion {criterion!r}: {did_you_mean(criterion, allowed)}")
        inner = _make(criteria[criterion], dict(settings or {}))
        self._judge, self.needs = _Means(inner), inner.needs

    def begin(self, gated: Gated) -> None:
        super().begin(gated)
        if not gated.coupling.blocks:
            raise ConfigError(
                "layerprune scores residual blocks that can be left out, and this network has none: "
                "cut its units by another criterion, such as 'taylor'"
            )
        self._judge.begin(gated)

    def observe(self, inputs: Tensor, targets: Tensor) -> None:
        self._judge.observe(inputs, targets)

    def finish(self) -> Scores:
        return Scores(blocks=self._judge.finish())


def _make(kind: type[Criterion], settings: dict[str, Any]) -> Criterion:
    taken = inspect.signature(kind).parameters
    for name in settings:
        if name not in taken:
            raise ConfigError(f"criterion {kind.name!r} has no setting {name!r}: {did_you_mean(name, taken)}")
    if "normalise" in taken:
        settings = {"normalise": "none", **settings}
    return kind(**settings)


class _Means:
    """The mean of a criterion over the units inside each block."""

    def __init__(self, inner: Criterion) -> None:
        self._inner = inner

    def begin(self, gated: Gated) -> None:
        self._inside = inner_units(gated.coupling)
        empty = [b.name for b, units in zip(gated.coupling.blocks, self._inside, strict=True) if not len(units)]
        if empty:
            raise ConfigError(
                f"block {empty[0]} has no units inside whose scores {self._inner.name!r} could give: "
                "use criterion 'imprint', which judges what blocks put out"
            )
        self._inner.begin(gated)

    def observe(self, inputs: Tensor, targets: Tensor) -> None:
        self._inner.observe(inputs, targets)

    def finish(self) -> np.ndarray:
        units = self._inner.finish().units
        if units is None:
            raise ConfigError(f"criterion {self._inner.name!r} scores no units, so blocks have no mean of it")
        return np.array([units[inside].mean() for inside in self._inside])


def inner_units(coupling: Coupling) -> list[np.ndarray]:
    """Of each block, the units that go with it: all that makes them lies inside."""
    return [
        np.concatenate([np.zeros(0, dtype=np.int64), *(g.units for g in coupling.groups if {*g.makers} <= {*b.nodes})])
        for b in coupling.blocks
    ]


class _Imprint:
    """How much more classifiers imprinted behind a block know than those before it."""

    def begin(self, gated: Gated) -> None:
        self._gated = gated
        self._around = [_around(gated.coupling, i) for i in range(len(gated.coupling.blocks))]
        self._nodes = list(dict.fromkeys(name for pair in self._around for name in pair))
        self._sums: dict[str, Tensor] = {}
        self._counts = np.zeros(0, dtype=np.int64)
        self._held: dict[str, list[Tensor]] = {name: [] for name in self._nodes}
        self._classes: list[np.ndarray] = []
        self._seen = 0

    @torch.no_grad()
    def observe(self, inputs: Tensor, targets: Tensor) -> None:
        if targets.dim() != 1:
            raise DataError(f"imprinting needs one class for each image; targets have the shape {tuple(targets.shape)}")
        _, values = self._gated.values(inputs, self._nodes)
        judges = (torch.arange(len(inputs)) + self._seen) % _HELD == _HELD - 1
        self._seen += len(inputs)
        classes = targets.cpu()
        self._classes.append(classes[judges].numpy())
        counts = torch.bincount(classes[~judges], minlength=len(self._counts)).numpy()
        counts[: len(self._counts)] += self._counts
        self._counts = counts
        for name in self._nodes:
            embedded = embedding(values[name], self._gated.coupling.graph[name].shape).double().cpu()
            self._held[name].append(embedded[judges].float())
            sums = torch.zeros(len(counts), embedded.shape[1], dtype=torch.float64)
            if name in self._sums:
                sums[: len(self._sums[name])] = self._sums[name]
            self._sums[name] = sums.index_add_(0, classes[~judges], embedded[~judges])

    def finish(self) -> np.ndarray:
        if self._seen < _HELD:
            raise DataError(f"imprinting needs {_HELD} images or more, of which one judges; got {self._seen}")
        accuracy = {name: self._accuracy(name) for name in self._nodes}
        return np.array([accuracy[after] - accuracy[before] for before, after in self._around])

    def _accuracy(self, name: str) -> float:
        """Of the classifier imprinted at a node, on the images held out; a class not seen is never answered."""
        weights = functional.normalize(self._sums[name], dim=1)
        logits = torch.cat(self._held[name]).double() @ weights.T
        logits[:, torch.from_numpy(self._counts == 0)] = -torch.inf
        return float((logits.argmax(1).numpy() == np.concatenate(self._classes)).mean())


def _around(coupling: Coupling, index: int) -> tuple[str, str]:
    """The nodes before a block and behind it, behind the activation that follows its sum where one does."""
    block, graph = coupling.blocks[index], coupling.graph
    readers = [n for n in graph.nodes if block.sum in n.inputs]
    activated = len(readers) == 1 and readers[0].operator == "activation"
    return graph[block.sum].inputs[1 - block.branch], readers[0].name if activated else block.sum


def embedding(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A value `(B, *shape)` pooled to about 512 features `(B, features)`.

    Maps `(C, H, W)` are averaged to `d x d` with `d = round(sqrt(512 / C))`, tokens `(T, C)` to `round(512 / C)`.
    """
    if len(shape) == 3:
        side = max(1, round((_FEATURES / shape[0]) ** 0.5))
        return functional.adaptive_avg_pool2d(value, (min(side, shape[1]), min(side, shape[2]))).flatten(1)
    if len(shape) == 2:
        tokens = min(max(1, round(_FEATURES / shape[1])), shape[0])
        return functional.adaptive_avg_pool1d(value.transpose(1, 2), tokens).flatten(1)
    return value.flatten(1)

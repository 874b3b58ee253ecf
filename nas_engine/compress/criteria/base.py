"""The contract of pruning criteria, their registry, and the one loop that feeds them.

A criterion is told what it `needs`, sees calibration batches one by one and gives a score to each unit, higher for what
should stay. It never changes weights. What to cut by the scores is the business of allocators, when that of schedules.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from search_spaces.errors import ConfigError
from search_spaces.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from search_spaces.coupling import Gated

NEEDS = ("weights", "activations", "gradients", "labels", "ablation")


@dataclass(frozen=True, eq=False)
class Scores:
    """What a criterion says; higher is more important. What it does not judge is None or left out.

    Attributes:
        units: (units,) score of each unit of the coupling.
        examples: (examples, units) scores of single examples, where the criterion has them.
        kernels: scores of single kernels `(out, in)` by the name of the convolution.
        blocks: scores of removable blocks, in the order of `coupling.blocks`.
    """

    units: np.ndarray | None = None
    examples: np.ndarray | None = None
    kernels: dict[str, np.ndarray] = field(default_factory=dict)
    blocks: np.ndarray | None = None


class Criterion(ABC):
    """One way to score what can be cut.

    `begin` is called once with the network behind its gates (in evaluation mode), `observe` once a calibration batch,
    `finish` once. Random numbers come from the seed that the constructor takes, where one is needed.

    Attributes, of the class or set by its constructor where they depend on settings:
        name: registered name, of the class.
        needs: which of `NEEDS` it uses; one that needs none of activations, gradients, labels, ablation is given no
            batches.
        comparable: whether scores of different groups are on one scale; others are ranked within a group only.
        additive: whether scores are losses to be expected, which add up and can be weighed against what is saved.
    """

    name: ClassVar[str] = ""
    needs: frozenset[str] = frozenset({"weights"})
    comparable: bool = True
    additive: ClassVar[bool] = False

    def begin(self, gated: Gated) -> None:
        """Keep what later calls need; `gated.network`, `gated.coupling`."""
        self.gated = gated

    def observe(self, inputs: Tensor, targets: Tensor) -> None:  # noqa: B027 - criteria of weights see no batches
        """Take in a batch: `(B, C, H, W)` normalised images and `(B,)` classes."""

    @abstractmethod
    def finish(self) -> Scores:
        """The scores of everything seen."""

    @property
    def uses_data(self) -> bool:
        return bool(self.needs - {"weights"})


criteria: Registry[type[Criterion]] = Registry("criterion", ConfigError)
register_criterion = criteria.named
"""Class decorator: files a `Criterion` under `name`."""


def score(criterion: Criterion, gated: Gated, batches: Iterable[tuple[Tensor, Tensor]] = ()) -> Scores:
    """Run a criterion over calibration batches; the network is in evaluation mode meanwhile, and unchanged after.

    Args:
        batches: inputs and classes; None in the place of classes where nobody knows them.

    Raises:
        ConfigError: it needs data or labels and there are none.
    """
    training = gated.network.training
    gated.network.eval()
    try:
        criterion.begin(gated)
        seen = 0
        if criterion.uses_data:
            for inputs, targets in batches:
                if targets is None and "labels" in criterion.needs:
                    raise ConfigError(_without_labels(criterion.name))
                criterion.observe(inputs, targets)
                seen += 1
            if not seen:
                raise ConfigError(f"criterion {criterion.name!r} needs calibration batches and got none; give data")
        return criterion.finish()
    finally:
        gated.network.train(training)


def _without_labels(name: str) -> str:
    others = ", ".join(n for n, cls in criteria.items() if "labels" not in cls.needs)
    return f"criterion {name!r} needs labels, and the images have none; give labels, or take one of: {others}"

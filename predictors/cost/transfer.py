"""What other devices say about the networks of a space, for a device of which little is measured.

Devices differ less than networks do: the logarithmic costs of many devices lie close to a few patterns. These are found
once from the other devices' tables, and learned as functions of a network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import DataError

from .blocks import BlockCounts
from .process import Process

if TYPE_CHECKING:
    from search_spaces.space import Architecture, SearchSpace

Floats = NDArray[np.float64]


class OtherDevices:
    """Patterns of the costs of other devices, each a Gaussian process over block counts.

    Args:
        names: of the devices.
        counts: how networks are counted.
        patterns: one process a pattern, all over the same networks.
    """

    def __init__(self, names: Sequence[str], counts: BlockCounts, patterns: Sequence[Process]) -> None:
        self.names, self.counts, self.patterns = tuple(names), counts, tuple(patterns)

    @classmethod
    def learn(
        cls,
        space: SearchSpace,
        architectures: Sequence[Architecture],
        tables: Mapping[str, Sequence[float] | NDArray[Any]],
        *,
        counter: BlockCounts | None = None,
        counts: Floats | None = None,
        rank: int = 6,
        most: int = 600,
        spread: float = 2.0,
        steps: int = 40,
        offset: float = 1.0,
        seed: int = 0,
    ) -> OtherDevices:
        """Find the patterns.

        Args:
            architectures: networks that were measured on every one of the devices.
            tables: costs of these networks by device, each `(n,)`, above 0; units may differ.
            counter: how the networks of the space are counted, where that is known already.
            counts: `counter.of` the graphs of the architectures, where they are known already.
            rank: patterns at most.
            most: networks at most that they are learned from; a random choice of more.
            spread, steps, offset: as in `RegressionSettings`.

        Raises:
            DataError: no device, or costs that are none.
        """
        if not tables:
            raise DataError("no other device's measurements; give at least one table of costs")
        costs = np.stack([np.asarray(v, dtype=np.float64) for v in tables.values()], axis=1)
        if len(costs) != len(architectures) or not (np.isfinite(costs).all() and (costs > 0).all()):
            raise DataError("other devices' costs must be above 0, one for each of the architectures")
        chosen = np.random.default_rng(seed).permutation(len(costs))[:most]
        counter = counter or BlockCounts(space)
        points = counter.of(space.graph(architectures[i]) for i in chosen) if counts is None else counts[chosen]
        patterns = _patterns(np.log(costs + offset * np.median(costs, axis=0))[chosen], rank)
        return cls(list(tables), counter, [Process.fit(points, z, spread=spread, steps=steps) for z in patterns.T])

    def of(self, counts: Floats) -> Floats:
        """What the patterns say about networks that are counted, `(m, D)`."""
        return np.stack([process.predict(counts)[0] for process in self.patterns], axis=1)

    def check(self, space: SearchSpace) -> None:
        """Raise `DataError` where the devices were measured in another space."""
        if self.counts.space.name != space.name:
            raise DataError(f"other devices were measured in space {self.counts.space.name!r}, not in {space.name!r}")

    # ---- storing -----------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """As JSON stores it, but for the columns of `counts`, which the owner stores."""
        return {
            "names": list(self.names),
            "points": self.patterns[0].points.tolist(),
            "patterns": [process.to_dict() for process in self.patterns],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], counts: BlockCounts) -> OtherDevices:
        """Inverse of `to_dict`."""
        points = np.asarray(data["points"], dtype=np.float64).reshape(-1, len(counts))
        nothing = np.zeros((len(points), 0))
        return cls(data["names"], counts, [Process.from_dict(p, points, nothing) for p in data["patterns"]])


def _patterns(logs: Floats, rank: int) -> Floats:
    """Scores of the principal components of standardised logarithmic costs, `(n, D)`; noise is left out."""
    standard = (logs - logs.mean(0)) / np.where(logs.std(0) > 0, logs.std(0), 1.0)
    left, sizes, _ = np.linalg.svd(standard, full_matrices=False)
    kept = max(1, min(rank, int((sizes > 0.03 * sizes[0]).sum())))
    return np.asarray(left[:, :kept] * sizes[:kept])

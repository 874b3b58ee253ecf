"""Which weights make a unit: the rows of the convolutions and linear layers whose outputs its channels are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from search_spaces.coupling import NONE, Coupling


class Rows(NamedTuple):
    """A weight and the unit that each index of one axis makes, NONE where it makes none."""

    tensor: str
    axis: int
    units: np.ndarray


def made_rows(coupling: Coupling) -> Iterator[Rows]:
    """The weights of all makers, without their biases; depthwise convolutions are makers of the channels they pass."""
    makers = {maker for group in coupling.groups for maker in group.makers}
    for node in coupling.graph.nodes:
        axes = coupling.tensors.get(f"{node.name}.weight")
        if node.name not in makers or axes is None:
            continue
        # transposed convolutions and embeddings have their outputs on the second axis, depthwise ones have one axis
        second = node.operator.startswith(("conv_transpose", "embedding"))
        axis = 1 if second and axes[1] is not None else 0
        units = axes[axis]
        if units is not None:
            yield Rows(f"{node.name}.weight", axis, units)


def per_unit(values: np.ndarray, units: np.ndarray, count: int) -> np.ndarray:
    """(count,) sums of `values` (n,) over the entries of each unit; entries of NONE are left out."""
    held = units != NONE
    return np.bincount(units[held], weights=values[held], minlength=count)


def other_axes(rows: Rows, dimensions: int) -> tuple[int, ...]:
    """The axes of the weight that a row runs over."""
    return tuple(a for a in range(dimensions) if a != rows.axis)

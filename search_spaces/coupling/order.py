"""Units in another order: the same network, with the most important units of every group in front.

Units of a group lie in the same tensors as often, so they can change places wherever they are without a change of what
the network computes. After that, the best units of a group are its first ones, whatever said which are best.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..errors import SpaceError
from .units import NONE, Coupling


def falling(coupling: Coupling, scores: np.ndarray) -> np.ndarray:
    """The order that puts the units of each group by falling score; equal ones stay in turn.

    Args:
        scores: `(units,)`, higher for what should stay.

    Returns:
        `(units,)`: at the place of each unit, the unit that comes there.

    Raises:
        SpaceError: scores of another length, or that are no numbers.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.shape != (coupling.count,) or np.isnan(scores).any():
        raise SpaceError(f"an order needs a score for each of {coupling.count} units; got shape {scores.shape}")
    order = np.arange(coupling.count)
    for group in coupling.groups:
        order[group.units] = group.units[np.argsort(-scores[group.units], kind="stable")]
    return order


def reorder(state: Mapping[str, Tensor], coupling: Coupling, order: np.ndarray) -> dict[str, Tensor]:
    """A state dict in which units have changed places within their groups; its network computes the same.

    Args:
        state: of a network of the coupling's graph.
        order: `(units,)`, the unit that comes to the place of each; see `falling`.

    Raises:
        SpaceError: an order that is no exchange of units within groups.
    """
    order = np.asarray(order)
    if order.shape != (coupling.count,) or not _within_groups(coupling, order):
        raise SpaceError(f"an order of {coupling.count} units exchanges units of one group for each other")
    moved = {}
    for name, tensor in state.items():
        for axis, units in enumerate(coupling.tensors.get(name, ())):
            if units is not None:
                tensor = tensor.index_select(axis, torch.from_numpy(_sources(units, order)).to(tensor.device))
        moved[name] = tensor.clone()
    return moved


def _within_groups(coupling: Coupling, order: np.ndarray) -> bool:
    return bool(
        (np.sort(order) == np.arange(coupling.count)).all() and (coupling.group_of[order] == coupling.group_of).all()
    )


def _sources(units: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Which index of an axis comes to each: the n-th of a unit from the n-th of the one that takes its place."""
    places = np.argsort(units, kind="stable")
    owners, starts = np.unique(units[places], return_index=True)
    ranges = dict(zip(owners.tolist(), np.split(places, starts[1:]), strict=True))
    found = np.arange(len(units))
    for unit, there in ranges.items():
        if unit != NONE:
            found[there] = ranges[int(order[unit])]
    return found

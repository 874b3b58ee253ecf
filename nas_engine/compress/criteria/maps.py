"""The feature maps of units: where they are read or made, and a value of a node taken apart by unit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from search_spaces.coupling import NONE, Coupling


@dataclass(frozen=True, eq=False)
class Site:
    """A node whose value bears units.

    Attributes:
        node: its name.
        axis: the axis of its value that bears the channels, the batch not counted.
        units: (channels,) the unit of each channel, NONE where it is in none.
    """

    node: str
    axis: int
    units: np.ndarray


def read_sites(coupling: Coupling) -> list[Site]:
    """The values that are read by what mixes channels, as a rule outputs of activations; each one once."""
    found = {(e.source, e.axis): Site(e.source, e.axis, e.units) for e in coupling.edges if (e.units != NONE).any()}
    return list(found.values())


def made_sites(coupling: Coupling) -> list[Site]:
    """The values that come right out of the layers whose output channels the units are."""
    makers = {maker for group in coupling.groups for maker in group.makers}
    sites = []
    for node in coupling.graph.nodes:
        if node.name in makers:
            axes = enumerate(coupling.values[node.name])
            sites += [Site(node.name, axis, units) for axis, units in axes if units is not None]
    return sites


def maps(value: Tensor, site: Site) -> tuple[Tensor, np.ndarray]:
    """A value `(B, *shape)` as one row for each unit `(B, rows, features)`, and the unit of each row `(rows,)`.

    The channels of a unit (positions of a flattened map, channels of a head) lie side by side in its row; units with
    fewer of them are filled with zeros. A channel in no unit is a row of its own, of unit NONE.
    """
    channels = value.movedim(site.axis + 1, 1).flatten(2) if value.dim() > 2 else value.unsqueeze(2)
    alone = np.where(site.units == NONE, -1 - np.arange(len(site.units)), site.units)
    names, row = np.unique(alone, return_inverse=True)
    order = np.argsort(row, kind="stable")
    starts = np.searchsorted(row[order], np.arange(len(names)))
    place = np.empty(len(row), dtype=np.int64)
    place[order] = np.arange(len(row)) - starts[row[order]]
    found = channels.new_zeros(len(value), len(names), int(place.max()) + 1, channels.shape[2])
    found[:, torch.from_numpy(row), torch.from_numpy(place)] = channels
    return found.flatten(2), np.where(names < 0, NONE, names)


def sum_over(found: Iterable[tuple[np.ndarray, np.ndarray]], count: int) -> np.ndarray:
    """(count,) sums of `(units, scores)` of several sites; rows of NONE are left out."""
    total = np.zeros(count)
    for units, scores in found:
        total[units[units != NONE]] += scores[units != NONE]
    return total

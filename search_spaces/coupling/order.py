"""Units in another order: the same network, with the most important units in front.

Units of a group lie in the same tensors as often, so they can change places wherever they are without a change of what
the network computes; after that the best units of a group are its first ones, whatever said which are best. Where a
shortcut puts channels among zeros, a channel and what it becomes behind the shortcut are a strand and move as one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ..errors import SpaceError
from ..graph import Node
from .units import NONE, Coupling, Group


def families(coupling: Coupling) -> tuple[np.ndarray, ...]:
    """Strands that run through the same groups.

    Returns:
        arrays `(strands, groups that they run through)` of units: rows may change places, columns are `parts`.
    """
    strand = _strands(coupling)
    members: dict[int, list[int]] = defaultdict(list)
    for unit, which in enumerate(strand.tolist()):
        members[which].append(unit)
    alike: dict[tuple[int, ...], list[list[int]]] = defaultdict(list)
    for units in members.values():
        units.sort(key=lambda u: (coupling.group_of[u], u))
        alike[tuple(coupling.group_of[units].tolist())].append(units)
    return tuple(np.array(rows) for rows in alike.values())


def parts(coupling: Coupling) -> tuple[Group, ...]:
    """Groups, parted where only some of their units are in strands with others; in the order of groups.

    The units of a part are in the order of their strands: those of the first `n` units of two parts are the same.
    """
    columns = [column for family in families(coupling) for column in family.T]
    columns.sort(key=lambda units: (coupling.group_of[units[0]], units.min()))
    of = [int(coupling.group_of[units[0]]) for units in columns]
    found = []
    for i, (which, units) in enumerate(zip(of, columns, strict=True)):
        group = coupling.groups[which]
        name = group.name if of.count(which) == 1 else f"{group.name}/{of[:i].count(which)}"
        found.append(Group(name, units, group.makers))
    return tuple(found)


def falling(coupling: Coupling, scores: np.ndarray) -> np.ndarray:
    """The order that puts the units of each part by falling score of their strands, the sum over a strand's units.

    Args:
        scores: `(units,)`, higher for what should stay; equal ones stay in turn.

    Returns:
        `(units,)`: at the place of each unit, the unit that comes there.

    Raises:
        SpaceError: scores of another length, or that are no numbers.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.shape != (coupling.count,) or np.isnan(scores).any():
        raise SpaceError(f"an order needs a score for each of {coupling.count} units; got shape {scores.shape}")
    order = np.arange(coupling.count)
    for family in families(coupling):
        order[family] = family[np.argsort(-scores[family].sum(1), kind="stable")]
    return order


def reorder(state: Mapping[str, Tensor], coupling: Coupling, order: np.ndarray) -> dict[str, Tensor]:
    """A state dict in which units have changed places; its network computes the same.

    Args:
        state: of a network of the coupling's graph.
        order: `(units,)`, the unit that comes to the place of each; see `falling`.

    Raises:
        SpaceError: an order that is no exchange of strands of one family.
    """
    order = np.asarray(order)
    if order.shape != (coupling.count,) or not all(_exchanges(order, family) for family in families(coupling)):
        raise SpaceError(f"an order of {coupling.count} units exchanges strands of one family for each other")
    moved = {}
    for name, tensor in state.items():
        for axis, units in enumerate(coupling.tensors.get(name, ())):
            if units is not None:
                tensor = tensor.index_select(axis, torch.from_numpy(_sources(units, order)).to(tensor.device))
        moved[name] = tensor.clone()
    return moved


def _exchanges(order: np.ndarray, family: np.ndarray) -> bool:
    """Whether an order puts whole rows of a family in the places of its rows."""
    rows, coming = family[np.argsort(family[:, 0])], order[family]
    return bool((coming[np.argsort(coming[:, 0])] == rows).all())


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


# ---- strands -------------------------------------------------------------------------------------------------


def _strands(coupling: Coupling) -> np.ndarray:
    """(units,) the number of each unit's strand."""
    links = [np.zeros((0, 2), dtype=np.int64)]
    for edge in coupling.edges:
        node = coupling.graph[edge.node]
        if node.operator in ("pad", "pick"):
            out = coupling.values[node.name][edge.axis]
            if out is not None:
                links.append(_linked(edge.units, out, _entries(node, edge.axis)))
    pairs = np.concatenate(links)
    shape = (coupling.count, coupling.count)
    joined = coo_array((np.ones(len(pairs), dtype=bool), (pairs[:, 0], pairs[:, 1])), shape=shape)
    return np.asarray(connected_components(joined, directed=False)[1])


def _linked(before: np.ndarray, after: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """(n, 2) pairs of units of which one becomes the other."""
    borne = entries >= 0
    pairs = np.stack([before[entries[borne]], after[borne]], 1)
    return pairs[(pairs != NONE).all(1)]


def _entries(node: Node, axis: int) -> np.ndarray:
    """Which input entry of an axis each output entry is, -1 for zeros."""
    if node.operator == "pick":
        return np.array(node.attributes["entries"])
    padding = node.attributes["padding"]
    low = padding[2 * (len(node.shape) - 1 - axis)]
    entries = np.arange(node.shape[axis]) - low
    return np.where((entries < 0) | (entries >= node.signature.inputs[0][axis]), -1, entries)

"""From a graph to what can be cut out of it.

Atoms that were joined are one component. A component can only go if what is left of every tensor is a tensor again, so
components that would leave holes are joined too; those that hold an atom nobody may cut stay. The others are units.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..graph import Graph
from .blocks import find_blocks
from .labels import FIXED, Flow, Labels
from .rules import run
from .units import NONE, Coupling, Edge, Frozen, Group


def couple(graph: Graph, *, exact: bool = True) -> Coupling:
    """Units, groups and removable blocks of a graph, found by running labels through it.

    Names refer to the simplified graph. What cannot be cut is listed with the reason.

    Args:
        exact: whether a cut network must compute what the whole one does with zeros in the place of what is gone.
            Without it, for networks that are trained anew, channels that a norm or a mean joins may change in number.

    >>> from search_spaces import GraphBuilder
    >>> g = GraphBuilder((3, 8, 8))
    >>> x = g.add("conv2d", g.input, name="first", out_channels=4, kernel_size=3)
    >>> x = g.add("conv2d", x, name="second", out_channels=5, kernel_size=3)
    >>> [(group.name, len(group)) for group in couple(g.build(x)).groups]
    [('first', 4)]
    """
    graph = graph.simplify()
    flow = run(graph, exact)
    components = _components(flow)
    reasons = _reasons(flow, components)
    units = _numbered(flow, components, reasons)
    values = {n: _vectors(units[x], graph[n].shape) for n, x in flow.values.items() if x.ndim == len(graph[n].shape)}
    tensors = {n: tuple(None if a is None else units[a] for a in axes) for n, axes in flow.tensors.items()}
    tensors |= {n: _vectors(units[x], x.shape) for n, x in flow.bare.items()}
    edges = tuple(
        Edge(r.node.name, r.position, r.node.inputs[r.position], r.axis, units[r.atoms])
        for r in flow.readings
        if (units[r.atoms] != NONE).any()
    )
    return Coupling(
        graph=graph,
        count=int(units.max(initial=NONE)) + 1,
        groups=_groups(flow, units, values, edges),
        edges=edges,
        frozen=_frozen(flow, components, units, reasons),
        blocks=find_blocks(graph),
        values=values,
        tensors={n: axes for n, axes in tensors.items() if any(a is not None and (a != NONE).any() for a in axes)},
    )


def _components(flow: Flow) -> np.ndarray:
    """(atoms,) the number of each atom's component, once no cut leaves a hole in a tensor."""
    while True:
        pairs = np.concatenate([np.zeros((0, 2), dtype=np.int64), *flow.pairs])
        ones = np.ones(len(pairs), dtype=bool)
        shape = (flow.count, flow.count)
        _, found = connected_components(coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=shape), directed=False)
        before = len(flow.pairs)
        for labels in (*flow.values.values(), *flow.bare.values()):
            if sum(n > 1 for n in labels.shape) > 1:
                _close(flow, labels, found)
        if len(flow.pairs) == before:
            return found


def _close(flow: Flow, labels: Labels, component: np.ndarray) -> None:
    """Join components until each fills slices across one axis: of the axes, the one that leaves the most of them."""
    seen = component[labels]
    axes = [a for a in range(labels.ndim) if (seen != seen.take([0], a)).any()]
    if len(axes) < 2 or (seen == component[FIXED]).all():
        return
    merged = {axis: _merged(seen, axis) for axis in axes}
    best = max(axes, key=lambda axis: merged[axis])
    if merged[best] < len(np.unique(seen)):
        flow.merge(labels, best)


def _merged(seen: np.ndarray, axis: int) -> int:
    """How many components are left where all with the same index along an axis are one."""
    names, rows = np.unique(np.moveaxis(seen, axis, 0), return_inverse=True)
    rows = rows.reshape(seen.shape[axis], -1)
    first = np.broadcast_to(rows[:, :1], rows.shape)
    links = coo_array((np.ones(rows.size, dtype=bool), (first.ravel(), rows.ravel())), shape=(len(names),) * 2)
    return int(connected_components(links, directed=False, return_labels=False))


def _reasons(flow: Flow, component: np.ndarray) -> dict[int, str]:
    """Why a component cannot be cut, by component."""
    reasons = {int(component[FIXED]): "it is joined with the input or with constants"}
    for atoms, _, reason in flow.fixed:
        for c in np.unique(component[atoms]).tolist():
            reasons.setdefault(c, reason)
    for name, labels in flow.values.items():
        only = np.unique(component[labels])
        if len(only) == 1 and labels.ndim == len(flow.graph[name].shape):
            alone = f"nothing of {name!r} would be left" if flow.exact else f"{name!r} is one unit"
            reasons.setdefault(int(only[0]), alone)
    return reasons


def _numbered(flow: Flow, component: np.ndarray, reasons: dict[int, str]) -> np.ndarray:
    """(atoms,) the unit of each atom, NONE where it is in none; units are numbered in the order they are made."""
    read = np.zeros(component.max() + 1, dtype=bool)
    for reading in flow.readings:
        read[component[reading.atoms]] = True
    number = np.full(component.max() + 1, NONE)
    count = 0
    for atoms in flow.makers.values():
        for c in component[atoms].tolist():
            if number[c] == NONE and c not in reasons and read[c]:
                number[c], count = count, count + 1
    return number[component]


def _vectors(units: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray | None, ...]:
    """The units along each axis of a value; None for axes that bear none."""
    vectors: list[np.ndarray | None] = []
    for axis, size in enumerate(units.shape):
        rows = np.moveaxis(units, axis, 0).reshape(size, -1)
        along = np.where((rows == rows[:, :1]).all(1), rows[:, 0], NONE)
        bears = size > 1 and (along != NONE).any() and len(np.unique(along)) > 1
        vectors.append(np.broadcast_to(along, (shape[axis],)) if bears else None)
    return tuple(vectors)


def _groups(
    flow: Flow, units: np.ndarray, values: dict[str, tuple[np.ndarray | None, ...]], edges: tuple[Edge, ...]
) -> tuple[Group, ...]:
    """Units that lie in the same tensors as often."""
    places: dict[int, list[tuple[str, int, int]]] = defaultdict(list)
    for name, axes in values.items():
        for axis, along in enumerate(axes):
            if along is not None:
                for unit, n in zip(*(a.tolist() for a in np.unique(along, return_counts=True)), strict=True):
                    places[unit].append((name, axis, n))
    for i, edge in enumerate(edges):
        for unit in np.unique(edge.units).tolist():
            places[unit].append(("edge", i, 0))
    makers: dict[int, list[str]] = defaultdict(list)
    for name, atoms in flow.makers.items():
        for unit in np.unique(units[atoms]).tolist():
            makers[unit].append(name)
    members: dict[tuple[tuple[str, int, int], ...], list[int]] = defaultdict(list)
    for unit in range(int(units.max(initial=NONE)) + 1):
        members[tuple(places[unit])].append(unit)
    found = sorted(members.values())
    names = _names([makers[group[0]][0] for group in found])
    return tuple(
        Group(name, np.array(group), tuple(makers[group[0]])) for name, group in zip(names, found, strict=True)
    )


def _names(makers: list[str]) -> list[str]:
    """Names of groups: that of the maker, numbered where one makes several."""
    return [m if makers.count(m) == 1 else f"{m}#{makers[:i].count(m)}" for i, m in enumerate(makers)]


def _frozen(flow: Flow, component: np.ndarray, units: np.ndarray, reasons: dict[int, str]) -> tuple[Frozen, ...]:
    """Channels of each maker that are in no unit, with the reason of the first."""
    found = []
    for name, atoms in flow.makers.items():
        held = atoms[units[atoms] == NONE]
        if len(held):
            reason = reasons.get(int(component[held[0]]), "nothing reads it")
            found.append(Frozen(name, len(held), reason))
    return tuple(found)

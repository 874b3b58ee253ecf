"""Layered drawing of a directed graph: layers by longest path, order by barycentres, places by least squares.

Edges that skip layers are led through narrow stand-ins (Sugiyama's method). Given an order, the places nearest to the
neighbours' means that keep all distances are an isotonic regression, solved exactly by pooling.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Point = tuple[float, float]
Size = tuple[float, float]

_SEAM = "\0"  # in the names of stand-ins, and of nothing else
_STAND_IN = 10.0  # width that an edge passing through a layer takes
_SWEEPS = 8


@dataclass(frozen=True)
class Route:
    """An edge: where it leaves, the vertical pieces `(top, bottom)` it passes through, where it arrives."""

    source: str
    target: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Layout:
    """Centres of the items, routes of the edges, size of the whole; y grows downwards."""

    centres: dict[str, Point]
    routes: tuple[Route, ...]
    width: float
    height: float


def layered(
    sizes: Mapping[str, Size], edges: Sequence[tuple[str, str]], *, across: float = 22.0, down: float = 24.0
) -> Layout:
    """Lay out an acyclic graph from top to bottom.

    Args:
        sizes: width and height of each item, in topological order.
        edges: pairs of items; the first comes earlier in `sizes`.
        across: least distance between two items of a layer.
        down: distance between two layers.
    """
    depth = _depths(sizes, edges)
    chains = {edge: _chain(edge, depth) for edge in dict.fromkeys(edges)}
    layers = _layers(depth, chains)
    above, below = _neighbours(chains)
    _order(layers, above, below)
    widths = [[sizes[item][0] if item in sizes else _STAND_IN for item in layer] for layer in layers]
    x = _places(layers, widths, above, below, across)
    bands = _bands(layers, sizes, down)
    return _settled(sizes, depth, chains, x, bands)


def _depths(sizes: Mapping[str, Size], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    depth = dict.fromkeys(sizes, 0)
    position = {name: i for i, name in enumerate(sizes)}
    for source, target in sorted(edges, key=lambda e: position[e[1]]):
        depth[target] = max(depth[target], depth[source] + 1)
    return depth


def _chain(edge: tuple[str, str], depth: Mapping[str, int]) -> list[str]:
    """The edge's ends with a stand-in for each layer between them."""
    source, target = edge
    between = range(depth[source] + 1, depth[target])
    return [source, *(f"{source}{_SEAM}{target}{_SEAM}{layer}" for layer in between), target]


def _layers(depth: Mapping[str, int], chains: Mapping[tuple[str, str], list[str]]) -> list[list[str]]:
    layers: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for name, level in depth.items():
        layers[level].append(name)
    for (source, _), chain in chains.items():
        for step, stand_in in enumerate(chain[1:-1], 1):
            layers[depth[source] + step].append(stand_in)
    return layers


def _neighbours(chains: Mapping[tuple[str, str], list[str]]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    above: dict[str, list[str]] = {}
    below: dict[str, list[str]] = {}
    for chain in chains.values():
        for upper, lower in itertools.pairwise(chain):
            above.setdefault(lower, []).append(upper)
            below.setdefault(upper, []).append(lower)
    return above, below


def _order(layers: list[list[str]], above: Mapping[str, list[str]], below: Mapping[str, list[str]]) -> None:
    """Sort each layer by the mean rank of the neighbours, down and up in turns; keeps the best order."""
    best = _crossings(layers, below), [list(layer) for layer in layers]
    for sweep in range(_SWEEPS):
        towards, walk = (above, layers[1:]) if sweep % 2 == 0 else (below, layers[-2::-1])
        for layer in walk:
            rank = {item: i / max(1, len(line) - 1) for line in layers for i, item in enumerate(line)}
            layer.sort(key=lambda item: _mean([rank[n] for n in towards.get(item, ())], rank[item]))
        best = min(best, (_crossings(layers, below), [list(layer) for layer in layers]), key=lambda b: b[0])
    layers[:] = best[1]


def _crossings(layers: list[list[str]], below: Mapping[str, list[str]]) -> int:
    count = 0
    for upper, lower in itertools.pairwise(layers):
        rank = {item: i for i, item in enumerate(lower)}
        ends = [sorted(rank[n] for n in below.get(item, ()) if n in rank) for item in upper]
        seen: list[int] = []
        for targets in ends:
            count += sum(1 for t in targets for s in seen if s > t)
            seen += targets
    return count


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _places(
    layers: list[list[str]],
    widths: list[list[float]],
    above: Mapping[str, list[str]],
    below: Mapping[str, list[str]],
    across: float,
) -> dict[str, float]:
    """Centres along the layers: each item as near to the mean of its neighbours as the distances allow."""
    x: dict[str, float] = {}
    offsets = []
    for layer, wide in zip(layers, widths, strict=True):
        apart = [(a + b) / 2 + across for a, b in itertools.pairwise(wide)]
        offset = [sum(apart[:i]) for i in range(len(layer))]
        offsets.append(offset)
        x.update((item, o - offset[-1] / 2) for item, o in zip(layer, offset, strict=True))
    for sweep in range(2 * _SWEEPS):
        order = range(len(layers)) if sweep % 2 == 0 else range(len(layers) - 1, -1, -1)
        for i in order:
            layer, offset = layers[i], offsets[i]
            wanted = [_pull(item, (*above.get(item, ()), *below.get(item, ())), x) for item in layer]
            pooled = _isotonic([w - o for w, o in zip(wanted, offset, strict=True)])
            x.update((item, p + o) for item, p, o in zip(layer, pooled, offset, strict=True))
    half = {t: w / 2 for layer, wide in zip(layers, widths, strict=True) for t, w in zip(layer, wide, strict=True)}
    left = min((x[item] - half[item] for item in x), default=0.0)
    return {item: value - left for item, value in x.items()}


def _pull(item: str, neighbours: Sequence[str], x: Mapping[str, float]) -> float:
    """Where the neighbours want an item: their mean, in which long edges pull harder so that they run straight."""
    weights = [(8.0 if _SEAM in n else 2.0) if _SEAM in item else 1.0 for n in neighbours]
    return sum(w * x[n] for w, n in zip(weights, neighbours, strict=True)) / sum(weights) if weights else x[item]


def _isotonic(values: Sequence[float]) -> list[float]:
    """The nondecreasing sequence nearest to `values` in least squares (pool adjacent violators)."""
    pools: list[tuple[float, int]] = []
    for value in values:
        pools.append((value, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (b, n), (a, m) = pools.pop(), pools.pop()
            pools.append(((a * m + b * n) / (m + n), m + n))
    return [value for value, count in pools for _ in range(count)]


def _bands(layers: list[list[str]], sizes: Mapping[str, Size], down: float) -> list[tuple[float, float]]:
    """Top and bottom of each layer."""
    bands, top = [], 0.0
    for layer in layers:
        height = max((sizes[item][1] for item in layer if item in sizes), default=0.0)
        bands.append((top, top + height))
        top += height + down
    return bands


def _settled(
    sizes: Mapping[str, Size],
    depth: Mapping[str, int],
    chains: Mapping[tuple[str, str], list[str]],
    x: Mapping[str, float],
    bands: list[tuple[float, float]],
) -> Layout:
    middle = [(top + bottom) / 2 for top, bottom in bands]
    centres = {name: (x[name], middle[depth[name]]) for name in sizes}
    routes = []
    for (source, target), chain in chains.items():
        points = [(x[source], middle[depth[source]] + sizes[source][1] / 2)]
        for step, stand_in in enumerate(chain[1:-1], 1):
            points += [(x[stand_in], y) for y in bands[depth[source] + step]]
        points.append((x[target], middle[depth[target]] - sizes[target][1] / 2))
        routes.append(Route(source, target, tuple(points)))
    right = [x[name] + wide / 2 for name, (wide, _) in sizes.items()] + [x for r in routes for x, _ in r.points]
    return Layout(centres, tuple(routes), max(right, default=0.0), bands[-1][1] if bands else 0.0)

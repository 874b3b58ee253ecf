"""Width: how often each unit of a graph occurs in the same network of another width.

Groups of channels are multiplied and rounded one by one, as builders do with the widths of their stages; what builders
derive from such a width (the expansion of a block, the squeeze of a gate) stays the same multiple or part of it.
"""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from typing import TYPE_CHECKING

from ..errors import SpaceError
from ..graph import Graph, Node
from .rules import Rounding

if TYPE_CHECKING:
    import numpy as np

    from ..coupling import Coupling, Edge, Group

_LEAST_EXPANSION = 3
"""A layer that makes twice the channels it reads is a new stage; one that makes three times as many expands a block."""


_MOST = 0.5
"""Share of the arithmetic that may stay as it is in a network that is called wider."""


def widen(graph: Graph, multiplier: float, rounding: Rounding) -> Graph:
    """The graph with all numbers of channels multiplied but those of its inputs and outputs.

    Raises:
        SpaceError: most of it is in layers whose channels cannot change in number.
    """
    from ..coupling.cutting import cut

    stuck = unwidened(graph)
    macs = {node.name: node.signature.cost.macs for node in graph.nodes}
    share = sum(macs[name] for name in stuck) / max(1, sum(macs.values()))
    if share > _MOST:
        raise SpaceError(
            f"{share:.0%} of this network's arithmetic is in layers whose channels cannot change in number "
            f"({', '.join(stuck[:3])}); scale its depth or resolution"
        )
    coupling = _coupled(graph)
    return cut(coupling, counts(coupling, multiplier, rounding))


def unwidened(graph: Graph) -> tuple[str, ...]:
    """Layers that read and make as many channels at any width, such as those whose weights are computed.

    Names are of the simplified graph.
    """
    coupling = _coupled(graph.simplify())

    def free(name: str) -> bool:
        return any((units >= 0).any() for units in coupling.values.get(name, ()) if units is not None)

    nodes = [node for node in coupling.graph.nodes if node.signature.cost.macs]
    return tuple(node.name for node in nodes if not free(node.name) and not any(map(free, node.inputs)))


@lru_cache(maxsize=8)
def _coupled(graph: Graph) -> Coupling:
    """The coupling of a graph; as a rule one is grown many times."""
    from ..coupling.couple import couple

    return couple(graph, exact=False)


def counts(coupling: Coupling, multiplier: float, rounding: Rounding) -> np.ndarray:
    """`(units,)` how often each unit occurs at a multiple of the width; see `coupling.cut`.

    Units of a group lie in the same tensors, so it does not matter which of them are repeated: they are spread evenly.
    """
    edges: dict[str, list[Edge]] = defaultdict(list)
    for edge in coupling.edges:
        edges[edge.node].append(edge)
    found = coupling.all().astype("int64")
    for group in coupling.groups:  # in the order of the graph: what a group is derived from comes before it
        found[group.units] = _spread(len(group), _wanted(coupling, group, edges, found, multiplier, rounding))
    return found


def _spread(units: int, total: int) -> np.ndarray:
    """`(units,)` whole numbers of this sum that differ by one at most."""
    import numpy as np  # not at the top: the start of the command line does without

    steps = np.arange(units + 1) * total // units
    counted: np.ndarray = np.diff(steps)
    return counted


def _wanted(
    coupling: Coupling,
    group: Group,
    edges: dict[str, list[Edge]],
    found: np.ndarray,
    multiplier: float,
    rounding: Rounding,
) -> int:
    """Units of a group at a multiple of the width."""
    maker = coupling.graph[group.makers[0]]
    each = _channels_each(coupling, group)
    channels = len(group) * each
    if each == 1:
        derived = _derived(coupling, maker, channels, edges[maker.name], found)
        if derived is not None:
            return derived
    finest = Rounding(1, rounding.limit, rounding.repeats)  # a width that is no multiple stays as free as it was
    rule = rounding if channels % rounding.divisor == 0 else finest
    return max(1, rule.width(channels, multiplier, divisor=each) // each)


def _channels_each(coupling: Coupling, group: Group) -> int:
    """Channels of the group's first maker that are one unit: 1, but for heads of attention and groups of channels."""
    made = coupling.tensors[f"{group.makers[0]}.bias"][0]
    return int((made == group.units[0]).sum()) if made is not None else 1


def _derived(coupling: Coupling, maker: Node, channels: int, edges: list[Edge], found: np.ndarray) -> int | None:
    """Channels of a layer that expands or squeezes what it reads by a whole number; None for one that does neither."""
    if len(edges) != 1 or not _pointwise(maker) or (edges[0].units < 0).any():
        return None
    read = edges[0].units
    if len(set(coupling.group_of[read].tolist())) != 1:
        return None
    now, wide = int(found[read].sum()), len(read)
    if channels % wide == 0 and channels // wide >= _LEAST_EXPANSION:
        return now * (channels // wide)
    if wide % channels == 0 and wide > channels and _pooled(maker):
        return max(1, round(now * channels / wide))
    return None


def _pointwise(node: Node) -> bool:
    """Whether a layer reads each pixel by itself."""
    if node.operator == "linear":
        return True
    attributes = node.attributes
    size = attributes.get("kernel_size", 0)
    return node.operator == "conv2d" and attributes["groups"] == 1 and size in (1, (1, 1))


def _pooled(node: Node) -> bool:
    """Whether it reads one pixel, as the gates of squeeze and excite do."""
    shape = node.signature.inputs[0]
    return len(shape) == 1 or set(shape[1:]) == {1}

"""Scaling of any graph: more or fewer channels, blocks and pixels of a network that nobody described as a table.

Widths follow the groups of channels that coupling finds, depths the rows of residual blocks, and sizes of images are
inferred anew. The grown network is another one, to be trained anew; its nodes keep their names.
"""

from __future__ import annotations

from ..graph import Graph
from .deepening import deepen
from .resizing import resize
from .rules import Rounding, Scaling
from .widening import widen


def grow(graph: Graph, scaling: Scaling, rounding: Rounding | None = None) -> Graph:
    """The graph with multiplied depth, width and resolution, below 1 too.

    - Width: every group of channels is multiplied and rounded as `rounding` says, but those of inputs and outputs, and
      widths that are no multiples of its divisor are rounded to whole numbers only. A block's expansion stays the same
      multiple of what it expands, and the squeeze of a gate the same part. Convolutions in groups keep the channels of
      a group, but those of one pixel that have fewer groups than channels in each keep their number of groups; heads of
      attention keep their size.
    - Depth: the layers of each stage (see `stages`) are repeated or left out. What is in no stage stays.
    - Resolution: the height and width of all inputs, or the size that the network resizes them to first. Layers that
      read a flattened image change their shape with it.

    Args:
        graph: of any network; composites are taken apart.
        rounding: by default `Rounding()`.

    Raises:
        SpaceError: most of the network keeps its width (see `unwidened`), or something in it cannot have another size.
    """
    how = rounding or Rounding()
    graph = graph.simplify()
    if scaling.width != 1:
        graph = widen(graph, scaling.width, how)
    if scaling.depth != 1:
        graph = deepen(graph, scaling.depth, how)
    if scaling.resolution != 1:
        graph = resize(graph, scaling.resolution, how)
    return graph

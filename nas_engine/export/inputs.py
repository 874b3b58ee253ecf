"""What a bundle takes: its inputs by name, which of their sizes may vary, and what its forms are tried on.

A network of one input takes batches of any size. One of a graph takes one graph at a time, of any number of nodes and
edges: its inputs are those of a `GraphInput`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from search_spaces.errors import ExportError
from search_spaces.graph import Graph, Node

if TYPE_CHECKING:
    from torch import Tensor

    from search_spaces.inputs import GraphInput

    Given: TypeAlias = tuple[Tensor, ...]
    """What a network is called with, in the order of its inputs."""

_OF_GRAPHS = {"x": {1: "nodes"}, "edges": {2: "edges"}, "attributes": {1: "edges"}}
_EXAMPLE = {"nodes": 7, "edges": 11}  # sizes that are neither 0 nor 1, which torch.export takes for constants


@dataclass(frozen=True)
class Port:
    """One input.

    Attributes:
        name: what forms call it.
        dtype: torch's name of its type of numbers.
        shape: as the network was built for, without the batch.
        free: axes, the batch's in front counted, whose sizes may vary, by the name of the size.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    free: Mapping[int, str] = field(default_factory=dict)

    @property
    def words(self) -> tuple[str, ...]:
        """Every size as people read it, `N` or the capital of what varies.

        >>> Port("edges", "int64", (2, 80), {2: "edges"}).words
        ('1', '2', 'E')
        """
        letters = {axis: "N" if name == "batch" else name[0].upper() for axis, name in self.free.items()}
        return tuple(letters.get(i, str(size)) for i, size in enumerate((1, *self.shape)))


def ports(graph: Graph) -> tuple[Port, ...]:
    """The inputs of a network, in order.

    Raises:
        ExportError: several inputs that are not those of a graph.
    """
    nodes = graph.inputs
    if len(nodes) == 1:
        dtype = _dtype(nodes[0])
        return (Port("images" if dtype == "float32" else "tokens", dtype, nodes[0].shape, {0: "batch"}),)
    if not is_of_graphs(graph):
        raise ExportError(
            f"a bundle takes one input, or a graph as {', '.join(_OF_GRAPHS)}; "
            f"this network takes {', '.join(node.name for node in nodes) or 'nothing'}"
        )
    return tuple(Port(n.name, _dtype(n), n.shape, _OF_GRAPHS[n.name]) for n in nodes)


def is_of_graphs(graph: Graph) -> bool:
    """Whether a network takes what a `GraphInput` holds."""
    names = [node.name for node in graph.inputs]
    return len(names) > 1 and names == list(_OF_GRAPHS)[: len(names)]


def sizes(made_for: Sequence[Port]) -> tuple[str, ...]:
    """Names of the sizes that may vary."""
    return tuple(dict.fromkeys(name for port in made_for for name in port.free.values()))


def trials(samples: Tensor | GraphInput, made_for: Sequence[Port]) -> tuple[Given, Given]:
    """What the forms are run on: all samples and the first alone, or the graph and a smaller one made of it.

    Raises:
        ExportError: samples of another shape, or too few.
    """
    import torch

    from search_spaces.inputs import spread_out

    given = spread_out((samples,))
    _check(given, made_for)
    given = tuple(
        t.detach().to("cpu", getattr(torch, port.dtype)).contiguous() for t, port in zip(given, made_for, strict=True)
    )
    if "batch" in sizes(made_for):
        return given, (given[0][:1].clone(),)
    counts = {port.free[axis]: given[i].shape[axis] for i, port in enumerate(made_for) for axis in port.free}
    return given, cut(given, made_for, {name: max(1, count // 2) for name, count in counts.items()})


def example(given: Given, made_for: Sequence[Port]) -> Given:
    """A small part of what is given, for exporters that follow a network as it runs."""
    if "batch" in sizes(made_for):
        return (given[0][:2].contiguous(),)
    return cut(given, made_for, _EXAMPLE)


def cut(given: Given, made_for: Sequence[Port], counts: Mapping[str, int]) -> Given:
    """A graph of so many nodes and edges: the first ones, over again where there are fewer; edges that would lead
    beyond the nodes lead to others.
    """
    import torch

    parts = []
    for tensor, port in zip(given, made_for, strict=True):
        for axis, name in port.free.items():
            tensor = tensor.index_select(axis, torch.arange(counts[name]) % tensor.shape[axis])
        parts.append(tensor % counts["nodes"] if "int" in port.dtype else tensor)
    return tuple(parts)


def _check(given: Given, made_for: Sequence[Port]) -> None:
    wanted = ", ".join(f"{port.name} ({', '.join(port.words)})" for port in made_for)
    came = ", ".join(str(tuple(t.shape)) for t in given)
    fitting = len(given) == len(made_for) and all(
        t.dim() == len(port.words) and all(i in port.free or n == (1, *port.shape)[i] for i, n in enumerate(t.shape))
        for t, port in zip(given, made_for, strict=True)
    )
    if "batch" not in sizes(made_for):
        if not fitting:
            raise ExportError(f"a graph of shapes {came}; {wanted} is needed")
        return
    if not fitting or len(given[0]) < 2:
        raise ExportError(
            f"samples of shape {came}; two or more {wanted} are needed, so that the batch size is seen to vary"
        )


def _dtype(node: Node) -> str:
    dtype = str(node.attributes["dtype"])
    return dtype if "int" in dtype else "float32"

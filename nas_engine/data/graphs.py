"""A graph whose nodes are trained and judged on: the parts of its nodes, and the walks through it.

There is one graph for all parts, so that a network sees the features and edges of nodes it is not trained on, but no
labels of them. A batch is the whole graph or a piece of it, with targets for the nodes that count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from search_spaces.errors import ConfigError

from ..quality import NODES, ROC_AUC, Quality
from .containers import Batches
from .neighbours import Neighbourhoods, require_sampler
from .partition import pieces, random_partition

if TYPE_CHECKING:
    import torch

    from search_spaces.inputs import GraphInput

    from .augment import Augment

IGNORED = -100  # class of a node that does not count; torch's cross-entropy leaves it out
_VIEWS = 1 << 20  # keeps the partitions of views apart from those of epochs


@dataclass(frozen=True, eq=False)
class NodeSet:
    """Nodes of a graph that are trained or judged on.

    Attributes:
        nodes: (M,) int64, ascending.
    """

    nodes: torch.Tensor

    def __len__(self) -> int:
        return len(self.nodes)

    def to(self, device: str | torch.device) -> NodeSet:
        return NodeSet(self.nodes.to(device))

    def halves(self, count: int | None = None) -> tuple[NodeSet, NodeSet]:
        """Every other node, and the rest; of at most `count` nodes together, spread over all."""
        import torch

        held = self.nodes
        if count is not None and count < len(held):
            held = held[torch.linspace(0, len(held) - 1, count).long().to(held.device)]
        return NodeSet(held[::2]), NodeSet(held[1::2])


@dataclass(frozen=True, eq=False)
class GraphWalk:
    """A walk through a graph for judging: the whole of it, or the parts of some random partitions.

    With several views, whole partitions after one another, each node comes once in each, with other neighbours;
    `outputs` gives the mean of what a network says of it (multi-view inference, Li et al. 2021).

    Attributes:
        targets: `(N,)` or `(N, C)`, with `IGNORED` or NaN for what is not judged.
        parts: of a view; the only one of the first view is the graph itself.
    """

    graph: GraphInput
    targets: torch.Tensor
    parts: int
    views: int
    seed: int

    def __iter__(self) -> Iterator[tuple[GraphInput, torch.Tensor]]:
        for view in range(self.views):
            for piece, nodes in self._pieces(view):
                yield piece, self.targets[nodes][None]

    def _pieces(self, view: int) -> Iterator[tuple[GraphInput, torch.Tensor]]:
        import torch

        if self.parts == 1:
            yield self.graph, torch.arange(len(self.targets), device=self.targets.device)
            return
        yield from pieces(self.graph, random_partition(len(self.targets), self.parts, [self.seed, _VIEWS + view]))

    def outputs(self, call: Callable[[GraphInput], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits `(1, N, C)` of all nodes, the mean over views, and the targets."""
        total = self._view(call, 0)
        for view in range(1, self.views):
            total += self._view(call, view)
        return total[None] / self.views, self.targets[None]

    def _view(self, call: Callable[[GraphInput], torch.Tensor], view: int) -> torch.Tensor:
        """Logits `(N, C)` in the order of the graph's nodes."""
        import torch

        found = [(call(piece)[0], nodes) for piece, nodes in self._pieces(view)]
        logits, nodes = (torch.cat(tensors) for tensors in zip(*found, strict=True))
        return logits[nodes.argsort()]


@dataclass(frozen=True, eq=False)
class GraphSplits:
    """A graph in three parts of its nodes, with the attributes and methods of `DataSplits`.

    Attributes:
        graph: all of it.
        labels: `(N,)` int64 class numbers with `IGNORED` for none; or `(N, C)` float32, 0 and 1 for each of several
            labels with NaN for what is not known.
        classes: names of classes or labels.
        parts: pieces that the graph is trained in, by a random partition in each epoch; 1 for the whole graph.
        view_parts: pieces that it is judged in, by random partitions that are always the same.
        views: such partitions, over which the outputs for a node are averaged.
        neighbours: how many neighbours of a node are drawn in each hop where batches are some training nodes and what
            is around them; empty where they are pieces of a partition.
        first: batches of an epoch, at most; None for all.
    """

    graph: GraphInput
    labels: torch.Tensor
    train: NodeSet
    validation: NodeSet
    test: NodeSet
    classes: tuple[str, ...]
    fingerprint: str
    description: str
    source: str
    parts: int = 1
    view_parts: int = 1
    views: int = 1
    neighbours: tuple[int, ...] = ()
    first: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    augment: Augment | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(N, F): nodes and their features."""
        return tuple(int(size) for size in self.graph.x.shape[1:])

    @property
    def edges(self) -> int:
        """E, the edges; those that lead both ways count twice."""
        return int(self.graph.edges.shape[2])

    @property
    def edge_features(self) -> int:
        """D, features of an edge; 0 where there are none."""
        return 0 if self.graph.attributes is None else int(self.graph.attributes.shape[2])

    @property
    def multilabel(self) -> bool:
        """Whether a node may have several labels."""
        return self.labels.dim() == 2

    @property
    def quality(self) -> Quality:
        return ROC_AUC if self.multilabel else NODES

    def walked(self, parts: int, view_parts: int, views: int, neighbours: Sequence[int]) -> GraphSplits:
        """The same, trained and judged in other pieces.

        Raises:
            ConfigError: more pieces than nodes, or settings that do not go together.
        """
        if not 1 <= parts <= len(self.train):
            raise ConfigError(f"data.parts is 1 to {len(self.train):,}, the training nodes; got {parts}")
        if not 1 <= view_parts <= len(self.labels):
            raise ConfigError(f"data.view_parts is 1 to {len(self.labels):,}, the nodes; got {view_parts}")
        if views < 1 or (views > 1 and view_parts == 1):
            raise ConfigError(
                f"data.views {views} of a graph in one piece are all alike; give data.view_parts 2 or more"
            )
        if neighbours and parts > 1:
            raise ConfigError("data.neighbours and data.parts are two ways to make batches; leave one out")
        if neighbours:
            require_sampler()
        return replace(self, parts=parts, view_parts=view_parts, views=views, neighbours=tuple(neighbours))

    def targets(self, part: NodeSet) -> torch.Tensor:
        """Labels of a part, `IGNORED` or NaN for all other nodes."""
        import torch

        rest = torch.full_like(self.labels, float("nan") if self.multilabel else IGNORED)
        nodes = part.nodes.to(self.labels.device)
        rest[nodes] = self.labels[nodes]
        return rest

    def epoch(
        self, batch_size: int, *, seed: int, epoch: int, augment: Augment | None = None, device: str | None = None
    ) -> Batches:
        """The whole graph, or its pieces in a partition that follows from (seed, epoch), with targets of training.

        Each piece has its share of the training nodes and the edges between its own nodes. Where neighbours are drawn,
        a batch is `batch_size` training nodes and what is around them.
        """
        make, count = (self._drawn, -(-len(self.train) // batch_size)) if self.neighbours else (self._cut, self.parts)
        count = count if self.first is None else min(self.first, count)
        return Batches(count, lambda: islice(make(batch_size, seed, epoch, device), count))

    def _cut(self, batch_size: int, seed: int, epoch: int, device: str | None) -> Iterator[tuple[Any, torch.Tensor]]:
        graph, targets = on(self.graph, device), _moved(self.targets(self.train), device)
        if self.parts == 1:
            yield graph, targets[None]
            return
        part_of = random_partition(len(targets), self.parts, [seed, epoch], first=self.train.nodes)
        for piece, nodes in pieces(graph, part_of):
            yield piece, targets[nodes][None]

    def _drawn(self, batch_size: int, seed: int, epoch: int, device: str | None) -> Iterator[tuple[Any, torch.Tensor]]:
        order = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
        for piece, nodes, wanted in self._neighbourhoods.batches(self.train.nodes, batch_size, order):
            targets = self.targets(NodeSet(wanted))[nodes]
            yield on(piece, device), _moved(targets, device)[None]

    @cached_property
    def _neighbourhoods(self) -> Neighbourhoods:
        return Neighbourhoods(self.graph, self.neighbours)

    def walk(self, part: NodeSet, batch_size: int, *, seed: int | None = None, device: str | None = None) -> GraphWalk:
        """The graph for judging a part; a seed gives other partitions than the usual ones."""
        graph, targets = on(self.graph, device), _moved(self.targets(part), device)
        return GraphWalk(graph, targets, self.view_parts, self.views, seed or 0)

    def beginning(self, batch_size: int, steps: int) -> GraphSplits:
        """The same with so many training batches an epoch, or as many as there are."""
        return replace(self, first=steps)

    def samples(self, count: int) -> GraphInput:
        """The graph: networks take it as one."""
        return self.graph

    def to(self, device: str | torch.device) -> GraphSplits:
        """The same graph on a device."""
        parts = {name: getattr(self, name).to(device) for name in ("train", "validation", "test", "labels")}
        return replace(self, graph=on(self.graph, device), **parts)


def on(graph: GraphInput, device: str | torch.device | None) -> GraphInput:
    """The graph on a device; itself where it is there already."""
    moved = graph if device is None else graph.to(device)
    return graph if moved.x is graph.x else moved


def _moved(x: torch.Tensor, device: str | None) -> torch.Tensor:
    return x if device is None else x.to(device)

"""Batches of a few nodes and what is drawn around them, by PyTorch Geometric's neighbour sampler."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from search_spaces.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from search_spaces.inputs import GraphInput


def require_sampler() -> None:
    """The sampler itself is in one of two packages that PyTorch Geometric does not bring.

    Raises:
        ConfigError: neither is installed.
    """
    from torch_geometric import typing

    if not (typing.WITH_PYG_LIB or typing.WITH_TORCH_SPARSE):
        raise ConfigError(
            "data.neighbours needs pyg-lib or torch-sparse, which are installed as PyTorch Geometric's documentation "
            "says; or train in data.parts instead"
        )


class Neighbourhoods:
    """Draws neighbourhoods in a graph (Hamilton et al. 2017).

    Args:
        graph: on any device; batches are drawn on the CPU.
        counts: incoming neighbours of a node that are drawn, hop by hop.
    """

    def __init__(self, graph: GraphInput, counts: Sequence[int]) -> None:
        from torch_geometric.data import Data
        from torch_geometric.sampler import NeighborSampler

        require_sampler()
        self._graph = graph
        self._bare = Data(edge_index=graph.edges[0].cpu(), num_nodes=graph.x.shape[1])
        self._sampler = NeighborSampler(self._bare, list(counts))

    def batches(
        self, nodes: torch.Tensor, size: int, seed: int
    ) -> Iterator[tuple[GraphInput, torch.Tensor, torch.Tensor]]:
        """All of some nodes in a random order, `size` at a time.

        Their order follows from the seed; neighbours are drawn by torch's own generator.

        Shapes:
            yields a graph, the numbers (M,) of its nodes, and the first of them, which the batch is about.
        """
        import torch
        from torch_geometric.loader import NodeLoader

        from search_spaces.inputs import GraphInput

        graph = self._graph
        loader = NodeLoader(
            self._bare,
            self._sampler,
            input_nodes=nodes.cpu(),
            batch_size=size,
            shuffle=True,
            generator=torch.Generator().manual_seed(seed),
        )
        for drawn in loader:
            held, edges = drawn.n_id.to(graph.device), drawn.edge_index.to(graph.device)
            attributes = graph.attributes
            if attributes is not None:
                attributes = attributes[:, drawn.e_id.to(graph.device)]
            yield GraphInput(graph.x[:, held], edges[None], attributes), held, held[: drawn.batch_size]

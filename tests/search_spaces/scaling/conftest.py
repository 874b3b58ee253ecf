"""Graphs of library networks, traced without weights."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from search_spaces import Graph, Network, trace


@pytest.fixture
def traced() -> Callable[..., Graph]:
    """The graph of what a function makes, for square images of a side."""

    def make(build: Callable[[], nn.Module], side: int = 64, channels: int = 3) -> Graph:
        with torch.device("meta"):
            module = build().eval()
        return trace(module, torch.zeros(1, channels, side, side, device="meta"))

    return make


@pytest.fixture
def timm_graph(traced: Callable[..., Graph]) -> Callable[..., Graph]:
    """The graph of a timm model with ten classes."""
    timm = pytest.importorskip("timm")

    def make(name: str, side: int = 64, **settings: Any) -> Graph:
        return traced(lambda: timm.create_model(name, num_classes=10, **settings), side)

    return make


@pytest.fixture
def sizes() -> Callable[[Graph], tuple[int, int]]:
    """Parameters and MACs."""
    return lambda graph: (graph.cost.params, graph.cost.macs)


@pytest.fixture
def trains() -> Callable[[Graph], None]:
    """Makes the network and takes its gradients: all of them are there and finite."""

    def check(graph: Graph) -> None:
        torch.manual_seed(0)
        network = Network(graph).train()
        result = network(*(torch.randn(2, *node.shape) for node in graph.inputs))
        assert result.shape[1:] == graph[graph.outputs[0]].shape
        result.square().mean().backward()
        gradients = [p.grad for p in network.parameters()]
        assert all(g is not None and bool(g.isfinite().all()) for g in gradients)
        assert sum(p.numel() for p in network.parameters()) == graph.cost.params

    return check

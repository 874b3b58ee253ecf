"""Small networks and real images for the tests of export."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nas_engine.export import Card
from search_spaces import Architecture, GraphBuilder, Network, make_space
from search_spaces.inputs import GraphInput


def digits(size: int, count: int = 5) -> Tensor:
    """Real images (count, 1, size, size): scikit-learn's digits, normalised, enlarged where asked."""
    from sklearn.datasets import load_digits

    images = torch.from_numpy(load_digits().images[:count]).float()[:, None] / 16
    return (torch.nn.functional.interpolate(images, size=size, mode="bilinear") - 0.3) / 0.4


def settle(network: torch.nn.Module, seed: int = 0) -> None:
    """Weights and batch-norm statistics unlike fresh ones, so that each of them counts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator)
                tensor.copy_(0.5 + noise.abs() if name.endswith("running_var") else tensor + 0.1 * noise)


def mobile_member() -> tuple[Network, Architecture]:
    """A member at 12x12 that resizes and has squeeze-and-excite."""
    space = make_space(
        "mobile",
        {"input_shape": (1, 12, 12), "resolutions": (8, 12), "widths": (8, 16), "strides": (1, 2), "stem": 8,
         "head": 32, "depths": (1, 2), "dropout": 0.1},
    )  # fmt: skip
    choices = {"resolution": 8, "stage0.se": True, "stage1.se": True, "stage1.depth": 2, "activation": "hardswish"}
    return made(space.graph(architecture := space.architecture(choices))), architecture


def cell_member() -> tuple[Network, Architecture]:
    """A canonical cell whose edges share a ReLU."""
    space = make_space("nasbench201", {"input_shape": (1, 8, 8), "channels": 4, "cells": 2})
    rng = np.random.default_rng(3)
    architecture = space.canonical(space.sample(rng))
    return made(space.graph(architecture)), architecture


def made(graph) -> Network:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    network = Network(graph)
    settle(network)
    return network.eval()


def card(**more: object) -> Card:
    return Card(
        **{
            "name": "probe",
            "data": "scikit-learn's digits",
            "source": "digits",
            "classes": tuple(map(str, range(10))),
            "mean": (0.3,),
            "std": (0.4,),
            "epochs": 3,
            "metrics": {
                "accuracy": 0.91,
                "test_accuracy": 0.9,
                "latency_ms": 1.25,
                "latency_spread_ms": 0.1,
                "latency_ms_predicted": 1.2,
            },
            "device": {"processor": "AMD EPYC", "threads": 1},
            "validation_images": 200,
            "test_images": 100,
            **more,
        }
    )  # type: ignore[arg-type]


def graph_network(kinds: tuple[str, ...], features: int = 0, **settings: object) -> Network:
    """A stack of graph layers between linear ones, for graphs of 30 nodes with 6 features and 80 edges."""
    g = GraphBuilder()
    x = g.add("input", name="x", size=(30, 6))
    edges = g.add("input", name="edges", size=(2, 80), dtype="int64")
    rest = [g.add("input", name="attributes", size=(80, features))] if features else []
    x = g.add("linear", x, name="stem", out_features=8)
    mask = g.add("dropout_mask", x, name="mask", p=0.2)
    stack = {"kinds": kinds, "masked": True, "edge_features": bool(features), **settings}
    x = g.add("graph_stack", x, edges, *rest, mask, name="stack", **stack)
    return made(g.build(g.add("linear", x, name="head", out_features=5)))


def random_graph(nodes: int = 30, edges: int = 80, features: int = 0) -> GraphInput:
    """A graph for `graph_network`."""
    g = torch.Generator().manual_seed(nodes)
    attributes = torch.randn(1, edges, features, generator=g) if features else None
    return GraphInput(
        torch.randn(1, nodes, 6, generator=g), torch.randint(nodes, (1, 2, edges), generator=g), attributes
    )

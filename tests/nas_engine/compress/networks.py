"""Networks small enough to prune in tests, and a plain allocator."""

from __future__ import annotations

import numpy as np
import torch

from nas_engine.compress.criteria.base import Criterion, Scores
from nas_engine.compress.schedules import Choose
from search_spaces import GraphBuilder, Network
from search_spaces.coupling import Coupling, couple


def residual(seed: int = 0, width: int = 8) -> tuple[Network, Coupling]:
    """A stem, a residual branch, a strided convolution and a classifier; batch norms with statistics of their own."""
    torch.manual_seed(seed)
    g = GraphBuilder((1, 8, 8))
    stem = g.add("conv_bn_act", g.input, name="stem", out_channels=width)
    x = g.add("conv_bn_act", stem, name="a", out_channels=2 * width)
    x = g.add("conv_bn_act", x, name="b", out_channels=width)
    x = g.add("add", stem, x, name="sum")
    x = g.add("conv_bn_act", x, name="c", out_channels=2 * width, stride=2)
    graph = g.build(g.add("classifier", x, name="head", classes=10))
    network = Network(graph)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.3)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return network, couple(graph)


def uniform(coupling: Coupling, ratio: float) -> Choose:
    """Of each group the lowest `ratio * share` go, rounded down, but one."""

    def choose(scores: Scores, share: float) -> np.ndarray:
        assert scores.units is not None
        keep = coupling.all()
        for group in coupling.groups:
            count = min(int(ratio * share * len(group) + 1e-9), len(group) - 1)
            keep[group.units[np.argsort(scores.units[group.units], kind="stable")[:count]]] = False
        return keep

    return choose


def globally(coupling: Coupling, count: int) -> Choose:
    """The lowest `count * share` units of all go; every group keeps its best."""

    def choose(scores: Scores, share: float) -> np.ndarray:
        assert scores.units is not None
        best = [g.units[np.argmax(scores.units[g.units])] for g in coupling.groups]
        order = [u for u in np.argsort(scores.units, kind="stable") if u not in best]
        keep = coupling.all()
        keep[order[: round(count * share)]] = False
        return keep

    return choose


class Gradient(Criterion):
    """The squared derivative by a gate, summed over batches: depends on data, mask and order of calls."""

    needs = frozenset({"gradients", "labels"})

    def begin(self, gated: object) -> None:
        super().begin(gated)  # type: ignore[arg-type]
        self._total = np.zeros(self.gated.coupling.count)
        self.batches = 0

    def observe(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        assert not self.gated.network.training
        gates = torch.ones(self.gated.coupling.count, requires_grad=True)
        loss = torch.nn.functional.cross_entropy(self.gated(inputs, gates), targets)
        loss.backward()  # leaves gradients in the network, which a schedule must stand
        assert gates.grad is not None
        self._total += gates.grad.double().numpy() ** 2
        self.batches += 1

    def finish(self) -> Scores:
        return Scores(units=self._total / self.batches)

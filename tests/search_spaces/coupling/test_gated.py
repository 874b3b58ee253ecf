"""Gates: what criteria look through."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from search_spaces import Network
from search_spaces.coupling import Coupling, Gated, cut, operate

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def test_open_gates_change_nothing(shortcuts: tuple[Network, Coupling]) -> None:
    network, coupling = shortcuts
    gated = Gated(network, coupling)
    assert torch.equal(gated(IMAGES), network(IMAGES))
    assert torch.equal(gated(IMAGES, torch.ones(coupling.count), torch.ones(1)), network(IMAGES))


def test_gates_of_each_example(shortcuts: tuple[Network, Coupling]) -> None:
    network, coupling = shortcuts
    gates, blocks = torch.rand(4, coupling.count), torch.rand(4, 1)
    gated = Gated(network, coupling)
    together = gated(IMAGES, gates, blocks)
    for i in range(4):
        alone = gated(IMAGES[i : i + 1], gates[i], blocks[i])
        assert torch.allclose(together[i], alone[0], atol=1e-5)


def test_the_derivative_by_a_gate(shortcuts: tuple[Network, Coupling]) -> None:
    network, coupling = shortcuts
    network = operate(network, coupling, coupling.all()).network.double()
    gated, images = Gated(network, coupling), IMAGES.double()
    gates = torch.ones(coupling.count, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(gated(images, gates).square().sum(), gates)
    for unit in (0, coupling.count // 2, coupling.count - 1):
        step = torch.zeros_like(slope)
        step[unit] = 1e-6
        with torch.no_grad():
            up, down = (gated(images, 1 + s * step).square().sum() for s in (1, -1))
        assert float(slope[unit]) == pytest.approx(float(up - down) / 2e-6, rel=1e-5, abs=1e-7)


def test_the_tail_is_the_rest_of_the_network(shortcuts: tuple[Network, Coupling]) -> None:
    network, coupling = shortcuts
    gated = Gated(network, coupling)
    for i, group in enumerate(coupling.groups):
        gates = torch.ones(3 * len(IMAGES), coupling.count)
        gates[:, group.units] = torch.rand(len(gates), len(group))
        tail = gated.tail(IMAGES, i)
        parts = tail(gates).split(len(IMAGES))
        for part, own in zip(parts, gates.split(len(IMAGES)), strict=True):
            assert torch.allclose(part, gated(IMAGES, own), atol=1e-5)
        assert torch.allclose(tail(gates[0]), gated(IMAGES, gates[0]), atol=1e-5)


def test_values_are_in_the_autograd_graph(shortcuts: tuple[Network, Coupling]) -> None:
    network, coupling = shortcuts
    logits, values = Gated(network, coupling).values(IMAGES, ["activation", "input"])
    assert values["activation"].shape == (4, 8, 8, 8)
    assert torch.equal(values["input"], IMAGES)
    (slope,) = torch.autograd.grad(logits.sum(), values["activation"])
    assert slope.abs().sum() > 0


def test_a_thousand_cuts_a_second_would_be_costed(shortcuts: tuple[Network, Coupling]) -> None:
    """Nodes that a cut leaves as another did are the same objects."""
    _, coupling = shortcuts
    keep = coupling.all()
    keep[coupling.groups[-1].units[0]] = False
    first, again = cut(coupling, keep), cut(coupling, keep.copy())
    assert all(a is b for a, b in zip(first.nodes, again.nodes, strict=True))
    whole = cut(coupling, coupling.all())
    assert sum(a is b for a, b in zip(first.nodes, whole.nodes, strict=True)) > len(whole.nodes) // 2


def test_costs_of_a_cut_are_those_of_what_is_built(
    shortcuts: tuple[Network, Coupling], dropped: Callable[..., np.ndarray]
) -> None:
    network, coupling = shortcuts
    keep = dropped(coupling)
    built = operate(network, coupling, keep).network
    assert cut(coupling, keep).cost.params == sum(p.numel() for p in built.parameters())

"""Units that change places: the same network, and families of strands where channels go on behind zeros."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from search_spaces import Network
from search_spaces.coupling import Coupling, loosen, operate
from search_spaces.coupling.order import falling, families, parts, reorder
from search_spaces.errors import SpaceError
from tests.search_spaces.coupling.test_surgery import NETWORKS

Made = Callable[..., tuple[Network, Coupling]]


@pytest.mark.parametrize("name", [n for n in NETWORKS if n not in ("resnet50", "mobilenet_v2", "resnet56-B")])
def test_the_order_of_units_changes_no_output(name: str, made: Made) -> None:
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    images = torch.randn(2, *shape)
    network, coupling = made(build(), images)
    order = falling(coupling, np.random.default_rng(0).normal(size=coupling.count))
    assert (order != np.arange(coupling.count)).mean() > 0.5
    with torch.inference_mode():
        before = network(images)
        network.load_state_dict(reorder(network.state_dict(), coupling, order))
        assert (network(images) - before).norm() <= 2e-6 * before.norm()


def test_a_loosened_network_keeps_its_outputs(made: Made) -> None:
    from search_spaces.coupling import couple
    from search_spaces.models import models

    torch.manual_seed(0)
    images = torch.randn(2, 3, 32, 32)
    network, coupling = made(models["resnet20"](), images)
    sums = [block.sum for block in coupling.blocks[:2]]
    loose = couple(loosen(network.graph, sums))
    order = falling(loose, np.random.default_rng(0).normal(size=loose.count))
    again = Network(loose.graph).eval()
    again.load_state_dict(reorder(network.state_dict(), loose, order))
    with torch.inference_mode():
        torch.testing.assert_close(again(images), network(images), rtol=1e-4, atol=1e-4)


def test_units_are_in_falling_order(shortcuts: tuple[Network, Coupling]) -> None:
    _, coupling = shortcuts
    scores = np.random.default_rng(0).normal(size=coupling.count)
    order = falling(coupling, scores)
    assert sorted(order.tolist()) == list(range(coupling.count))
    inner = next(g for g in coupling.groups if g.name == "a1")
    assert (np.diff(scores[order[inner.units]]) <= 0).all()
    assert falling(coupling, np.zeros(coupling.count)).tolist() == list(range(coupling.count))


def test_strands_are_ordered_by_all_their_units(shortcuts: tuple[Network, Coupling]) -> None:
    _, coupling = shortcuts
    (wide,) = (family for family in families(coupling) if family.shape[1] == 2)
    assert wide.shape == (8, 2)  # the stem's channels and what they are behind the shortcut
    scores = np.zeros(coupling.count)
    scores[wide[0]] = 1, 0
    scores[wide[3]] = 2, -1.5
    scores[wide[5]] = 0, 3
    assert falling(coupling, scores)[wide[:3]].tolist() == wide[[5, 0, 3]].tolist()


def test_parts_are_all_units_once(shortcuts: tuple[Network, Coupling]) -> None:
    _, coupling = shortcuts
    found = parts(coupling)
    assert sorted(np.concatenate([p.units for p in found]).tolist()) == list(range(coupling.count))
    assert {p.name for p in found} == {"stem", "a1", "b1", "b2/0", "b2/1"}
    assert [len(p) for p in found if p.name.startswith("b2")] == [8, 8]


def test_the_first_units_of_a_reordered_network_are_the_best(shortcuts: tuple[Network, Coupling]) -> None:
    network, coupling = shortcuts
    order = falling(coupling, np.random.default_rng(1).normal(size=coupling.count))
    again = Network(coupling.graph).eval()
    again.load_state_dict(reorder(network.state_dict(), coupling, order))
    first, best = np.zeros((2, coupling.count), dtype=bool)
    for part in parts(coupling):
        first[part.units[: len(part) // 2]] = True
    best[order[first]] = True
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        one = operate(again, coupling, first, ["a1"]).network(images)
        other = operate(network, coupling, best, ["a1"]).network(images)
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_what_is_no_order_is_refused(shortcuts: tuple[Network, Coupling]) -> None:
    network, coupling = shortcuts
    state = network.state_dict()
    across = np.arange(coupling.count)
    one, other = coupling.groups[0].units[0], coupling.groups[1].units[0]
    across[[one, other]] = other, one
    twice = np.zeros(coupling.count, dtype=np.int64)
    (wide,) = (family for family in families(coupling) if family.shape[1] == 2)
    half = np.arange(coupling.count)
    half[wide[:2, 0]] = wide[[1, 0], 0]  # only one end of two strands
    for order in (across, twice, half, np.arange(3)):
        with pytest.raises(SpaceError, match="exchanges strands"):
            reorder(state, coupling, order)
    for scores in (np.zeros(3), np.full(coupling.count, np.nan)):
        with pytest.raises(SpaceError, match="needs a score for each"):
            falling(coupling, scores)


def test_a_plain_network_has_its_groups_as_parts(made: Made) -> None:
    _, coupling = made(
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(64, 2)),
        torch.zeros(2, 3, 8, 8),
    )
    assert [p.units.tolist() for p in parts(coupling)] == [g.units.tolist() for g in coupling.groups]

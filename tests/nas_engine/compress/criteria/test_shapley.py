"""Shapley values: constants of the paper's code, the axioms, and the criterion on networks."""

import time

import numpy as np
import pytest
import torch
from torch import nn

from nas_engine.compress.criteria import Shapley, score
from nas_engine.compress.criteria.losses import losses
from nas_engine.compress.criteria.shapley import draw_walks, exact, group_game, sampled
from search_spaces import Network, trace
from search_spaces.coupling import Gated, couple
from search_spaces.errors import ConfigError

POINTS = np.array([[0.0, 1.0], [1, 0], [1, 2], [2, 1]])
HIDDEN = np.array([[-0.5, 1, 1, 1], [0.5, -1, 1, 1]])


def toy(out: list[float], power: int):
    """The network that takes the larger of two numbers, its loss without some hidden units, example by example."""
    hidden, wanted = np.maximum(POINTS @ HIDDEN, 0), POINTS.max(1)
    return lambda present: np.abs((present[:, None] * hidden) @ np.array(out) - wanted) ** power


@pytest.mark.parametrize(
    ("out", "power", "expected"),
    [
        ([1, 0.5, 0.5, 0], 2, [0.375, 0.375, 1.75, 0]),
        ([1, 0.5, 0.5, 0], 1, [0.25, 0.25, 1.0, 0]),
        ([1, 0.5, 0.5, -0.1], 2, [0.425, 0.425, 2.0, -0.4]),
    ],
)
def test_constants(out: list[float], power: int, expected: list[float]) -> None:
    game = toy(out, power)
    assert exact(game, 4).mean(0) == pytest.approx(expected, abs=1e-12)
    rng = np.random.default_rng(0)
    runs = np.array([sampled(game, draw_walks(4, 5, 1.0, rng)).mean(0) for _ in range(200)])
    assert np.all(np.abs(runs.mean(0) - expected) <= 3 * runs.std(0) / np.sqrt(len(runs)) + 1e-12)


def test_efficiency_of_each_permutation_and_example() -> None:
    game = toy([1, 0.5, 0.5, -0.1], 2)
    lost = (game(np.zeros((1, 4), bool)) - game(np.ones((1, 4), bool)))[0]
    for seed in range(5):
        walks = draw_walks(4, 1, 1.0, np.random.default_rng(seed))
        assert sampled(game, walks, at_once=3).sum(1) == pytest.approx(lost, abs=1e-12)


def test_walks_name_each_player_equally_often() -> None:
    for truncate, length in ((1.0, 20), (0.1, 2), (0.001, 1)):
        walks = draw_walks(20, 3, truncate, np.random.default_rng(0))
        assert max(map(len, walks)) == length
        assert np.bincount(np.concatenate(walks)).tolist() == [3] * 20


def test_short_walks_see_nearly_complete_coalitions_only() -> None:
    seen: list[int] = []

    def game(present: np.ndarray) -> np.ndarray:
        seen.extend(present.sum(1))
        return present[:, :1] * 1.0

    sampled(game, draw_walks(20, 2, 0.1, np.random.default_rng(0)))
    assert min(seen) == 18


class Small(nn.Module):
    """Units 0 and 1 of the first layer do the same, unit 2 is read with zero weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 5, 3)
        self.norm = nn.BatchNorm2d(5)
        self.last = nn.Conv2d(5, 4, 3)
        self.head = nn.Linear(4, 3)
        with torch.no_grad():
            self.conv.weight[1], self.conv.bias[1] = self.conv.weight[0], self.conv.bias[0]
            self.last.weight[:, 1] = self.last.weight[:, 0]
            self.last.weight[:, 2] = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        return self.head(torch.relu(self.last(x)).mean((2, 3)))


@pytest.fixture
def small() -> Gated:
    torch.manual_seed(1)
    module = Small().eval()
    graph = trace(module, torch.zeros(1, 1, 8, 8))
    network = Network(graph)
    network.load_state_dict(module.state_dict())
    return Gated(network.eval(), couple(graph))


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(12, 1, 8, 8, generator=generator) * 3, torch.arange(12) % 3


def test_axioms_on_a_network(small: Gated, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    group = small.coupling.groups[0]
    with torch.no_grad():
        values = exact(group_game(small, 0, *batch), len(group))
        gates = torch.ones(small.coupling.count)
        gates[group.units] = 0
        lost = losses(small(batch[0], gates), batch[1]) - losses(small(batch[0]), batch[1])
    assert values.sum(1) == pytest.approx(lost.numpy(), abs=1e-5)
    assert values[:, 0] == pytest.approx(values[:, 1], abs=1e-6)
    assert np.abs(values[:, 2]).max() < 1e-6 < np.abs(values[:, 3]).max()


def test_criterion(small: Gated, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    found = score(Shapley(permutations=300), small, [batch])
    assert found.units is not None
    assert found.examples is not None
    assert found.examples.shape == (12, 9)
    for i, group in enumerate(small.coupling.groups):
        with torch.no_grad():
            expected = exact(group_game(small, i, *batch), len(group))
        assert found.units[group.units] == pytest.approx(expected.mean(0), abs=0.1 * np.abs(expected).mean())
    spread = score(Shapley(permutations=300, deviations=2.0), small, [batch]).units
    assert spread == pytest.approx(found.units + 2 * found.examples.std(0), abs=1e-6)


def test_how_images_come_in_batches_makes_no_difference(small: Gated, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    inputs, targets = batch
    whole = score(Shapley(seed=4, rows=24), small, [batch]).examples
    parts = score(Shapley(seed=4, rows=7), small, [(inputs[:5], targets[:5]), (inputs[5:], targets[5:])]).examples
    assert parts == pytest.approx(whole, abs=1e-5)
    assert score(Shapley(seed=5), small, [batch]).examples != pytest.approx(whole, abs=1e-5)


@pytest.mark.parametrize("settings", [{"permutations": 0}, {"truncate": 0}, {"truncate": 1.5}, {"deviations": -1}])
def test_settings_out_of_range(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Shapley(**settings)  # type: ignore[arg-type]


@pytest.mark.slow
def test_lenet_takes_less_than_a_minute() -> None:
    from search_spaces.models import models

    torch.manual_seed(0)
    graph = trace(models["lenet5"](), torch.zeros(1, 1, 28, 28))
    gated = Gated(Network(graph).eval(), couple(graph))
    images, classes = torch.randn(1000, 1, 28, 28), torch.arange(1000) % 10
    started = time.process_time()  # of two cores that others may use too
    score(Shapley(permutations=5), gated, list(zip(images.split(100), classes.split(100), strict=True)))
    assert time.process_time() - started < 2 * 60

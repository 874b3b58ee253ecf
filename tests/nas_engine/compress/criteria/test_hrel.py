"""HRel: exact values of the entropy and the mutual information, and the criterion on networks."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from nas_engine.compress.criteria import HRel, score
from nas_engine.compress.criteria.hrel import (
    best_width,
    entropy,
    gaussian,
    relevance,
    same_class,
    squared_distances,
)
from search_spaces import Network, trace
from search_spaces.coupling import Gated, couple
from search_spaces.errors import ConfigError, DataError

CLASSES = torch.arange(40) % 10


def points(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def information(maps: torch.Tensor, width: float, classes: torch.Tensor = CLASSES, alpha: float = 1.0) -> float:
    return float(relevance(gaussian(squared_distances(maps), width), classes, alpha))


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.01, 2.0])
def test_entropy_of_known_kernels(alpha: float) -> None:
    assert float(entropy(torch.eye(8, dtype=torch.float64), alpha)) == pytest.approx(3)
    assert float(entropy(torch.ones(8, 8, dtype=torch.float64), alpha)) == pytest.approx(0, abs=1e-6)
    assert float(entropy(same_class(CLASSES), alpha)) == pytest.approx(math.log2(10), abs=1e-6)


def test_orders_meet_at_the_limit_and_in_the_closed_form() -> None:
    kernel = gaussian(squared_distances(points(30, 5)), 2.0)
    one = float(entropy(kernel, 1.0))
    assert float(entropy(kernel, 1.001)) < one < float(entropy(kernel, 0.999))
    assert float(entropy(kernel, 1.0001)) == pytest.approx(one, abs=1e-3)
    assert float(entropy(kernel, 2.0)) == pytest.approx(float(entropy(kernel, 2.000001)), abs=1e-4)


def test_constant_map_tells_nothing_and_the_label_all() -> None:
    assert information(torch.full((40, 6), 3.7, dtype=torch.float64), 1.0) == pytest.approx(0, abs=1e-9)
    one_hot = torch.eye(10, dtype=torch.float64)[CLASSES]
    assert information(one_hot, 0.1) == pytest.approx(math.log2(10), abs=1e-9)


@pytest.mark.parametrize("alpha", [1.0, 1.01, 2.0])
def test_information_by_its_definition(alpha: float) -> None:
    classes = torch.tensor([0] * 5 + [3] * 20 + [1] * 15)[torch.randperm(40)]
    kernel, same = gaussian(squared_distances(points(40, 6)), 3.0), same_class(classes)
    expected = entropy(kernel, alpha) + entropy(same, alpha) - entropy(kernel * same, alpha)
    assert information(points(40, 6), 3.0, classes, alpha) == pytest.approx(float(expected), abs=1e-9)


def test_limits_of_the_width() -> None:
    maps = points(40, 6)
    assert information(maps, 1e-3) == pytest.approx(math.log2(10), abs=1e-6)
    assert information(maps, 1e6) == pytest.approx(0, abs=1e-6)


def test_invariances() -> None:
    maps, order = points(40, 6), torch.randperm(40, generator=torch.Generator().manual_seed(1))
    found = information(maps, 3.0)
    assert 0 < found < math.log2(10)
    assert information(maps[order], 3.0, CLASSES[order]) == pytest.approx(found, abs=1e-9)
    assert information(maps + 1e4, 3.0) == pytest.approx(found, abs=1e-6)
    assert information(10 * maps, 30.0) == pytest.approx(found, abs=1e-9)


def test_width_is_aligned_with_labels() -> None:
    """Classes as tight clusters far apart: the best kernel is wide within and narrow between them."""
    maps = 100 * points(10, 4)[CLASSES] + points(40, 4, seed=1)
    distances, same = squared_distances(maps), same_class(CLASSES)
    width = best_width(distances, same)
    within = float(distances[same > 0].sqrt().max())
    assert within < width
    assert information(maps, width) == pytest.approx(math.log2(10), abs=0.3)
    grid = torch.linspace(0.3, 10 * float(distances.sqrt().sum()) / (40 * 39), 300, dtype=torch.float64)
    kernels = [gaussian(distances, float(w)) for w in grid]
    alignment = [float((k * same).sum() / (k.norm() * same.norm())) for k in kernels]
    assert width == pytest.approx(float(grid[int(np.argmax(alignment))]))


class Small(nn.Module):
    """Filter 0 sees what tells classes apart (the mean), filter 1 nothing, filter 2 noise; the batch norm kills 3."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)
        with torch.no_grad():
            self.conv.weight[0], self.conv.weight[1] = 1 / 9, 0
            self.conv.weight[2] = torch.tensor([[1.0, -1, 0], [-1, 1, 0], [0, 0, 0]])
            self.conv.weight[3] = 1 / 9
            self.norm.bias[3] = -100

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


@pytest.fixture
def small() -> Gated:
    module = Small().eval()
    graph = trace(module, torch.zeros(1, 1, 6, 6))
    network = Network(graph)
    network.load_state_dict(module.state_dict())
    return Gated(network.eval(), couple(graph))


def batch(size: int = 60, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    classes = torch.arange(size) % 2
    return 0.5 * points(size, 1, 6, 6, seed=seed).float() + classes[:, None, None, None], classes


def test_filters_that_know_the_label_score_high(small: Gated) -> None:
    units = score(HRel(), small, [batch(), batch(seed=1)]).units
    assert units is not None
    assert units[0] > units[2] > units[1] == pytest.approx(0, abs=1e-9)
    assert units[0] == pytest.approx(units[3], abs=1e-6)  # before the batch norm a dead unit looks alive


def test_after_the_activation_dead_units_tell_nothing(small: Gated) -> None:
    units = score(HRel(site="after_act"), small, [batch()]).units
    assert units is not None
    assert units[3] == pytest.approx(0, abs=1e-9)
    assert units[0] > 0.1


def test_width_is_a_running_average(small: Gated) -> None:
    first, second = HRel(), HRel()
    score(first, small, [batch()])
    score(second, small, [batch(seed=1)])
    both = HRel()
    score(both, small, [batch(), batch(seed=1)])
    assert both.widths["conv"] == pytest.approx(0.9 * first.widths["conv"] + 0.1 * second.widths["conv"])


def test_large_batches_are_split(small: Gated) -> None:
    inputs, classes = batch(60)
    whole = score(HRel(images=20), small, [(inputs, classes)]).units
    parts = score(HRel(images=20), small, list(zip(inputs.split(20), classes.split(20), strict=True))).units
    np.testing.assert_array_equal(whole, parts)


def test_unusable_labels(small: Gated) -> None:
    inputs, classes = batch(8)
    with pytest.raises(DataError, match="all 8 images of a batch are of class 1"):
        score(HRel(), small, [(inputs, torch.ones(8, dtype=torch.long))])
    with pytest.raises(DataError, match="one class for each image"):
        score(HRel(), small, [(inputs, torch.zeros(8, 6, 6, dtype=torch.long))])
    with pytest.raises(DataError, match="all batches have one image"):
        score(HRel(), small, [(inputs[:1], classes[:1])])
    score(HRel(), small, [(inputs, classes), (inputs[:1], classes[:1])])


@pytest.mark.parametrize("settings", [{"site": "conv"}, {"alpha": 0}, {"alpha": math.inf}, {"images": 1}])
def test_settings_out_of_range(settings: dict) -> None:
    with pytest.raises(ConfigError):
        HRel(**settings)

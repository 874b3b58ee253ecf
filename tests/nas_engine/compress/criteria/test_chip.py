"""Channel independence: its exact properties, the integral against the definition, and the criterion on networks."""

import numpy as np
import pytest
import torch
from torch import nn

from nas_engine.compress.criteria import Chip, score
from nas_engine.compress.criteria.chip import independence, independence_by_removal, nuclear_norm
from search_spaces import Network, trace
from search_spaces.coupling import Gated, couple
from search_spaces.errors import ConfigError


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_svd(matrix: torch.Tensor) -> torch.Tensor:
    """The definition, with row i zeroed."""
    rest = []
    for i in range(len(matrix)):
        without = matrix.clone()
        without[i] = 0
        rest.append(torch.linalg.svdvals(without).sum())
    return torch.linalg.svdvals(matrix).sum() - torch.stack(rest)


@pytest.mark.parametrize(("rows", "columns"), [(16, 100), (12, 12), (20, 5), (1, 4), (6, 1)])
def test_same_as_by_the_definition(rows: int, columns: int) -> None:
    matrix = random(rows, columns)
    tolerance = 1e-9 * float(matrix.norm())
    torch.testing.assert_close(independence_by_removal(matrix), by_svd(matrix), rtol=0, atol=tolerance)
    torch.testing.assert_close(independence(matrix), by_svd(matrix), rtol=0, atol=tolerance)


def test_same_as_by_the_definition_where_maps_depend_on_each_other() -> None:
    matrix = random(10, 30).relu()
    matrix[3] = 0
    matrix[5] = matrix[6]
    matrix[8] = 1e6 * matrix[7] + matrix[9]
    torch.testing.assert_close(independence(matrix), by_svd(matrix), rtol=0, atol=1e-8 * float(matrix.norm()))


def test_gram_form_of_the_nuclear_norm() -> None:
    for shape in ((7, 40), (40, 7), (3, 5, 9)):
        matrix = random(*shape)
        torch.testing.assert_close(nuclear_norm(matrix), torch.linalg.svdvals(matrix).sum(-1), rtol=1e-12, atol=0)


def test_orthogonal_rows_lose_their_norm() -> None:
    basis = torch.linalg.qr(random(20, 20))[0][:5]
    norms = torch.tensor([1e-3, 1, 2, 3, 50], dtype=torch.float64)
    torch.testing.assert_close(independence(basis * norms[:, None]), norms, rtol=1e-9, atol=1e-9)


def test_duplicated_row() -> None:
    row = random(1, 30)
    expected = (2**0.5 - 1) * row.norm()
    torch.testing.assert_close(independence(torch.cat([row, row])), expected.expand(2), rtol=1e-9, atol=0)


def test_zero_row_and_bounds() -> None:
    matrix = random(8, 20)
    matrix[2] = 0
    found = independence(matrix)
    assert found[2] == pytest.approx(0, abs=1e-12)
    assert (found >= 0).all()
    assert (found <= matrix.norm(dim=1) + 1e-9).all()
    assert not independence(torch.zeros(3, 4)).any()


class Small(nn.Module):
    """Two convolutions, flattened into a linear layer with another behind it; channel 2 of the first repeats 1."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 3)
        self.hidden, self.head = nn.Linear(3 * 4, 6), nn.Linear(6, 2)
        with torch.no_grad():
            self.first.weight[2], self.first.bias[2] = self.first.weight[1], self.first.bias[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.head(torch.relu(self.hidden(x.flatten(1))))


@pytest.fixture
def small() -> Gated:
    torch.manual_seed(0)
    module = Small().eval()
    graph = trace(module, torch.zeros(1, 1, 6, 6))
    network = Network(graph)
    network.load_state_dict(module.state_dict())
    return Gated(network.eval(), couple(graph))


def test_criterion_reads_maps_where_they_are_read(small: Gated) -> None:
    images = random(9, 1, 6, 6).float()
    found = score(Chip(normalise="none"), small, [(images[:4], torch.zeros(4)), (images[4:], torch.zeros(5))]).units
    assert found is not None
    network = small.network
    with torch.no_grad():
        first = torch.relu(network.get_submodule("first")(images))
        second = torch.relu(network.get_submodule("second")(first))
    groups = {g.name: g.units for g in small.coupling.groups}
    for name, value in (("first", first), ("second", second)):
        expected = np.mean([by_svd(image.flatten(1).double()).numpy() for image in value], axis=0)
        assert found[groups[name]] == pytest.approx(expected, abs=1e-6)


def test_numbers_take_the_batch_as_map(small: Gated) -> None:
    images = random(16, 1, 6, 6).float()
    units = next(g.units for g in small.coupling.groups if g.name == "hidden")
    found = score(Chip(normalise="none"), small, [(images, torch.zeros(16))]).units
    _, values = small.values(images, [e.source for e in small.coupling.edges if np.isin(units, e.units).any()])
    (value,) = values.values()
    assert found is not None
    assert found[units] == pytest.approx(by_svd(value.detach().T.double()).numpy() / 4, abs=1e-6)


def test_normalised_by_group_and_stable(small: Gated) -> None:
    batches = [(random(128, 1, 6, 6, seed=s).float(), torch.zeros(128)) for s in (1, 2)]
    one, other = (score(Chip(), small, [batch]).units for batch in batches)
    assert one is not None
    assert other is not None
    for group in small.coupling.groups:
        assert one[group.units].mean() == pytest.approx(1)
    from scipy.stats import spearmanr

    assert spearmanr(one, other).statistic > 0.95


def test_looks_at_so_many_images(small: Gated) -> None:
    images = random(20, 1, 6, 6).float()
    batches = [(images[:8], torch.zeros(8)), (images[8:], torch.zeros(12))]
    some = score(Chip(images=12, normalise="none"), small, batches).units
    whole = score(Chip(normalise="none"), small, [(images[:8], torch.zeros(8)), (images[8:12], torch.zeros(4))]).units
    np.testing.assert_array_equal(some, whole)


def test_settings() -> None:
    assert "labels" not in Chip.needs
    assert Chip().comparable
    assert not Chip(normalise="none").comparable
    with pytest.raises(ConfigError, match="did you mean 'mean'"):
        Chip(normalise="means")
    with pytest.raises(ConfigError, match="1 image or more"):
        Chip(images=0)

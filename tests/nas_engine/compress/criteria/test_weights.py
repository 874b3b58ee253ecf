"""Criteria that look at weights alone, on networks whose weights are set by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nas_engine.compress.criteria import BNScale, Magnitude, Random, score
from nas_engine.compress.criteria.makers import made_rows
from nas_engine.testing.criteria import small_gated
from search_spaces import Network, trace
from search_spaces.coupling import Gated, couple
from search_spaces.errors import ConfigError


def gated_of(module: nn.Module, *shape: int) -> Gated:
    graph = trace(module.eval(), torch.zeros(1, *shape))
    network = Network(graph)
    network.load_state_dict(module.state_dict())
    return Gated(network.eval(), couple(graph))


def units_of(gated: Gated, name: str) -> np.ndarray:
    return next(g.units for g in gated.coupling.groups if g.name == name)


def found(criterion: Magnitude | BNScale | Random, gated: Gated) -> np.ndarray:
    units = score(criterion, gated).units
    assert units is not None
    return units


@pytest.mark.parametrize("p", [1, 2])
def test_magnitudes_are_norms_of_rows_summed_over_makers(p: int) -> None:
    gated = small_gated()
    scores = found(Magnitude(p=p, normalise="none"), gated)
    norms = {n: t.flatten(1).norm(p=p, dim=1).numpy() for n, t in gated.network.state_dict().items() if t.dim() == 4}
    np.testing.assert_allclose(scores[units_of(gated, "inner")], norms["inner.weight"], rtol=1e-5)
    np.testing.assert_allclose(scores[units_of(gated, "last")], norms["last.weight"], rtol=1e-5)
    stream = norms["stem.weight"] + norms["outer.weight"]
    np.testing.assert_allclose(scores[units_of(gated, "stem")], stream, rtol=1e-5)


def test_relative_magnitudes_do_not_see_the_scale_of_a_layer() -> None:
    plain, scaled = small_gated(), small_gated(lambda state: state["inner.weight"].mul_(7))
    np.testing.assert_allclose(found(Magnitude(), scaled), found(Magnitude(), plain), rtol=1e-5)
    for group in plain.coupling.groups:
        assert found(Magnitude(), plain)[group.units].mean() == pytest.approx(1)
    raw = Magnitude(normalise="none")
    assert Magnitude().comparable
    assert not raw.comparable
    assert found(raw, scaled)[units_of(plain, "inner")] == pytest.approx(
        7 * found(raw, plain)[units_of(plain, "inner")]
    )


def test_a_layer_of_zeros_has_magnitudes_of_zero() -> None:
    gated = small_gated(lambda state: state["inner.weight"].zero_())
    assert (found(Magnitude(), gated)[units_of(gated, "inner")] == 0).all()


def test_rows_of_transposed_depthwise_and_linear_layers() -> None:
    """A unit of the depthwise convolution has its row there; outputs of transposed convolutions lie on axis 1."""
    module = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.ConvTranspose2d(4, 5, 2), nn.Flatten(),
        nn.Linear(5 * 25, 6), nn.ReLU(), nn.Linear(6, 2),
    )  # fmt: skip
    gated = gated_of(module, 3, 4, 4)
    rows = {r.tensor: (r.axis, len(r.units)) for r in made_rows(gated.coupling)}
    assert rows == {"0.weight": (0, 4), "1.weight": (0, 4), "2.weight": (1, 5), "4.weight": (0, 6)}
    scores, weights = found(Magnitude(p=1, normalise="none"), gated), module.state_dict()
    first = weights["0.weight"].abs().sum((1, 2, 3)) + weights["1.weight"].abs().sum((1, 2, 3))
    np.testing.assert_allclose(scores[units_of(gated, "0")], first.numpy(), rtol=1e-5)
    third = weights["2.weight"].abs().sum((0, 2, 3))
    np.testing.assert_allclose(scores[units_of(gated, "2")], third.numpy(), rtol=1e-5)


def test_several_rows_of_one_unit_are_one_vector() -> None:
    """Of a convolution of few groups the same channel of each group goes."""
    module = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1, groups=2), nn.Conv2d(6, 2, 1), nn.Flatten())
    gated = gated_of(module, 3, 2, 2)
    units = units_of(gated, "1")
    assert len(units) == 3
    norms = module.state_dict()["1.weight"].unflatten(0, (2, 3)).transpose(0, 1).flatten(1).norm(dim=1)
    np.testing.assert_allclose(found(Magnitude(normalise="none"), gated)[units], norms.numpy(), rtol=1e-5)


def test_scales_of_all_batch_norms_of_a_unit_are_summed() -> None:
    gated = small_gated(lambda state: state["outer_norm.weight"].mul_(-1))
    state = {n: t.abs().numpy() for n, t in gated.network.state_dict().items() if n.endswith("norm.weight")}
    scores = found(BNScale(), gated)
    np.testing.assert_allclose(scores[units_of(gated, "inner")], state["inner_norm.weight"], rtol=1e-6)
    stream = state["norm.weight"] + state["outer_norm.weight"]
    np.testing.assert_allclose(scores[units_of(gated, "stem")], stream, rtol=1e-6)


class Partly(nn.Module):
    """The second layer has no batch norm."""

    def __init__(self, normed: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1)
        self.norm = nn.BatchNorm2d(4, affine=normed)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.norm(self.first(x)).relu()).relu().mean((2, 3)))  # type: ignore[no-any-return]


def test_units_without_a_batch_norm_are_cut_last() -> None:
    module = Partly(normed=True)
    with torch.no_grad():
        module.norm.weight.copy_(torch.tensor([0.5, -3.0, 1.0, 2.0]))
    gated = gated_of(module, 3, 4, 4)
    scores = found(BNScale(), gated)
    assert scores[units_of(gated, "first")].tolist() == [0.5, 3, 1, 2]
    assert scores[units_of(gated, "second")].tolist() == [3] * 5


def test_a_network_without_scales_is_refused() -> None:
    with pytest.raises(ConfigError, match="bn_scale.*taylor"):
        score(BNScale(), gated_of(Partly(normed=False), 3, 4, 4))


def test_chance_is_uniform_and_goes_by_the_seed() -> None:
    gated = small_gated()
    draws = np.concatenate([found(Random(seed), gated) for seed in range(200)])
    assert draws.min() >= 0
    assert draws.max() < 1
    assert draws.mean() == pytest.approx(0.5, abs=0.02)
    assert draws.std() == pytest.approx(12**-0.5, abs=0.02)
    assert not np.array_equal(found(Random(1), gated), found(Random(2), gated))


@pytest.mark.parametrize(
    ("settings", "message"), [({"p": 3}, "p = 1 or p = 2"), ({"normalise": "means"}, "did you mean 'mean'")]
)
def test_settings_that_do_not_work_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Magnitude(**settings)  # type: ignore[arg-type]

"""Taylor importance against exact derivatives, identities of batch norms, and the definition of its averages."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import hessian

from nas_engine.compress.criteria import Taylor, score
from nas_engine.compress.criteria.curvature import derivatives, linear_groups
from nas_engine.compress.criteria.losses import losses
from nas_engine.testing.criteria import small_batches, small_gated
from search_spaces import Network, trace
from search_spaces.coupling import Gated, couple
from search_spaces.errors import ConfigError


class Smooth(nn.Module):
    """No part of it is linear piece by piece: SiLU, a squeeze that multiplies, and a stream read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.squeeze = nn.Conv2d(4, 4, 1)
        self.body, self.last = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 6, 3)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.nn.functional.silu(self.norm(self.stem(x)))
        x = x * torch.sigmoid(self.squeeze(x.mean((2, 3), keepdim=True)))
        x = x + torch.nn.functional.silu(self.body(x))
        x = torch.nn.functional.silu(self.last(x))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def double(gated: Gated) -> Gated:
    gated.network.double()
    return gated


def doubled(batches: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    return [(inputs.double(), targets) for inputs, targets in batches]


def smooth_gated() -> Gated:
    torch.manual_seed(0)
    module = Smooth().eval()
    graph = trace(module, torch.zeros(1, 3, 8, 8))
    network = Network(graph)
    network.load_state_dict(module.state_dict())
    return double(Gated(network.eval(), couple(graph)))


def residual_gated() -> Gated:
    return double(small_gated())


def loss_by_gates(gated: Gated, inputs: Tensor, targets: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda gates, blocks: losses(gated(inputs, gates, blocks), targets).mean()


def full(gated: Gated) -> tuple[Tensor, Tensor]:
    """Gates of 1 for units and blocks."""
    ones = torch.ones(gated.coupling.count, dtype=torch.float64)
    return ones, torch.ones(len(gated.coupling.blocks), dtype=torch.float64)


def test_gate_scores_are_squares_of_finite_differences() -> None:
    gated, (batch,) = residual_gated(), doubled(small_batches(1))
    scores = score(Taylor(), gated, [batch])
    loss, (gates, blocks), step = loss_by_gates(gated, *batch), full(gated), 1e-5
    with torch.no_grad():
        for found, ones, at in ((scores.units, gates, 0), (scores.blocks, blocks, 1)):
            assert found is not None
            for i in range(len(ones)):
                ends = []
                for sign in (1, -1):
                    moved = [gates, blocks]
                    moved[at] = ones.clone()
                    moved[at][i] += sign * step
                    ends.append(float(loss(*moved)))
                slope = (ends[0] - ends[1]) / (2 * step)
                assert found[i] == pytest.approx(slope**2, rel=1e-4, abs=1e-12)


@pytest.mark.parametrize("make", [residual_gated, smooth_gated])
def test_second_order_is_the_exact_diagonal_of_the_hessian(make: Callable[[], Gated]) -> None:
    """(-g + 1/2 H_mm)^2, with H of torch's full Hessian."""
    gated = make()
    classes = 5 if make is residual_gated else 3
    inputs, targets = small_batches(1)[0][0].double(), torch.arange(10) % classes
    loss, (gates, blocks) = loss_by_gates(gated, inputs, targets), full(gated)
    slopes = torch.func.grad(loss, argnums=(0, 1))(gates, blocks)
    curvatures = [hessian(loss, argnums=i)(gates, blocks).diagonal() for i in (0, 1)]
    scores = score(Taylor(form="second"), gated, [(inputs, targets)])
    for found, g, h in zip((scores.units, scores.blocks), slopes, curvatures, strict=True):
        assert found is not None
        assert float(h.detach().abs().max()) > 1e-6, "a test without curvature shows nothing"
        np.testing.assert_allclose(found, (h / 2 - g).square().detach().numpy(), rtol=1e-7, atol=1e-15)


def test_both_ways_to_the_curvature_agree() -> None:
    """The groups whose curvature is that of the loss alone are found, and the general way gives the same there."""
    gated, (batch,) = residual_gated(), doubled(small_batches(1))
    linear = linear_groups(gated.coupling)
    names = [group.name for group in gated.coupling.groups]
    assert {n for n, is_linear in zip(names, linear, strict=True) if is_linear} == {"inner", "last"}
    quick, slow = (derivatives(gated, *batch, x) for x in (linear, np.zeros_like(linear)))
    for ours, theirs in zip(quick, slow, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_only_what_lies_before_the_head_is_linear_in_a_smooth_network() -> None:
    coupling = smooth_gated().coupling
    names = [group.name for group, linear in zip(coupling.groups, linear_groups(coupling), strict=True) if linear]
    assert names == ["last"]


def test_the_quadratic_model_is_exact_where_the_loss_is_quadratic_in_a_gate() -> None:
    """With small logits the loss is a parabola in a gate they are linear in; scores are true changes squared."""
    gated, (batch,) = residual_gated(), doubled(small_batches(1))
    with torch.no_grad():
        gated.network.get_parameter("head.weight").mul_(1e-3)
    loss, (gates, blocks) = loss_by_gates(gated, *batch), full(gated)
    scores = score(Taylor(form="second"), gated, [batch]).units
    assert scores is not None
    last = next(g for g in gated.coupling.groups if g.name == "last")
    with torch.no_grad():
        for unit in last.units.tolist():
            without = gates.clone()
            without[unit] = 0
            change = float(loss(without, blocks) - loss(gates, blocks))
            assert scores[unit] == pytest.approx(change**2, rel=1e-4)


def test_joint_form_on_weights_before_a_batch_norm_in_training_mode_is_empty() -> None:
    """The scale of such a filter does not change the loss: the sum of g w is zero up to epsilon over the variance."""
    gated, (batch,) = residual_gated(), doubled(small_batches(1))
    weight = gated.network.get_parameter("inner.weight")
    gates = torch.ones(gated.coupling.count, dtype=torch.float64, requires_grad=True)
    for training, empty in ((True, True), (False, False)):
        gated.network.train(training)
        loss = losses(gated(batch[0], gates), batch[1]).mean()
        slope, by_gate = torch.autograd.grad(loss, [weight, gates])
        products = (slope * weight).detach().flatten(1)
        share = float(products.sum(1).abs().max() / products.abs().sum(1).max())
        assert (share < 1e-3) is empty
        units = next(g.units for g in gated.coupling.groups if g.name == "inner")
        assert float(by_gate[torch.from_numpy(units)].abs().min()) > 1e-6


def test_gate_after_batch_norm_is_the_joint_form_of_its_scale_and_shift() -> None:
    """(gamma g_gamma + beta g_beta)^2: ReLU lets a factor through."""
    gated, batches = residual_gated(), doubled(small_batches())
    norm = gated.network.get_submodule("inner_norm")
    assert isinstance(norm, nn.BatchNorm2d)
    expected = []
    for inputs, targets in batches:
        slopes = torch.autograd.grad(losses(gated(inputs), targets).mean(), [norm.weight, norm.bias])
        expected.append((norm.weight * slopes[0] + norm.bias * slopes[1]).square())
    units = next(g.units for g in gated.coupling.groups if g.name == "inner")
    found = score(Taylor(), gated, batches).units
    assert found is not None
    np.testing.assert_allclose(found[units], torch.stack(expected).mean(0).detach().numpy(), rtol=1e-9)


@pytest.mark.parametrize("power", [1, 2])
def test_powers_are_taken_for_each_batch_and_then_averaged(power: int) -> None:
    gated, batches = residual_gated(), doubled(small_batches(4))
    ones = torch.ones(gated.coupling.count, dtype=torch.float64, requires_grad=True)
    slopes = [torch.autograd.grad(losses(gated(x, ones), y).mean(), ones)[0] for x, y in batches]
    found = score(Taylor(power=power), gated, batches).units
    expected = torch.stack(slopes).abs().pow(power).mean(0).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    whole = torch.stack(slopes).mean(0).abs().pow(power).numpy()
    assert not np.allclose(expected, whole, rtol=0.1), "the square of the whole set's gradient is another number"


@pytest.mark.parametrize("form", ["gate", "second"])
def test_scores_by_example_are_those_of_batches_of_one(form: str) -> None:
    gated, batches = residual_gated(), doubled(small_batches(2))
    singles = [(x[i : i + 1], y[i : i + 1]) for x, y in batches for i in range(len(y))]
    together = score(Taylor(form=form, examples=True), gated, batches)
    alone = score(Taylor(form=form), gated, singles)
    np.testing.assert_allclose(together.units, alone.units, rtol=1e-8)
    np.testing.assert_allclose(together.blocks, alone.blocks, rtol=1e-8)


def test_weight_form_sums_over_the_rows_of_all_makers() -> None:
    """The stream is made by `stem` and by `outer`; frozen weights count as well."""
    gated, (batch,) = residual_gated(), doubled(small_batches(1))
    names = ["stem.weight", "outer.weight"]
    weights = [gated.network.get_parameter(name) for name in names]
    slopes = torch.autograd.grad(losses(gated(batch[0]), batch[1]).mean(), weights)
    expected = sum((g * w).square().sum((1, 2, 3)) for g, w in zip(slopes, weights, strict=True))
    gated.network.requires_grad_(False)
    found = score(Taylor(form="weight"), gated, [batch])
    units = next(g.units for g in gated.coupling.groups if g.name == "stem")
    assert found.units is not None
    assert isinstance(expected, Tensor)
    np.testing.assert_allclose(found.units[units], expected.detach().numpy(), rtol=1e-9)


def test_weight_form_of_a_block_counts_all_parameters_of_the_branch() -> None:
    gated, (batch,) = residual_gated(), doubled(small_batches(1))
    inside = {n: p for n, p in gated.network.named_parameters() if n.startswith(("inner", "outer"))}
    slopes = torch.autograd.grad(losses(gated(batch[0]), batch[1]).mean(), list(inside.values()))
    expected = sum(float((g * w).detach().square().sum()) for g, w in zip(slopes, inside.values(), strict=True))
    assert score(Taylor(form="weight"), gated, [batch]).blocks == pytest.approx([expected])


def test_units_that_nothing_hears_have_no_importance() -> None:
    gated = small_gated(lambda state: state["outer.weight"][:, 2].zero_())
    dead = int(next(g.units for g in gated.coupling.groups if g.name == "inner")[2])
    for form in ("gate", "second"):
        units = score(Taylor(form=form), gated, small_batches()).units
        assert units is not None
        assert units[dead] == 0
        assert (np.delete(units, dead) > 0).all()


def test_only_so_many_batches_are_looked_at() -> None:
    found = score(Taylor(batches=2), small_gated(), small_batches(5))
    np.testing.assert_array_equal(found.units, score(Taylor(), small_gated(), small_batches(5)[:2]).units)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"form": "gates"}, "did you mean 'gate'"),
        ({"form": "weight", "examples": True}, "single examples"),
        ({"power": 3}, "power 1 or 2"),
        ({"batches": 0}, "one batch or more"),
    ],
)
def test_settings_that_do_not_work_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Taylor(**settings)  # type: ignore[arg-type]

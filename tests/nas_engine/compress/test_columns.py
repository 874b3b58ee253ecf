"""Columns: masks, the faster modules, channels that nobody reads."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nas_engine.compress.columns import (
    ColumnConv2d,
    ColumnLinear,
    bake,
    column_layers,
    columns,
    dead_units,
    mask_columns,
    masks_of,
    realised,
)
from nas_engine.compress.masked import Masked
from search_spaces.errors import SpaceError
from tests.nas_engine.compress.networks import residual


def chosen(groups: int, size: int, kept: int) -> np.ndarray:
    rng = np.random.default_rng(size)
    keep = np.zeros((groups, size), dtype=bool)
    for row in keep:
        row[rng.permutation(size)[:kept]] = True
    return keep


CONVOLUTIONS = [
    {"kernel_size": 5},
    {"kernel_size": 3, "padding": 1, "stride": 2},
    {"kernel_size": (3, 2), "padding": (2, 0), "dilation": 2, "bias": False},
    {"kernel_size": 4, "padding": "same"},
    {"kernel_size": 3, "groups": 2, "padding": 1},
    {"kernel_size": 1},
]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("settings", CONVOLUTIONS)
def test_fewer_columns_compute_what_masked_ones_do(settings: dict[str, object], layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 8, **settings)  # type: ignore[arg-type]
    x = torch.randn(3, 6, 11, 9).to(memory_format=layout).requires_grad_()
    keep = chosen(conv.groups, columns(conv, conv.weight).shape[2], 4)
    small = ColumnConv2d(conv, keep)
    mask_columns(conv).mask(torch.from_numpy(keep))
    conv.eval()
    out = small(x)
    assert out.shape == conv(x).shape
    assert torch.allclose(out, conv(x), atol=1e-5)
    assert small.weight.numel() * keep.shape[1] == conv.weight.numel() * 4
    (slope,) = torch.autograd.grad(out.square().sum(), x)
    (wanted,) = torch.autograd.grad(conv(x).square().sum(), x)
    assert torch.allclose(slope, wanted, atol=1e-3)


def test_groups_must_keep_as_many() -> None:
    keep = chosen(2, 27, 4)
    keep[1, :] = True
    with pytest.raises(SpaceError, match="4 to 27 columns"):
        ColumnConv2d(nn.Conv2d(6, 8, 3, groups=2), keep)
    with pytest.raises(SpaceError, match="reflect"):
        ColumnConv2d(nn.Conv2d(6, 8, 3, padding=1, padding_mode="reflect"), chosen(1, 54, 4))


def test_linear_layers_too() -> None:
    layer = nn.Linear(20, 5)
    keep = chosen(1, 20, 6)
    small = ColumnLinear(layer, keep)
    x = torch.randn(4, 3, 20)
    assert torch.allclose(small(x), layer(x * torch.from_numpy(keep[0])), atol=1e-6)
    assert small.weight.shape == (5, 6)


def test_masks_give_no_gradient_and_leave_the_weight() -> None:
    conv = nn.Conv2d(2, 3, 3)
    before = conv.weight.detach().clone()
    keep = chosen(1, 18, 5)
    mask = mask_columns(conv)
    assert mask_columns(conv) is mask
    mask.mask(torch.from_numpy(keep))
    conv(torch.randn(2, 2, 6, 6)).sum().backward()
    original = conv.parametrizations.weight.original  # type: ignore[union-attr]
    assert torch.equal(original, before)
    gradient = columns(conv, original.grad)[0]
    assert (gradient[:, ~keep[0]] == 0).all()
    assert (gradient[:, keep[0]] != 0).all()


def test_a_draw_holds_in_training_mode_only() -> None:
    conv = nn.Conv2d(1, 1, 3)
    mask = mask_columns(conv)
    keep, drawn = chosen(1, 9, 5), ~chosen(1, 9, 5)
    mask.mask(torch.from_numpy(keep), torch.from_numpy(drawn))
    assert np.array_equal((conv.train().weight != 0).flatten().numpy(), drawn[0])
    assert np.array_equal((conv.eval().weight != 0).flatten().numpy(), keep[0])


def test_a_realised_network_computes_the_same() -> None:
    network, _ = residual()
    for name, layer in column_layers(network, linear=True):
        groups, size = mask_columns(layer).keep.shape
        if name != "stem.conv":
            mask_columns(layer).mask(torch.from_numpy(chosen(groups, size, size // 3)))
    network.eval()
    x = torch.randn(2, 1, 8, 8)
    wanted: Tensor = network(x)
    small = realised(network)
    ran: list[nn.Module] = []
    for module in small.modules():
        module.register_forward_hook(lambda m, *_: ran.append(m))
    assert torch.allclose(small(x), wanted, atol=1e-5)
    assert {m for m in small.modules() if isinstance(m, ColumnConv2d | ColumnLinear)} <= set(ran)
    kinds = [type(m).__name__ for m in small.modules()]
    assert kinds.count("ColumnConv2d") == 3
    assert kinds.count("ColumnLinear") == 1
    assert kinds.count("Conv2d") == 1  # nothing is gone of the stem
    assert torch.equal(network(x), wanted)  # it keeps its masks
    assert masks_of(network).keys() == {n for n, _ in column_layers(network, linear=True)}


def test_baked_masks_are_zeros() -> None:
    network, _ = residual()
    plain = copy.deepcopy(network).state_dict()
    for _, layer in column_layers(network):
        size = mask_columns(layer).keep.shape[1]
        mask_columns(layer).mask(torch.from_numpy(chosen(1, size, size // 2)))
    x = torch.randn(2, 1, 8, 8)
    wanted = network.eval()(x)
    twin = copy.deepcopy(network)
    bake(network)
    assert torch.equal(network(x), wanted)
    assert network.state_dict().keys() == plain.keys()
    assert masks_of(network) == {}
    assert type(network.get_submodule("b.conv")) is nn.Conv2d
    assert torch.equal(twin(x), wanted)
    assert masks_of(twin).keys() == {n for n, _ in column_layers(network)}


def test_other_parametrisations_are_refused() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 2, 3))
    with pytest.raises(SpaceError, match="parametrised already"):
        mask_columns(layer)


def test_depthwise_convolutions_have_no_columns_to_lose() -> None:
    module = nn.ModuleDict({"deep": nn.Conv2d(4, 4, 3, groups=4), "wide": nn.Conv2d(4, 8, 3), "fc": nn.Linear(4, 2)})
    assert [n for n, _ in column_layers(module)] == ["wide"]
    assert [n for n, _ in column_layers(module, linear=True)] == ["wide", "fc"]


def test_channels_that_no_column_reads_can_be_cut() -> None:
    network, coupling = residual()
    layer = network.get_submodule("b.conv")
    assert isinstance(layer, nn.Conv2d)
    keep = np.ones((1, layer.in_channels, 9), dtype=bool)
    keep[:, [1, 4]] = False
    keep[:, 6, 2:] = False  # not all of this one
    mask_columns(layer).mask(torch.from_numpy(keep.reshape(1, -1)))
    dead = dead_units(network, coupling)
    group = next(g for g in coupling.groups if g.name == "a.conv")
    assert set(np.flatnonzero(dead)) == set(group.units[[1, 4]])
    bake(network)
    assert np.array_equal(dead_units(network, coupling), dead)
    masked = Masked(network, coupling)
    masked.mask(~dead)
    x = torch.randn(2, 1, 8, 8)
    assert torch.allclose(masked.operate().network.eval()(x), network.eval()(x), atol=1e-5)


def test_other_layers_have_no_columns() -> None:
    with pytest.raises(SpaceError, match="no convolution or linear"):
        realised(nn.Sequential(nn.ReLU()), {"0": np.zeros((1, 3), dtype=bool)})

"""Masked networks: what surgery leaves, before it is done."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from nas_engine.compress.criteria.base import score
from nas_engine.compress.masked import Masked
from nas_engine.config import Optimizer
from nas_engine.data import load_data
from nas_engine.train import NetworkProgram, train
from search_spaces.errors import SpaceError
from tests.nas_engine.compress.networks import Gradient, residual


def half(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(count) > 0.4


@pytest.mark.parametrize("training", [False, True])
def test_masked_is_pruned(training: bool) -> None:
    network, coupling = residual()
    masked = Masked(network, coupling)
    masked.mask(half(coupling.count))
    small = masked.operate().network
    assert sum(p.numel() for p in small.parameters()) < 0.6 * sum(p.numel() for p in network.parameters())
    x = torch.randn(16, 1, 8, 8)
    a, b = masked.train(training)(x), small.train(training)(x)
    assert torch.allclose(a, b, atol=1e-5)
    assert not torch.allclose(a, network(x), atol=1e-2)


def test_masked_trains_as_pruned() -> None:
    """Weights that a mask hides get no gradients, so the rest goes where the smaller network's weights go."""
    data = load_data("digits", limit=300)
    network, coupling = residual()
    masked = Masked(network, coupling)
    masked.mask(half(coupling.count))
    small = masked.operate().network
    settings = Optimizer(batch_size=32, learning_rate=0.02, clip_norm=1.0)
    for module in (masked, small):
        list(train(NetworkProgram(module), data, settings, epochs=2, seed=0))
    trained = masked.operate().network.state_dict()
    for name, tensor in small.state_dict().items():
        assert torch.allclose(tensor.float(), trained[name].float(), atol=1e-4), name


def test_the_mask_is_part_of_the_state() -> None:
    network, coupling = residual()
    masked = Masked(network, coupling)
    keep, drawn = half(coupling.count, 1), half(coupling.count, 2)
    masked.mask(keep, drawn)
    other = Masked(*residual(5))
    other.load_state_dict(masked.state_dict())
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(masked.eval()(x), other.eval()(x))
    assert np.array_equal(other.kept, keep)
    twin = copy.deepcopy(masked)
    twin.mask(coupling.all())
    assert np.array_equal(masked.kept, keep)
    assert not torch.equal(masked(x), twin(x))
    a, b = masked.train()(x), masked.eval()(x)
    assert not torch.allclose(a, b)


def test_criteria_see_the_masked_network() -> None:
    network, coupling = residual()
    masked = Masked(network, coupling)
    keep = half(coupling.count)
    masked.mask(keep)
    x, y = torch.randn(8, 1, 8, 8), torch.arange(8)
    scores = score(Gradient(), masked.gated(), [(x, y)]).units
    assert scores is not None
    assert (scores[~keep] == 0).all()
    assert (scores[keep] > 0).mean() > 0.8
    gated, gates = masked.gated(), torch.ones(coupling.count)
    with torch.no_grad():
        masked.eval()
        assert torch.equal(gated(x), masked(x))
        gates[np.flatnonzero(keep)[0]] = 0
        lower = keep.copy()
        lower[np.flatnonzero(keep)[0]] = False
        once = gated(x, gates), gated.values(x, ["sum"], gates)[0], gated.tail(x, 0, gates)(gates)
        masked.mask(lower)
        assert all(torch.allclose(masked(x), z, atol=1e-6) for z in once)


def test_masks_of_another_shape_are_refused() -> None:
    network, coupling = residual()
    masked = Masked(network, coupling)
    with pytest.raises(SpaceError, match="a mask is bool of"):
        masked.mask(np.ones(3, dtype=bool))
    with pytest.raises(SpaceError, match="float64"):
        masked.mask(np.ones(coupling.count))

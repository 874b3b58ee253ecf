"""What the libraries say of published members: the yardstick of families of inverted residuals."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nas_engine.testing.measure import shake_statistics
from search_spaces import Network
from search_spaces.families import published, published_state, skeleton


def library_module(name: str) -> nn.Module:
    """The member as its library makes it, with random weights, in evaluation mode."""
    library, called = published()[name].members[name].source
    if library == "timm":
        module: nn.Module = pytest.importorskip("timm").create_model(called)
    else:
        module = pytest.importorskip("torchvision").models.get_model(called)
    return module.eval()


def params_and_macs(name: str) -> tuple[int, int]:
    """Of the library's module at the published resolution."""
    return counted(lambda: library_module(name), skeleton(name).resolution)


def counted(make: Callable[[], nn.Module], side: int) -> tuple[int, int]:
    """Parameters and MACs of a module for images of `side` pixels, counted on the meta device."""
    with torch.device("meta"):
        module = make().eval().requires_grad_(False)
        images = torch.empty(1, 3, side, side)
    with FlopCounterMode(display=False) as counter:
        module(images)
    return sum(p.numel() for p in module.parameters()), counter.get_total_flops() // 2


def largest_difference(name: str, side: int) -> float:
    """Largest difference of logits, relative to the largest logit, between ours and the library's on its weights."""
    torch.manual_seed(0)
    theirs = _lively(library_module(name), side)
    ours = Network(skeleton(name).graph((3, side, side))).eval()
    ours.load_state_dict(published_state(name, theirs.state_dict()))
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        expected, found = theirs(images), ours(images)
    scale = float(expected.abs().max())
    assert scale > 0
    assert float((expected[0] - expected[1]).abs().max()) > 0.1 * scale, "logits do not depend on the images"
    return float((expected - found).abs().max()) / scale


def _lively(module: nn.Module, side: int) -> nn.Module:
    """Random weights whose statistics are those of some images: with any others hardly anything reaches the logits."""
    shake_statistics(module, torch.Generator().manual_seed(0))
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        module.train()(torch.randn(8, 3, side, side))
    return module.eval()

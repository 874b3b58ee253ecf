"""Layers without multiplications against brute force, the gradients of their papers, and figures worked by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from nas_engine.export import exporters
from nas_engine.export.card import Card
from nas_engine.testing import Example, OperatorContract, example
from search_spaces import Graph, GraphBuilder, GraphError, Network
from search_spaces.network import function
from search_spaces.operators.multiplication_free import FunctionalAdder2d, FunctionalShiftConv2d

IMAGE = (8, 9, 7)
WEIGHT = frozenset({1})

EXAMPLES: tuple[Example, ...] = (
    example("normal_parameter", size=(1, 5, 4)),
    example("normal_parameter", size=(1, 5), std=0.1),
    example("adder2d", IMAGE, out_channels=6),
    example("adder2d", IMAGE, out_channels=6, kernel_size=(3, 5), stride=(2, 1), padding="same"),
    example("adder2d", IMAGE, out_channels=5, kernel_size=3, padding=2, dilation=2),
    Example("functional_adder2d", (IMAGE, (6, 8, 3, 2)), {"stride": 2, "padding": (1, 0)}, shared=WEIGHT),
    # torch's counter sees the multiplications by which powers of two are emulated
    Example("shift_conv2d", (IMAGE,), {"out_channels": 6}, counted_by_torch=False),
    Example(
        "shift_conv2d",
        (IMAGE,),
        {"out_channels": 12, "kernel_size": 3, "stride": 2, "padding": "same", "groups": 4, "bits": 3},
        counted_by_torch=False,
    ),
    Example(
        "functional_shift_conv2d",
        (IMAGE, (6, 4, 3, 3)),
        {"padding": 1, "groups": 2},
        shared=WEIGHT,
        counted_by_torch=False,
    ),
)


class TestMultiplicationFree(OperatorContract):
    examples = EXAMPLES


def random(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def windows(x: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """`(N, C, H, W) -> (N, 1, C, kernel, kernel, H', W')` by slicing, with no help of torch's unfold."""
    x = F.pad(x, (padding,) * 4)
    high, wide = ((n - kernel) // stride + 1 for n in x.shape[2:])
    rows = [
        [x[:, :, i : i + stride * (high - 1) + 1 : stride, j : j + stride * (wide - 1) + 1 : stride] for j in range(3)]
        for i in range(kernel)
    ]
    return torch.stack([torch.stack(row, 2) for row in rows], 2).unsqueeze(1)


# ---- adder -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (1, 1), (2, 1)])
def test_adder_is_the_distance_worked_by_hand(stride: int, padding: int) -> None:
    x, weight = random(2, 4, 7, 6), random(5, 4, 3, 3, seed=1)
    layer = function(FunctionalAdder2d(stride, padding).expression("x0", "x1"), 2)
    expected = -(windows(x, 3, stride, padding) - weight[None, ..., None, None]).abs().sum((2, 3, 4))
    torch.testing.assert_close(layer(x, weight[None]), expected)
    with torch.no_grad():
        torch.testing.assert_close(layer(x, weight[None]), expected)


def test_adder_gradients() -> None:
    """Weights: x - w summed over outputs, scaled to the length 0.2 sqrt(k). Input: sign(w - x)."""
    x, weight = random(2, 4, 7, 6).requires_grad_(), random(1, 5, 4, 3, 3, seed=1).requires_grad_()
    result = function(FunctionalAdder2d(2, 1).expression("x0", "x1"), 2)(x, weight)
    upstream = random(*result.shape, seed=2)
    of_x, of_weight = torch.autograd.grad(result, (x, weight), upstream)
    difference = windows(x, 3, 2, 1) - weight[0][None, ..., None, None]
    spread_out = upstream[:, :, None, None, None]
    full = (spread_out * difference).sum((0, 5, 6))
    torch.testing.assert_close(of_weight[0], full * 0.2 * full.numel() ** 0.5 / full.norm())
    (exact,) = torch.autograd.grad(-difference.abs().sum((2, 3, 4)), x, upstream)
    torch.testing.assert_close(of_x, exact)


# ---- shift -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 3, 5])
def test_shift_weights_are_signed_powers_of_two(bits: int) -> None:
    """A one on one pixel reads the weights out; every one is +-2^p with p in the range of the bits."""
    weight = random(64, 1, 1, 1)[None] ** 3
    one = torch.ones(1, 1, 1, 1)
    used = function(FunctionalShiftConv2d(bits=bits).expression("x0", "x1"), 2)(one, weight).flatten()
    power = used.abs().log2()
    assert torch.equal(power, power.round())
    assert power.max() <= 0
    assert power.min() >= 1 - 2 ** (bits - 1)
    assert torch.equal(used.sign(), weight.flatten().sign())
    inside = power > 1 - 2 ** (bits - 1)
    inside &= weight.flatten().abs() <= 1
    assert ((weight.flatten()[inside].abs().log2() - power[inside]).abs() <= 0.5).all()


def test_shift_of_whole_numbers_is_exact_integer_arithmetic() -> None:
    """On fixed-point inputs the layer equals shifts and additions of integers, bit by bit."""
    x = torch.randint(-8, 8, (1, 3, 5, 5), generator=torch.Generator().manual_seed(0))
    weight = random(4, 3, 3, 3, seed=1) / 4
    got = function(FunctionalShiftConv2d(bits=4).expression("x0", "x1"), 2)(x.float(), weight[None])
    shift = weight.abs().clamp(2.0**-7, 1).log2().round().long()
    fixed = windows(x << 7, 3, 1, 0) >> -shift[None, ..., None, None]  # eight bits behind the point hold every shift
    expected = torch.where(weight[None, ..., None, None] < 0, -fixed, fixed).sum((2, 3, 4))
    assert torch.equal(got.detach() * 2**7, expected.float())


def test_shift_gradient_passes_the_rounding() -> None:
    x, weight = random(2, 4, 6, 6), random(1, 4, 2, 3, 3, seed=1).requires_grad_()
    rounded = torch.copysign(weight.detach().abs().clamp(2.0**-15, 1).log2().round().exp2(), weight.detach())
    rounded = rounded[0].requires_grad_()
    layer = function(FunctionalShiftConv2d(groups=2, padding=1).expression("x0", "x1"), 2)
    (of_weight,) = torch.autograd.grad(layer(x, weight).square().sum(), weight)
    (of_rounded,) = torch.autograd.grad(F.conv2d(x, rounded, padding=1, groups=2).square().sum(), rounded)
    torch.testing.assert_close(of_weight[0], of_rounded)


# ---- networks of them ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "optimizer", [partial(torch.optim.SGD, lr=0.1, momentum=0.9), partial(torch.optim.Adam, lr=0.01)]
)
@pytest.mark.parametrize("operator", ["adder2d", "shift_conv2d"])
def test_a_network_of_them_learns(operator: str, optimizer: Callable[..., torch.optim.Optimizer]) -> None:
    assert loss_falls(operator, optimizer)


@pytest.mark.parametrize("form", ["torch_export", "onnx", "model.py"])
@pytest.mark.parametrize("operator", ["adder2d", "shift_conv2d"])
def test_a_network_of_them_is_exported(operator: str, form: str, tmp_path: Path) -> None:
    network, images = Network(small(operator)).eval(), random(6, 3, 8, 8)
    exporter = exporters[form]()
    exporter.write(network, (images,), Card("small"), tmp_path)
    if form == "model.py":
        save_file(network.state_dict(), tmp_path / "weights.safetensors")
    (logits,) = exporter.run(tmp_path, [(images[:3],)])
    torch.testing.assert_close(logits, network(images[:3]).detach(), rtol=1e-4, atol=1e-4)


# ---- costs and mistakes ----------------------------------------------------------------------------------


def test_costs_by_hand() -> None:
    """6 filters of 8 x 3 x 3 on 5 x 4 pixels meet 6 * 72 * 20 = 8640 numbers."""
    adder = example("adder2d", IMAGE, out_channels=6, kernel_size=3, stride=2, padding=1).graph().cost
    shift = example("shift_conv2d", IMAGE, out_channels=6, kernel_size=3, stride=2, padding=1).graph().cost
    assert (adder.params, adder.macs, adder.adds, adder.shifts) == (432, 0, 17280, 0)
    assert (shift.params, shift.macs, shift.adds, shift.shifts) == (432, 0, 8640, 8640)
    assert adder.bytes_moved == shift.bytes_moved == 4 * (8 * 63 + 432 + 6 * 20)


@pytest.mark.parametrize(
    ("operator", "settings", "message"),
    [
        ("adder2d", {"out_channels": 4, "padding": "valid"}, "'same' is allowed"),
        ("adder2d", {"out_channels": 4, "kernel_size": 11}, "does not fit"),
        ("shift_conv2d", {"out_channels": 4, "groups": 3}, "cannot be split"),
        ("shift_conv2d", {"out_channels": 4, "bits": 1}, "at least 2"),
    ],
)
def test_what_does_not_fit_is_refused(operator: str, settings: dict, message: str) -> None:
    g = GraphBuilder(IMAGE)
    with pytest.raises(GraphError, match=message):
        g.add(operator, g.input, **settings)


def small(operator: str) -> Graph:
    """A stem that multiplies, two layers that do not, a classifier: the first and the last stay ordinary."""
    g = GraphBuilder((3, 8, 8))
    x = g.add("conv_bn_act", g.input, out_channels=8)
    for _ in range(2):
        x = g.add(operator, x, out_channels=8, kernel_size=3, padding="same")
        x = g.add("activation", g.add("batch_norm", x))
    return g.build(g.add("classifier", x, classes=4))


def test_weights_that_do_not_learn_leave_the_input_its_gradient() -> None:
    x = random(1, 2, 4, 4).requires_grad_()
    result = function(FunctionalAdder2d().expression("x0", "x1"), 2)(x, random(1, 3, 2, 1, 1, seed=1))
    (of_x,) = torch.autograd.grad(result.sum(), x)
    assert of_x.abs().max() <= 3


def loss_falls(operator: str, make_optimizer: Callable[..., torch.optim.Optimizer]) -> bool:
    """Whether a few steps halve the loss on images whose brightest channel is the class."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Network(small(operator))
    labels = torch.arange(30) % 3
    images = random(30, 3, 8, 8)
    images[range(30), labels] += 1.0
    optimizer = make_optimizer(network.parameters())
    losses = []
    for _ in range(25):
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses[-1] < 0.5 * losses[0]

"""Each score against arithmetic by hand or a few lines of NumPy, and the network untouched afterwards."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from predictors.zerocost import Probe, noise_batch, register_score, scores, untrained, zero_cost
from predictors.zerocost.codes import Codes, repetitions
from search_spaces import GraphBuilder, Network, make_space
from search_spaces.errors import ConfigError, DataError

NAMES = ["grad_norm", "jacob_cov", "nwot", "snip", "synflow", "zico"]


def linear(*matrices: list[list[float]]) -> nn.Sequential:
    """Linear layers without biases, ReLU between."""
    layers: list[nn.Module] = []
    for rows in matrices:
        layer = nn.Linear(len(rows[0]), len(rows), bias=False)
        layer.weight.data = torch.tensor(rows)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def batch(images: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, 3, 8, 8, generator=generator), torch.randint(4, (images,), generator=generator)


class Convolutional(nn.Module):
    """A bit of everything: batch normalisation, dropout, biases, a functional ReLU, an unused layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.drop, self.second, self.unused = nn.Dropout(0.5), nn.Linear(6, 4), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.drop(F.relu(self.norm(self.first(x))).mean((2, 3))))


def value(name: str, network: nn.Module, images: Tensor, labels: Tensor) -> float:
    return zero_cost(network, images, labels, [name])[name].value


# ---- synflow -----------------------------------------------------------------------------------------------


def test_synflow_by_hand() -> None:
    network = linear([[1.0, -2.0], [0.5, 3.0]], [[-1.0, 4.0]])
    # |W1| 1 = (3, 3.5), R = 1 * 3 + 4 * 3.5 = 17; each of the two layers has sum |w| dR/d|w| = R
    images, labels = torch.zeros(2, 2), torch.zeros(2, dtype=torch.long)
    assert value("synflow", network, images, labels) == pytest.approx(math.log1p(34), rel=1e-12)


def test_synflow_leaves_normalisation_out_and_data_do_not_matter() -> None:
    plain = linear([[1.0, -2.0], [0.5, 3.0]], [[-1.0, 4.0]])
    normal = nn.Sequential(plain[0], nn.BatchNorm1d(2), plain[1], nn.LayerNorm(2), plain[2])
    normal[1].weight.data.fill_(7.0)
    labels = torch.zeros(4, dtype=torch.long)
    assert value("synflow", normal, torch.randn(4, 2), labels) == value("synflow", plain, torch.ones(4, 2), labels)
    assert "forward" not in vars(normal[1])


def test_synflow_holds_where_single_precision_overflows() -> None:
    deep = linear(*[[[100.0] * 4] * 4] * 20)
    found = value("synflow", deep, torch.zeros(2, 4), torch.zeros(2, dtype=torch.long))
    assert found == pytest.approx(math.log(20 * 4 * 400.0**20), rel=1e-9)


# ---- nwot --------------------------------------------------------------------------------------------------


def test_nwot_by_hand() -> None:
    network = linear([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [[1.0, 1.0, 1.0]])
    images = torch.tensor([[1.0, 1.0], [1.0, -2.0], [-1.0, -1.0]])
    # codes 111, 100, 000: agreements 3 on the diagonal, 1 and 0 and 2 beside it
    kernel = np.array([[3, 1, 0], [1, 3, 2], [0, 2, 3]])
    labels = torch.zeros(3, dtype=torch.long)
    assert value("nwot", network, images, labels) == pytest.approx(math.log(np.linalg.det(kernel)), rel=1e-12)


def test_nwot_of_equal_images_or_without_rectifiers_is_minus_infinity() -> None:
    labels = torch.zeros(2, dtype=torch.long)
    assert value("nwot", linear([[1.0]], [[1.0]]), torch.ones(2, 1), labels) == -math.inf
    assert value("nwot", linear([[1.0]]), torch.tensor([[1.0], [-1.0]]), labels) == -math.inf


RECTIFIERS = [
    nn.ReLU(),
    nn.ReLU(inplace=True),
    nn.ReLU6(),
    nn.LeakyReLU(0.1, inplace=True),
    nn.PReLU(),
    nn.ELU(),
    nn.SELU(),
    nn.CELU(),
    nn.SiLU(inplace=True),
    nn.GELU(),
    nn.Hardswish(),
    nn.Mish(),
]


@pytest.mark.parametrize("rectifier", RECTIFIERS, ids=repr)
@pytest.mark.parametrize("shape", [(5, 7), (5, 3, 4, 4), (5, 6, 4)])
@pytest.mark.parametrize("graph", [False, True])
def test_codes_of_every_rectifier(rectifier: nn.Module, shape: tuple[int, ...], graph: bool) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    x = x.requires_grad_(graph)
    codes = Codes(5)
    with torch.set_grad_enabled(graph), codes:
        rectifier(x.clone())
        rectifier(x.contiguous(memory_format=torch.channels_last).clone() if x.ndim == 4 else x.clone())
    fires = (x > 0).flatten(1).numpy()
    expected = 2 * (fires[:, None] == fires[None]).sum(-1)
    np.testing.assert_array_equal(codes.agreement().numpy(), expected)


@pytest.mark.parametrize("gate", [nn.Sigmoid(), nn.Tanh(), nn.Hardtanh(), nn.Hardsigmoid(), nn.Softplus()], ids=repr)
def test_gates_have_no_codes(gate: nn.Module) -> None:
    codes = Codes(3)
    with torch.no_grad(), codes:
        gate(torch.randn(3, 4))
    assert not codes.agreement().any()


def test_a_rectifier_that_runs_once_for_three_layers_counts_three_times() -> None:
    g = GraphBuilder((2, 4, 4))
    parts = [g.add("relu_conv_bn", g.add("identity", g.input), out_channels=2) for _ in range(3)]
    graph = g.build(g.add("classifier", g.add("add", *parts), classes=4))
    times = repetitions(graph)
    assert sorted(times[n.name] for n in graph.simplify().nodes if n.operator == "activation") == [3]
    network, images = Network(graph), torch.randn(4, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    fires = (images > 0).flatten(1).double()
    kernel = 3 * (fires @ fires.T + (1 - fires) @ (1 - fires).T)
    plan = network._plan
    assert value("nwot", network, images, torch.zeros(4, dtype=torch.long)) == pytest.approx(
        float(torch.linalg.slogdet(kernel)[1]), rel=1e-12
    )
    assert network._plan is plan
    inside = nn.Sequential(nn.Identity(), network)
    assert value("nwot", inside, images, torch.zeros(4, dtype=torch.long)) == pytest.approx(
        float(torch.linalg.slogdet(kernel)[1]), rel=1e-12
    )


def test_nwot_of_a_cell_is_that_of_layers_written_out() -> None:
    space = make_space("nasbench201", {"input_shape": [3, 8, 8], "channels": 4, "cells": 1, "stages": 1})
    cell = space.architecture(
        edge01="nor_conv_3x3", edge02="nor_conv_1x1", edge13="skip_connect", edge23="nor_conv_3x3"
    )
    network, (images, labels) = untrained(space, cell), noise_batch(space, 6)
    seen: list[Tensor] = []

    def layer(x: Tensor, name: str) -> Tensor:
        seen.append(x)
        part = network.get_submodule(f"stage0.cell0.{name}")
        return part.bn(part.conv(torch.relu(x)))

    with torch.no_grad():
        x = network.stem.bn(network.stem.conv(images))
        first, second = layer(x, "edge01.nor_conv_3x3"), layer(x, "edge02.nor_conv_1x1")
        seen.append(network.head.bn(first + layer(second, "edge23.nor_conv_3x3")))
    fires = torch.cat([(s > 0).flatten(1) for s in seen], 1).double()
    kernel = fires @ fires.T + (1 - fires) @ (1 - fires).T
    assert value("nwot", network, images, labels) == pytest.approx(float(torch.linalg.slogdet(kernel)[1]), rel=1e-9)


# ---- gradients ---------------------------------------------------------------------------------------------


def test_snip_and_grad_norm_by_hand() -> None:
    network = linear([[1.0, -1.0], [2.0, 0.5]])
    images, labels = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([0, 1])
    logits = np.array([[-1.0, 3.0], [-1.0, 0.5]])
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    gradient = (probabilities - np.eye(2)).T @ images.numpy() / 2
    assert value("grad_norm", network, images, labels) == pytest.approx(np.linalg.norm(gradient), rel=1e-6)
    weights = np.array([[1.0, -1.0], [2.0, 0.5]])
    assert value("snip", network, images, labels) == pytest.approx(np.abs(weights * gradient).sum(), rel=1e-6)


def autograd_by_hand(network: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Gradients of a copy whose normalisations train and whose dropout does not."""
    mine = copy.deepcopy(network).eval()
    mine.norm.train()
    F.cross_entropy(mine(images), labels).backward()
    return {"first": mine.first.weight.grad, "second": mine.second.weight.grad}


def test_snip_grad_norm_and_zico_of_a_module() -> None:
    network, (images, labels) = Convolutional(), batch()
    whole = autograd_by_hand(network, images, labels)
    assert value("grad_norm", network, images, labels) == pytest.approx(
        sum(float(g.norm()) for g in whole.values()), rel=1e-4
    )
    expected = sum(float((getattr(network, n).weight.detach() * g).abs().sum()) for n, g in whole.items())
    assert value("snip", network, images, labels) == pytest.approx(expected, rel=1e-4)
    parts = [autograd_by_hand(network, images[s], labels[s]) for s in (slice(0, 4), slice(4, 8))]
    total = 0.0
    for name in whole:
        g = np.stack([part[name].numpy().astype(np.float64) for part in parts])
        total += np.log((np.abs(g).mean(0) / g.std(0)).sum())
    assert value("zico", network, images, labels) == pytest.approx(total, rel=0.02)  # small deviations magnify rounding


def test_jacob_cov_against_numpy() -> None:
    network, (images, labels) = Convolutional(), batch()
    mine = copy.deepcopy(network).eval()
    mine.norm.train()
    inputs = images.clone().requires_grad_()
    mine(inputs).sum().backward()
    values = np.linalg.eigvalsh(np.corrcoef(inputs.grad.flatten(1).numpy().astype(np.float64)))
    values = np.maximum(values, 0) + 1e-5
    expected = -np.sum(np.log(values) + 1 / values)
    assert value("jacob_cov", network, images, labels) == pytest.approx(expected, rel=1e-2)


# ---- all scores --------------------------------------------------------------------------------------------


def state(network: nn.Module) -> tuple[dict[str, Tensor], list[bool], list[Tensor | None], list[object]]:
    return (
        {k: v.clone() for k, v in network.state_dict().items()},
        [m.training for m in network.modules()],
        [None if p.grad is None else p.grad.clone() for p in network.parameters()],
        [(dict(vars(m)), len(m._forward_hooks), len(m._forward_pre_hooks)) for m in network.modules()],
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [False, True])
def test_the_network_is_untouched(name: str, training: bool) -> None:
    network, (images, labels) = Convolutional().train(training), batch()
    network.drop.eval()
    network.second.bias.requires_grad_(False)
    network(images).sum().backward()
    weights, modes, grads, parts = state(network)
    random, given = torch.get_rng_state(), images.clone()
    zero_cost(network, images, labels, [name])
    after = state(network)
    assert all(torch.equal(weights[k], after[0][k]) and weights[k].dtype == after[0][k].dtype for k in weights)
    assert after[1] == modes
    assert all((a is None and b is None) or torch.equal(a, b) for a, b in zip(grads, after[2], strict=True))
    assert [(v.keys(), *h) for v, *h in parts] == [(v.keys(), *h) for v, *h in after[3]]
    assert torch.equal(random, torch.get_rng_state())
    assert torch.equal(given, images)
    assert not images.requires_grad
    assert not network.second.bias.requires_grad


def test_the_network_is_untouched_after_an_error() -> None:
    class Broken(Convolutional):
        def forward(self, x: Tensor) -> Tensor:
            super().forward(x)
            raise RuntimeError("broken")

    network, (images, labels) = Broken(), batch()
    before = state(network)
    for name in NAMES:
        with pytest.raises(RuntimeError, match="broken"):
            zero_cost(network, images, labels, [name])
    after = state(network)
    assert after[1] == before[1]
    assert all("forward" not in vars(m) for m in network.modules())


@pytest.mark.parametrize("space", ["nasbench201", "mobile"])
def test_together_alone_and_twice_alike(space: str) -> None:
    small = make_space(space, {"input_shape": [3, 16, 16]})
    network = untrained(small, small.sample(np.random.default_rng(1)))
    images, labels = noise_batch(small, 8)
    together = zero_cost(network, images, labels, NAMES)
    assert list(together) == NAMES
    assert all(s.seconds > 0 and math.isfinite(s.value) for s in together.values())
    again = zero_cost(network, images, labels, NAMES)
    for name in NAMES:
        assert again[name].value == together[name].value
        assert value(name, network, images, labels) == pytest.approx(together[name].value, rel=1e-6)


def test_scores_are_taken_where_gradients_are_off() -> None:
    network, (images, labels) = Convolutional(), batch()
    expected = zero_cost(network, images, labels, NAMES)
    with torch.no_grad():
        found = zero_cost(network, images, labels, NAMES)
    assert {n: s.value for n, s in found.items()} == {n: s.value for n, s in expected.items()}


def test_a_disconnected_network() -> None:
    space = make_space("nasbench201", {"input_shape": [3, 8, 8], "channels": 4, "cells": 1})
    found = zero_cost(untrained(space, space.architecture()), *noise_batch(space, 8), NAMES)
    assert found["synflow"].value == found["snip"].value == found["grad_norm"].value == 0
    assert not any(math.isfinite(found[n].value) for n in ("nwot", "jacob_cov", "zico"))


def test_shared_passes_count_for_each_score() -> None:
    network, (images, labels) = Convolutional(), batch(64)
    found = zero_cost(network, images, labels, ["snip", "grad_norm"])
    assert found["grad_norm"].seconds > 0.5 * found["snip"].seconds


def test_a_score_of_a_user() -> None:
    assert set(NAMES) <= set(scores.names())

    @register_score("weights_for_test")
    def weights(probe: Probe) -> float:
        return float(sum(probe.parameters[n].numel() for n in probe.weights))

    try:
        assert value("weights_for_test", Convolutional(), *batch()) == 6 * 27 + 24 + 4
    finally:
        del scores._entries["weights_for_test"]


# ---- errors ------------------------------------------------------------------------------------------------


class Pair(Convolutional):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().forward(x), x


IMAGES, LABELS = batch()
WRONG = [
    ((Convolutional(), IMAGES, LABELS, ["synflo"]), ConfigError, "did you mean 'synflow'"),
    ((Convolutional(), IMAGES[:1], LABELS[:1]), DataError, "give 2 or more"),
    ((Convolutional(), IMAGES[:3], LABELS[:3], ["zico"]), DataError, "give 4 or more"),
    ((Convolutional(), IMAGES, LABELS[:3]), DataError, "one integer each"),
    ((Convolutional(), IMAGES, LABELS.float()), DataError, "one integer each"),
    ((Convolutional(), IMAGES.byte(), LABELS), DataError, "give float tensors"),
    ((Convolutional(), IMAGES, LABELS - 9), DataError, "number the classes from 0"),
    ((Convolutional(), IMAGES, LABELS + 9, ["snip"]), DataError, "one logit for each image and class"),
    ((Pair(), IMAGES, LABELS), DataError, "one tensor of logits"),
]


@pytest.mark.parametrize(("given", "error", "text"), WRONG, ids=[w[2] for w in WRONG])
def test_errors_are_one_line(given: tuple, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        zero_cost(*given)
    assert "\n" not in str(caught.value)

"""LEAN on networks: the graph of channels, and the scores."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from nas_engine.compress.criteria import score
from nas_engine.compress.criteria.lean import Lean, OperatorNorm, kernel_l1, strongest
from nas_engine.compress.criteria.lean_graph import channel_graph, prunable
from nas_engine.compress.criteria.lean_norms import operator_norms
from search_spaces import Network, trace
from search_spaces.coupling import Gated, couple
from search_spaces.errors import ConfigError


class Small(nn.Module):
    """Kernels of all sorts: strided, grouped, transposed; pooling, a sum, a concat, a shortcut by padding."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.strided = nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False)
        self.grouped = nn.Conv2d(6, 6, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2)
        self.late = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 5, 3, padding=1)
        self.head = nn.Conv2d(5, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn(self.first(x)))
        y = self.strided(x)
        y = y + nn.functional.pad(nn.functional.avg_pool2d(x, 2), (0, 0, 0, 0, 1, 1))
        y = self.up(torch.relu(self.grouped(y)))
        return self.head(torch.relu(self.last(self.late(torch.cat([x, y], 1)))))


def gated(module: nn.Module, *shape: int) -> Gated:
    graph = trace(module.eval(), torch.zeros(1, *shape))
    network = Network(graph)
    network.load_state_dict(module.state_dict())
    return Gated(network.eval(), couple(graph))


@pytest.fixture
def small() -> Gated:
    torch.manual_seed(0)
    module = Small()
    for norm in (module.bn, module.late):
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return gated(module, 3, 8, 8)


def test_batch_norms_are_folded_and_heads_left_out(small: Gated) -> None:
    found = score(OperatorNorm(), small).kernels
    network = small.network
    assert {n: s.shape for n, s in found.items()} == {
        "first": (4, 3), "strided": (6, 4), "grouped": (6, 3), "up": (4, 6), "last": (5, 8),
    }  # fmt: skip
    scale = network.bn.weight / torch.sqrt(network.bn.running_var + network.bn.eps)
    folded = network.first.weight * scale[:, None, None, None]
    np.testing.assert_allclose(found["first"], operator_norms(folded.detach().numpy()), rtol=1e-5)
    np.testing.assert_allclose(found["strided"], operator_norms(network.strided.weight.detach().numpy(), 2), rtol=1e-6)
    turned = network.up.weight.detach().numpy().swapaxes(0, 1)
    np.testing.assert_allclose(found["up"], operator_norms(turned, 2), rtol=1e-6)
    assert "head" in score(OperatorNorm(heads=True), small).kernels


def test_edges_lead_from_channel_to_channel(small: Gated) -> None:
    channels = channel_graph(small.coupling.graph, small.network)
    layers = channels.layers
    assert len(layers) == 8
    by_size = {(s.offset is None, s.logs.shape): s for s in layers}
    assert by_size[True, (4, 1)].logs[0, 0] == pytest.approx(math.log(0.5))  # averages of 2x2 with stride 2
    add, norm = by_size[True, (6, 2)], by_size[True, (8, 1)]
    pooled, convolved = by_size[True, (4, 1)].first, channels.layers[1].first
    assert add.logs.tolist() == [[0.0, 0.0]] * 6
    assert {convolved, pooled} <= {s.first for s in layers}
    assert [int(s) - pooled for s in add.sources[1:5, 1]] == [0, 1, 2, 3]  # padding has channels of its own around
    scale = small.network.late.weight / torch.sqrt(small.network.late.running_var + small.network.late.eps)
    np.testing.assert_allclose(np.exp(norm.logs[:, 0]), scale.detach().numpy(), rtol=1e-6)
    assert norm.sources[:4, 0].tolist() == list(range(layers[0].first, layers[0].first + 4))
    assert all((s.sources < s.first).all() for s in layers)


def test_the_top_share_of_scores_is_what_a_quota_takes(small: Gated) -> None:
    lean = Lean()
    scores = score(lean, small).kernels
    channels = channel_graph(small.coupling.graph, small.network).scaled("network")
    assert sorted(np.concatenate([s.ravel() for s in scores.values()]).tolist()) == pytest.approx(
        (np.arange(channels.kernels) + 1) / channels.kernels
    )
    for quota in (1, 7, 20, 60):
        mask = np.zeros(channels.kernels, dtype=bool)
        mask[channels.extract(quota).order] = True
        expected, found = channels.parts(mask), strongest(scores, quota)
        assert all((found[name] == expected[name]).all() for name in expected)
    assert lean.extraction is not None
    assert lean.extraction.chained > lean.extraction.chains  # some chains have several kernels


def test_units_are_as_good_as_the_best_kernel_that_leads_to_them(small: Gated) -> None:
    scores = score(Lean(), small)
    coupling = small.coupling
    assert scores.units is not None
    assert scores.units.shape == (coupling.count,)
    group = next(g for g in coupling.groups if g.makers == ("last",))
    np.testing.assert_array_equal(scores.units[group.units], scores.kernels["last"].max(1))
    shared = next(g for g in coupling.groups if "strided" in g.makers)
    rows = coupling.values["strided"][0]
    assert rows is not None
    for unit in shared.units.tolist():
        assert scores.units[unit] == scores.kernels["strided"][rows == unit].max()


def test_a_share_changes_only_what_comes_after_it(small: Gated) -> None:
    full = score(Lean(scale="layer"), small).kernels
    some = score(Lean(scale="layer", share=0.3), small).kernels
    count = math.ceil(0.3 * sum(s.size for s in full.values()))
    a, b = strongest(full, count), strongest(some, count)
    assert all((a[n] == b[n]).all() for n in a)


def test_without_chains_above_one_the_order_is_that_of_norms(small: Gated) -> None:
    with torch.no_grad():
        for parameter in small.network.parameters():
            parameter.mul_(0.01)
    lean = Lean(scale="none")
    chosen, norms = score(lean, small).kernels, score(OperatorNorm(), small).kernels
    assert lean.extraction is not None
    assert lean.extraction.chained == 0
    for count in (3, 30):
        a, b = strongest(chosen, count), strongest(norms, count)
        assert all((a[n] == b[n]).all() for n in a)


def test_a_chain_wins_over_a_stronger_kernel_that_leads_nowhere() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(2, 2, 1, bias=False), nn.Conv2d(2, 1, 1))
    with torch.no_grad():
        module[0].weight[:] = torch.tensor([2.0, 3.0]).reshape(2, 1, 1, 1)
        module[1].weight[:] = torch.tensor([[4.0, 0.1], [0.0, 0.1]]).reshape(2, 2, 1, 1)
    net = gated(module, 1, 4, 4)
    lean, norm = (strongest(score(c, net).kernels, 2) for c in (Lean(scale="none"), OperatorNorm()))
    assert [m.tolist() for m in lean.values()] == [[[True], [False]], [[True, False], [False, False]]]
    assert [m.tolist() for m in norm.values()] == [[[False], [True]], [[True, False], [False, False]]]


def test_classifiers_have_chains_up_to_their_linear_layers() -> None:
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(24, 3)
    )
    net = gated(module, 1, 10, 10)
    assert [n.name for n in prunable(net.coupling.graph)] == ["0", "3"]
    assert {n: s.shape for n, s in score(Lean(), net).kernels.items()} == {"0": (4, 1), "3": (6, 4)}
    assert score(Lean(), net).units is not None  # no linear layer makes units here
    assert score(Lean(), gated(nn.Sequential(*module, nn.Linear(3, 2)), 1, 10, 10)).units is None


def test_a_module_called_twice_is_not_judged() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again, self.head = (nn.Conv2d(a, b, 1) for a, b in ((1, 3), (3, 3), (3, 2)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.again(self.again(self.first(x))))

    net = gated(Twice(), 1, 4, 4)
    assert [n.name for n in prunable(net.coupling.graph)] == ["first"]


def test_l1_of_kernels(small: Gated) -> None:
    found = kernel_l1(small.coupling.graph, small.network)
    weight = small.network.up.weight.detach().abs().sum((2, 3)).T
    np.testing.assert_allclose(found["up"], weight.numpy(), rtol=1e-6)
    assert found["grouped"].shape == (6, 3)


def test_says_what_is_allowed(small: Gated) -> None:
    with pytest.raises(ConfigError, match="share 0"):
        Lean(share=0)
    with pytest.raises(ConfigError, match=r"unknown scale 'networks': did you mean 'network'"):
        score(Lean(scale="networks"), small)
    with pytest.raises(ConfigError, match="0 to 4 are allowed"):
        strongest({"a": np.ones((2, 2))}, 5)

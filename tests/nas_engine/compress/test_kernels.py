"""Kernel masks, clean-up, and networks without dead channels."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nas_engine.compress.criteria.lean_graph import prunable
from nas_engine.compress.kernels import bake, clean_up, geometric_quotas, mask_kernels, remove_dead
from search_spaces import Network, trace
from search_spaces.coupling import Coupling, couple
from search_spaces.errors import ConfigError

Masks = dict[str, np.ndarray]


class UNet(nn.Module):
    """Two levels with a skip, a sum, a grouped and a transposed convolution; biases and batch norms all over."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12), nn.ReLU())
        self.branch = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1, groups=2), nn.BatchNorm2d(12))
        self.up = nn.ConvTranspose2d(12, 8, 2, stride=2)
        self.last = nn.Sequential(nn.Conv2d(16, 10, 3, padding=1), nn.BatchNorm2d(10), nn.Hardswish())
        self.head = nn.Conv2d(10, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        y = self.deep(x)
        y = torch.relu(y + self.branch(y))
        return self.head(self.last(torch.cat([x, self.up(y)], 1)))


class Classifier(nn.Module):
    """Depthwise convolution, a gate by a sigmoid, and a linear layer on flattened maps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 3, padding=1)
        self.depthwise = nn.Conv2d(10, 10, 3, padding=1, groups=10)
        self.bn = nn.BatchNorm2d(10)
        self.point = nn.Conv2d(10, 9, 1)
        self.gate = nn.Conv2d(9, 9, 1)
        self.fc = nn.Linear(9 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.depthwise(torch.relu(self.stem(x)))))
        x = nn.functional.max_pool2d(torch.relu(self.point(x)), 4)
        return self.fc((x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))).flatten(1))


def prepared(module: nn.Module, seed: int = 0) -> tuple[Network, Coupling]:
    """The network of a module with random statistics and biases, and its coupling."""
    torch.manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.weight, part.running_var):
                nn.init.uniform_(tensor, 0.5, 2)
            for tensor in (part.bias, part.running_mean):
                nn.init.normal_(tensor)
    graph = trace(module.eval(), torch.zeros(1, 3, 8, 8))
    network = Network(graph)
    network.load_state_dict(module.state_dict())
    return network.eval(), couple(graph)


def random_masks(coupling: Coupling, share: float, seed: int) -> Masks:
    rng = np.random.default_rng(seed)
    shapes = {
        n.name: (n.shape[0], n.signature.inputs[0][0] // n.attributes["groups"]) for n in prunable(coupling.graph)
    }
    return {name: rng.random(shape) < share for name, shape in shapes.items()}


INPUTS = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("make", [UNet, Classifier])
@pytest.mark.parametrize(("share", "seed"), [(0.3, 0), (0.15, 1), (0.08, 2), (0.05, 3)])
def test_the_smaller_network_gives_what_the_masked_one_gives(make: type[nn.Module], share: float, seed: int) -> None:
    network, coupling = prepared(make())
    cleaned = clean_up(coupling, random_masks(coupling, share, seed))
    mask_kernels(network, coupling.graph, cleaned.masks, cleaned.dead)
    small = remove_dead(network, coupling, cleaned)
    with torch.no_grad():
        expected, found = network(INPUTS), small.surgery.network(INPUTS)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert sum(p.numel() for p in small.surgery.network.parameters()) < sum(p.numel() for p in network.parameters())
    assert sum(int(m.sum()) for m in small.masks.values()) == cleaned.kernels


@pytest.mark.parametrize("make", [UNet, Classifier])
def test_masks_of_the_smaller_network_change_nothing_and_hold_through_training(make: type[nn.Module]) -> None:
    network, coupling = prepared(make())
    cleaned = clean_up(coupling, random_masks(coupling, 0.2, 4))
    mask_kernels(network, coupling.graph, cleaned.masks, cleaned.dead)
    removed = remove_dead(network, coupling, cleaned)
    small, graph = removed.surgery.network, removed.surgery.network.graph
    again = clean_up(couple(graph), removed.masks)
    assert again.removed == 0
    expected = small(INPUTS).detach()
    mask_kernels(small, graph, again.masks, again.dead)
    torch.testing.assert_close(small(INPUTS), expected)
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        small.train()(INPUTS).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(
        remove_dead(small, couple(graph), again).surgery.network.eval()(INPUTS),
        small.eval()(INPUTS),
        rtol=1e-4,
        atol=1e-5,
    )


def test_dead_channels_stay_dead_in_training_though_sums_read_them() -> None:
    network, coupling = prepared(UNet())
    masks = random_masks(coupling, 1.0, 0)
    masks["branch.0"][3] = False
    cleaned = clean_up(coupling, masks)
    assert cleaned.removed == 0
    assert {n: np.flatnonzero(d).tolist() for n, d in cleaned.dead.items()} == {"branch.0": [3], "branch.1": [3]}
    assert cleaned.keep.all()  # the sum still has the channel of its other operand
    mask_kernels(network, coupling.graph, cleaned.masks, cleaned.dead)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        network.train()(INPUTS).square().mean().backward()
        optimizer.step()
    plain = bake(network).state_dict()
    for name in ("branch.0.weight", "branch.0.bias", "branch.1.weight", "branch.1.bias"):
        assert not plain[name][3].any()
        assert plain[name][2].any()


def test_clean_up_follows_kernels_both_ways() -> None:
    _, coupling = prepared(UNet())
    masks = random_masks(coupling, 1.0, 0)
    masks["down.0"][2] = False  # nothing leads to channel 2: its readers go
    masks["last.0"][:, 8:] = False  # nothing reads what comes up: all that makes it goes
    cleaned = clean_up(coupling, masks)
    assert not cleaned.masks["last.0"][:, 2].any()
    assert not cleaned.masks["deep.0"].any()
    assert not cleaned.masks["branch.0"].any()
    assert not cleaned.masks["up"].any()
    assert cleaned.masks["down.0"].sum() == 7 * 3
    assert cleaned.masks["last.0"].sum() == 7 * 10
    assert cleaned.removed == 12 * 8 + 12 * 6 + 8 * 12 + 10
    kept = {group.name: int(cleaned.keep[group.units].sum()) for group in coupling.groups}
    assert {n: k for n, k in kept.items() if n in ("down.0", "deep.0", "up")} == {"down.0": 7, "deep.0": 1, "up": 1}
    assert clean_up(coupling, cleaned.masks).removed == 0


def test_a_function_that_makes_something_of_zero_keeps_channels_alive() -> None:
    network, coupling = prepared(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sigmoid(), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1))
    )
    masks = random_masks(coupling, 1.0, 0)
    masks["0"][1] = False
    cleaned = clean_up(coupling, masks)
    assert cleaned.removed == 0
    mask_kernels(network, coupling.graph, cleaned.masks, cleaned.dead)
    torch.testing.assert_close(remove_dead(network, coupling, cleaned).surgery.network(INPUTS), network(INPUTS))


def test_nothing_dies_of_a_relu_on_maps_of_one_pixel() -> None:
    wide = nn.Sequential(
        nn.Conv2d(3, 300, 8), nn.ReLU(), nn.Conv2d(300, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2)
    )
    _, coupling = prepared(wide)
    masks = random_masks(coupling, 1.0, 0)
    masks["0"][0] = False
    cleaned = clean_up(coupling, masks)
    assert cleaned.removed == 4
    assert cleaned.keep.sum() == coupling.count - 1


def test_channels_that_a_shortcut_pads_die_with_their_branch() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.branch, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1), nn.Conv2d(6, 2, 1)
            self.last = nn.Conv2d(2, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.last(self.head(torch.relu(self.branch(x) + nn.functional.pad(x, (0, 0, 0, 0, 1, 1)))))

    network, coupling = prepared(Padded())
    masks = random_masks(coupling, 1.0, 0)
    masks["branch"][[0, 2]] = False  # the first is zero then, the third still has the shortcut
    cleaned = clean_up(coupling, masks)
    assert cleaned.removed == 2
    assert (~cleaned.masks["head"]).any(0).tolist() == [True, False, False, False, False, False]
    mask_kernels(network, coupling.graph, cleaned.masks, cleaned.dead)
    torch.testing.assert_close(remove_dead(network, coupling, cleaned).surgery.network(INPUTS), network(INPUTS))


def test_constant_channels_count_as_dead_below_a_variance() -> None:
    network, coupling = prepared(UNet())
    network.get_submodule("down.1").running_var[5] = 1e-12
    masks = random_masks(coupling, 1.0, 0)
    assert clean_up(coupling, masks, network, variance=1e-13).removed == 0
    cleaned = clean_up(coupling, masks, network, variance=1e-10)
    assert cleaned.removed == 3 + 12 + 10
    mask_kernels(network, coupling.graph, cleaned.masks, cleaned.dead)
    small = remove_dead(network, coupling, cleaned).surgery.network
    torch.testing.assert_close(small(INPUTS), network(INPUTS), rtol=1e-5, atol=1e-6)


def test_new_masks_replace_old_ones_and_baking_gives_plain_weights() -> None:
    network, coupling = prepared(UNet())
    before = {k: v.clone() for k, v in network.state_dict().items()}
    whole = random_masks(coupling, 1.0, 0)
    mask_kernels(
        network, coupling.graph, *(lambda c: (c.masks, c.dead))(clean_up(coupling, random_masks(coupling, 0.2, 5)))
    )
    assert set(network.state_dict()) != set(before)
    mask_kernels(network, coupling.graph, whole)
    after = bake(network).state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(after[k], before[k]) for k in before)


def test_a_network_with_masks_is_saved_and_loaded() -> None:
    network, coupling = prepared(UNet())
    cleaned = clean_up(coupling, random_masks(coupling, 0.3, 6))
    mask_kernels(network, coupling.graph, cleaned.masks, cleaned.dead)
    other, _ = prepared(UNet(), seed=1)
    mask_kernels(other, coupling.graph, random_masks(coupling, 1.0, 0), cleaned.dead)
    other.load_state_dict(network.state_dict())
    torch.testing.assert_close(other(INPUTS), network(INPUTS))


def test_quotas_fall_by_the_same_share() -> None:
    assert geometric_quotas(10_000, 0.05, 15)[-1] == 500
    assert geometric_quotas(3, 0.01, 2)[-1] == 1
    with pytest.raises(ConfigError, match="0 steps"):
        geometric_quotas(10, 0.5, 0)


def test_says_which_mask_does_not_fit() -> None:
    _, coupling = prepared(UNet())
    with pytest.raises(ConfigError, match=r"no convolution 'head' whose kernels may be cut"):
        clean_up(coupling, {"head": np.ones((4, 10), dtype=bool)})
    with pytest.raises(ConfigError, match=r"mask of 'up' is bool of shape \(12, 8\)"):
        clean_up(coupling, {"up": np.ones((12, 8), dtype=bool)})

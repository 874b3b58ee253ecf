"""Cuts of a network as a space: the contract of spaces, what choices mean, and whose weights members run on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from nas_engine.testing import SpaceContract
from search_spaces import SearchSpace, SpaceError, Supernet, make_space
from search_spaces.coupling import operate
from search_spaces.coupling.order import falling, parts, reorder
from search_spaces.errors import ConfigError, EngineError
from search_spaces.pruned import Pruned

_NETWORKS = '''
import torch
from torch import nn
import torch.nn.functional as F


class Residual(nn.Module):
    """A stem, a block that can go, a block with a shortcut of zeros, a head with a hidden layer."""

    def __init__(self, input_shape=(3, 8, 8), classes=10):
        super().__init__()
        self.stem, self.stem_bn = nn.Conv2d(input_shape[0], 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.a1, self.a1_bn = nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.a2, self.a2_bn = nn.Conv2d(12, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.b1, self.b1_bn = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16)
        self.b2, self.b2_bn = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.hidden, self.out = nn.Linear(16, 9), nn.Linear(9, classes)

    def forward(self, x):
        x = F.relu(self.stem_bn(self.stem(x)))
        x = F.relu(x + self.a2_bn(self.a2(F.relu(self.a1_bn(self.a1(x))))))
        y = self.b2_bn(self.b2(F.relu(self.b1_bn(self.b1(x)))))
        x = F.relu(y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)))
        return self.out(F.relu(self.hidden(x.mean((2, 3)))))


class Forked(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))


def flat(input_shape=(3, 8, 8), classes=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[0] * 64, classes))


class Unknown(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 8, 3), nn.Linear(8, classes)

    def forward(self, x):
        return self.out(torch.special.bessel_j0(self.conv(x)).mean((2, 3)))
'''


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("networks") / "networks.py"
    file.write_text(_NETWORKS)
    return file


@pytest.fixture(scope="module")
def space(networks: Path) -> Pruned:
    made = make_space("pruned", {"model": f"{networks}:Residual", "input_shape": (3, 8, 8)})
    assert isinstance(made, Pruned)
    return made


class TestContract(SpaceContract):
    space: ClassVar[SearchSpace]
    members = 24
    networks = 3
    slices = 3

    @pytest.fixture(scope="class", autouse=True)
    def _made(self, request: pytest.FixtureRequest, networks: Path) -> None:
        request.cls.space = make_space("pruned", {"model": f"{networks}:Residual", "input_shape": (3, 8, 8)})


def test_choices_are_the_groups_and_the_blocks(space: Pruned) -> None:
    choices = {c.name: c for c in space.choices}
    assert choices["a1.kept"].options == (False, True)
    assert choices["a1"].when == ("a1.kept", (True,))
    assert choices["hidden"].options == (0.25, 0.5, 0.75, 1.0)
    assert {"stem", "a1", "b1", "hidden"} <= set(choices)
    assert "b1.kept" not in choices  # its shortcut changes the shape
    assert "out" not in choices


def test_the_reference_is_the_whole_network(space: Pruned) -> None:
    assert space.graph(space.reference).cost == space.coupling.graph.cost
    assert space.reference.values["stem"] == 1.0
    assert list(space.envelope()) == [space.reference]


def test_members_keep_the_first_units(space: Pruned) -> None:
    member = space.architecture({**space.reference.values, "hidden": 0.25, "a1": 0.5})
    graph = space.graph(member)
    assert graph["hidden"].shape == (2,)  # a quarter of nine
    assert graph["a1"].shape[0] == 6
    (rows, columns) = space.slices(member)["a2.weight"][:2]
    assert columns is not None
    assert columns.tolist() == list(range(6))
    assert rows is None or rows.tolist() == list(range(8))


def test_a_block_that_is_gone_takes_its_choices_along(space: Pruned) -> None:
    member = space.architecture({**space.reference.values, "a1.kept": False})
    names = {n.name for n in space.graph(member).nodes}
    assert not names & {"a1", "a2", "a1_bn", "a2_bn"}
    assert space.without(member) == ("a1",)
    assert member.values["a1"] == 0.25  # rests
    kept = make_space("pruned", {"model": space.model, "input_shape": (3, 8, 8), "blocks": False})
    assert not [c for c in kept.choices if c.name.endswith(".kept")]


def test_members_run_on_the_weights_that_surgery_would_leave(space: Pruned) -> None:
    """Cutting the trained network by hand, in its own order, gives the member of the space."""
    torch.manual_seed(0)
    network = space.trained()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
            nn.init.uniform_(module.running_var, 0.5, 2)
    rng = np.random.default_rng(0)
    order = falling(space.coupling, rng.normal(size=space.coupling.count))
    supernet = Supernet(space)
    supernet.load_state_dict(reorder(network.state_dict(), space.coupling, order))
    supernet.eval()
    images = torch.randn(4, 3, 8, 8)
    for member in [space.reference, *(space.sample(rng) for _ in range(8))]:
        keep = np.zeros(space.coupling.count, dtype=bool)
        keep[order[space.keep(member)]] = True
        cut = operate(network, space.coupling, keep, space.without(member)).network
        with torch.no_grad():
            torch.testing.assert_close(supernet(images, member), cut(images), rtol=1e-5, atol=1e-5)


def test_strands_through_a_shortcut_of_zeros_move_together(space: Pruned) -> None:
    named = {part.name: part for part in parts(space.coupling)}
    assert {"stem", "b2/0", "b2/1"} <= set(named)
    scores = np.zeros(space.coupling.count)
    scores[named["stem"].units] = np.arange(8)
    order = falling(space.coupling, scores)
    assert order[named["stem"].units].tolist() == named["stem"].units[::-1].tolist()
    behind = next(p for p in (named["b2/0"], named["b2/1"]) if (order[p.units] != p.units).any())
    assert order[behind.units].tolist() == behind.units[::-1].tolist()


def test_samples_spread_over_all_sizes(space: Pruned) -> None:
    rng = np.random.default_rng(0)
    whole = space.graph(space.reference).cost.macs
    shares = np.array([space.graph(space.sample(rng)).cost.macs / whole for _ in range(400)])
    assert (shares < 0.25).mean() > 0.1
    assert (shares > 0.75).mean() > 0.1


@pytest.mark.parametrize(
    ("size", "ratios", "multiple", "kept"),
    [
        (16, (0.25, 0.5, 1.0), 1, {4: 0.25, 8: 0.5, 16: 1.0}),
        (3, (0.25, 0.5, 0.75, 1.0), 1, {1: 0.25, 2: 0.75, 3: 1.0}),  # a half and three quarters are both two heads
        (1, (0.25, 0.5, 1.0), 1, {1: 1.0}),
        (48, (0.3, 0.5, 1.0), 16, {16: 0.3, 32: 0.5, 48: 1.0}),
        (12, (0.3, 1.0), 8, {4: 0.3, 12: 1.0}),  # too narrow to be rounded
    ],
)
def test_options_are_the_counts_that_differ(
    size: int, ratios: tuple[float, ...], multiple: int, kept: dict[int, float]
) -> None:
    from search_spaces.pruned import _options

    assert _options(size, ratios, multiple) == kept


def test_widths_are_rounded_to_a_multiple(networks: Path) -> None:
    space = make_space("pruned", {"model": f"{networks}:Residual", "input_shape": (3, 8, 8), "multiple": 4})
    rng = np.random.default_rng(0)
    for _ in range(20):
        graph = space.graph(space.sample(rng))
        assert all(n.shape[0] % 4 == 0 for n in graph.nodes if n.operator == "conv2d")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"ratios": [0.5]}, r"ratios must hold 1\.0"),
        ({"ratios": [0.0, 1.0]}, "shares above 0 and up to 1"),
        ({"ratios": [0.5, 0.5, 1.0]}, "different shares"),
        ({"ratios": "half"}, "shares above 0"),
        ({"multiple": 0}, "multiple is a number of channels"),
        ({"images": True}, "images is a number of training images"),
        ({"settings": [1]}, "settings of a criterion are a mapping"),
        ({"input_shape": (35,)}, "cuts networks for images"),
        ({"model": "resnet21"}, "did you mean"),
        ({"model": "{file}:Forked"}, "Forked|data"),
        ({"model": "{file}:Unknown"}, "calls what no operator stands for"),
        ({"model": "{file}:flat"}, "nothing of model .* can be cut"),
        ({"model": "{file}:Nothing"}, "has no function 'Nothing'"),
        ({"rations": [1.0]}, "takes no 'rations': did you mean 'ratios'"),
    ],
)
def test_bad_input_is_one_line(networks: Path, parameters: dict[str, object], message: str) -> None:
    given = {"model": f"{networks}:Residual", "input_shape": (3, 8, 8), **parameters}
    given["model"] = str(given["model"]).replace("{file}", str(networks))
    with pytest.raises(EngineError, match=message) as told:
        make_space("pruned", given)
    assert "\n" not in str(told.value)


def test_a_bare_name_needs_weights() -> None:
    with pytest.raises(SpaceError, match="comes without trained weights"):
        make_space("pruned", {"model": "resnet20"}).trained()  # type: ignore[attr-defined]


def test_weights_of_another_architecture_are_refused(networks: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"stem.weight": torch.zeros(4, 3, 3, 3)}, tmp_path / "other.safetensors")
    given = {"model": f"{networks}:Residual", "input_shape": (3, 8, 8)}
    with pytest.raises(SpaceError, match="are not of"):
        make_space("pruned", {**given, "weights": str(tmp_path / "other.safetensors")}).trained()  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="there is no file of weights"):
        make_space("pruned", {**given, "weights": str(tmp_path / "none.safetensors")}).trained()  # type: ignore[attr-defined]


def test_the_reference_has_the_outputs_of_the_model(
    shared_file: Callable[[str], Path],
) -> None:
    from search_spaces.models import load_model

    weights = str(shared_file("resnet_cifar10_weights/resnet20.safetensors"))
    space = make_space("pruned", {"model": "resnet20", "weights": weights})
    assert isinstance(space, Pruned)
    assert space.graph(space.reference).cost.params == 269_722
    network, model = space.trained(), load_model("resnet20", weights=weights)
    rng = np.random.default_rng(0)
    order = falling(space.coupling, rng.normal(size=space.coupling.count))
    state = reorder(network.state_dict(), space.coupling, order)
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(images)
        torch.testing.assert_close(network(images), expected, rtol=1e-5, atol=1e-5)
        network.load_state_dict(state)
        torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-4)

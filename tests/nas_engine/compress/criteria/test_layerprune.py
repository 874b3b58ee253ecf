"""LayerPrune: means over blocks, imprinting, and errors that tell what to do."""

import numpy as np
import pytest
import torch
from torch import nn

from nas_engine.compress.criteria import Criterion, LayerPrune, Magnitude, Scores, Taylor, score
from nas_engine.compress.criteria.layerprune import embedding, inner_units
from search_spaces import Network, trace
from search_spaces.coupling import Gated, couple, operate
from search_spaces.errors import ConfigError, DataError


class Block(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, inner, 3, padding=1), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = nn.Conv2d(inner, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


class Residual(nn.Module):
    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(8, 4 + i) for i in range(blocks)))
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))


def gated(module: nn.Module) -> Gated:
    module.eval()
    graph = trace(module, torch.zeros(1, 1, 6, 6))
    network = Network(graph)
    network.load_state_dict(module.state_dict())
    return Gated(network.eval(), couple(graph))


@pytest.fixture
def residual() -> Gated:
    torch.manual_seed(0)
    return gated(Residual())


def batches(images: int = 120, size: int = 40) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    classes = torch.arange(images) % 3
    patterns = torch.randn(3, 1, 6, 6, generator=generator)
    noisy = patterns[classes] + torch.randn(images, 1, 6, 6, generator=generator)
    return list(zip(noisy.split(size), classes.split(size), strict=True))


def test_units_inside_blocks(residual: Gated) -> None:
    coupling = residual.coupling
    assert [len(units) for units in inner_units(coupling)] == [4, 5, 6]
    named = {g.name: g.units.tolist() for g in coupling.groups}
    assert [u.tolist() for u in inner_units(coupling)] == [named[f"blocks.{i}.conv1"] for i in range(3)]


def test_mean_of_a_criterion(residual: Gated) -> None:
    units = score(Taylor(), residual, batches()).units
    found = score(LayerPrune("taylor"), residual, batches())
    assert units is not None
    assert found.blocks is not None
    assert found.units is None
    assert found.blocks == pytest.approx([units[inside].mean() for inside in inner_units(residual.coupling)])
    with_settings = score(LayerPrune("taylor", {"form": "weight"}), residual, batches()).blocks
    assert with_settings is not None
    assert with_settings != pytest.approx(found.blocks)


def test_normalised_criteria_are_taken_raw(residual: Gated) -> None:
    units = score(Magnitude(normalise="none"), residual).units
    found = score(LayerPrune("magnitude"), residual).blocks
    assert units is not None
    assert found is not None
    assert found == pytest.approx([units[inside].mean() for inside in inner_units(residual.coupling)])
    assert np.ptp(found) > 0
    normalised = score(LayerPrune("magnitude", {"normalise": "mean"}), residual).blocks
    assert normalised == pytest.approx([1, 1, 1])


def test_needs_are_those_of_the_criterion() -> None:
    assert LayerPrune("magnitude").needs == {"weights"}
    assert not LayerPrune("magnitude").uses_data
    assert "labels" in LayerPrune("taylor").needs
    assert "labels" not in LayerPrune("chip").needs
    assert LayerPrune().needs == {"activations", "labels"}


def by_hand(before: torch.Tensor, classes: torch.Tensor, judges: torch.Tensor) -> float:
    """Accuracy of nearest normalised class means of the maps, all 6 x 6 x 8 numbers of them."""
    flat = before.flatten(1).double()
    means = torch.stack([flat[~judges & (classes == c)].mean(0) for c in range(3)])
    logits = flat[judges] @ (means / means.norm(dim=1, keepdim=True)).T
    return float((logits.argmax(1) == classes[judges]).double().mean())


def test_imprinting(residual: Gated) -> None:
    found = score(LayerPrune(), residual, batches()).blocks
    inputs, classes = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    judges = torch.arange(120) % 4 == 3
    blocks = residual.network.get_submodule
    with torch.no_grad():
        x = torch.relu(blocks("stem")(inputs))
        accuracy = [by_hand(x, classes, judges)]
        for i in range(3):
            inner = torch.relu(blocks(f"blocks.{i}.bn1")(blocks(f"blocks.{i}.conv1")(x)))
            x = torch.relu(x + blocks(f"blocks.{i}.bn2")(blocks(f"blocks.{i}.conv2")(inner)))
            accuracy.append(by_hand(x, classes, judges))
    assert np.ptp(accuracy) > 0
    assert found == pytest.approx(np.diff(accuracy))


def test_imprinting_does_not_depend_on_the_batches(residual: Gated) -> None:
    some = score(LayerPrune(), residual, batches(size=40)).blocks
    others = score(LayerPrune(), residual, batches(size=30)).blocks
    assert some == pytest.approx(others)


def test_a_block_that_does_nothing_adds_nothing() -> None:
    torch.manual_seed(0)
    module = Residual()
    for norm in (module.blocks[1].bn2,):
        nn.init.zeros_(norm.weight)
    through = gated(module)
    assert score(LayerPrune(), through, batches()).blocks[1] == 0  # type: ignore[index]
    inputs, _ = batches()[0]
    cut = operate(through.network, through.coupling, through.coupling.all(), ["blocks.1.conv1"]).network
    with torch.no_grad():
        torch.testing.assert_close(cut.eval()(inputs), through(inputs))


def test_removed_block_is_a_branch_of_zero(residual: Gated) -> None:
    inputs, _ = batches()[0]
    for i, block in enumerate(residual.coupling.blocks):
        dimmed = torch.ones(3)
        dimmed[i] = 0
        cut = operate(residual.network, residual.coupling, residual.coupling.all(), [block.name]).network.eval()
        with torch.no_grad():
            torch.testing.assert_close(cut(inputs), residual(inputs, blocks=dimmed), rtol=0, atol=1e-6)


def test_embeddings_have_about_512_features() -> None:
    assert embedding(torch.zeros(2, 16, 32, 32), (16, 32, 32)).shape == (2, 16 * 6 * 6)
    assert embedding(torch.zeros(2, 512, 4, 4), (512, 4, 4)).shape == (2, 512)
    assert embedding(torch.zeros(2, 2048, 4, 4), (2048, 4, 4)).shape == (2, 2048)
    assert embedding(torch.zeros(2, 197, 192), (197, 192)).shape == (2, 3 * 192)
    assert embedding(torch.zeros(2, 40), (40,)).shape == (2, 40)
    pooled = embedding(torch.arange(64.0).reshape(1, 1, 8, 8).expand(1, 32, 8, 8), (32, 8, 8))
    assert pooled.reshape(32, 4, 4)[0, 0].tolist() == [4.5, 6.5, 8.5, 10.5]


def test_class_that_is_not_imprinted_is_never_answered(residual: Gated) -> None:
    (inputs, classes), *_ = batches()
    judges = torch.arange(len(classes)) % 4 == 3
    classes = torch.where(judges, classes, classes % 2)
    found = score(LayerPrune(), residual, [(inputs, classes)]).blocks
    assert found is not None
    assert np.isfinite(found).all()


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


class Thin(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(x))
        return self.head((x + self.branch(x)).mean((2, 3)))


def test_networks_without_blocks_or_units_in_them() -> None:
    with pytest.raises(ConfigError, match="this network has none"):
        score(LayerPrune(), gated(Plain()), batches())
    with pytest.raises(ConfigError, match="block branch has no units inside"):
        score(LayerPrune("magnitude"), gated(Thin()))
    assert score(LayerPrune(), gated(Thin()), batches()).blocks is not None


def test_unusable_settings_and_data(residual: Gated) -> None:
    with pytest.raises(ConfigError, match="did you mean 'taylor'"):
        LayerPrune("tailor")
    with pytest.raises(ConfigError, match="knows no criterion 'layerprune'"):
        LayerPrune("layerprune")
    with pytest.raises(ConfigError, match="did you mean 'form'"):
        LayerPrune("taylor", {"forms": "gate"})
    with pytest.raises(ConfigError, match="no settings"):
        LayerPrune("imprint", {"d": 4})
    inputs, classes = batches()[0]
    with pytest.raises(DataError, match="4 images or more"):
        score(LayerPrune(), residual, [(inputs[:3], classes[:3])])
    with pytest.raises(DataError, match="one class for each image"):
        score(LayerPrune(), residual, [(inputs, torch.zeros(40, 6, 6, dtype=torch.long))])


def test_criteria_without_scores_of_units(residual: Gated) -> None:
    class Nothing(Criterion):
        name = "nothing"

        def finish(self) -> Scores:
            return Scores()

    from nas_engine.compress.criteria.layerprune import _Means

    means = _Means(Nothing())
    means.begin(residual)
    with pytest.raises(ConfigError, match="scores no units"):
        means.finish()

"""Which channels go together, against cases worked by hand and against Torch-Pruning."""

from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from search_spaces import GraphBuilder, Network, trace
from search_spaces.coupling import NONE, Coupling, couple

Made = Callable[..., tuple[Network, Coupling]]


def sizes(coupling: Coupling) -> dict[str, int]:
    return {group.name: len(group) for group in coupling.groups}


def test_streams_and_inner_channels_are_groups(shortcuts: tuple[Network, Coupling]) -> None:
    _, coupling = shortcuts
    assert sizes(coupling) == {"stem": 8, "a1": 8, "b1": 16, "b2": 16}
    stream = next(g for g in coupling.groups if g.name == "stem")
    assert stream.makers == ("stem", "a2")
    assert {e.node for e in coupling.edges if set(e.units) & set(stream.units)} == {"a1", "b1", "pad"}
    assert [(f.node, f.channels, f.reason) for f in coupling.frozen] == [("head", 5, "it is an output of the network")]


def test_units_lie_where_they_are_made_and_read(shortcuts: tuple[Network, Coupling]) -> None:
    _, coupling = shortcuts
    units = next(g for g in coupling.groups if g.name == "stem").units
    for name in ("stem.weight", "a2.weight", "na2.running_var", "norm.bias"):
        assert coupling.tensors[name][0].tolist() == units.tolist()
    for name in ("a1.weight", "b1.weight"):
        assert coupling.tensors[name][1].tolist() == units.tolist()
    assert "head.bias" not in coupling.tensors
    assert coupling.tensors["head.weight"][0].tolist() == [NONE] * 5


def test_flattened_images_are_read_in_blocks(made: Made) -> None:
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(3 * 4, 6), nn.ReLU(), nn.Linear(6, 2))
    _, coupling = made(module, torch.zeros(2, 1, 4, 4))
    assert coupling.tensors["2.weight"][1].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert sizes(coupling) == {"0": 3, "2": 6}


def test_depthwise_channels_follow_and_groups_share(made: Made) -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.Conv2d(8, 8, 3, groups=8),  # depthwise: the channels of the one before
        nn.Conv2d(8, 12, 1),
        nn.Conv2d(12, 12, 3, groups=2),  # few large groups: as many channels go in each
        nn.Conv2d(12, 8, 1),
        nn.Conv2d(8, 16, 1, groups=4),  # many small groups: whole ones go
        nn.Conv2d(16, 2, 1),
    )
    _, coupling = made(module, torch.zeros(2, 3, 8, 8))
    assert sizes(coupling) == {"0": 8, "2": 6, "3": 6, "4": 4}
    of_two = next(g for g in coupling.groups if g.name == "2")
    assert coupling.tensors["2.weight"][0].tolist() == [*of_two.units, *of_two.units]


def test_channels_joined_by_a_shuffle(made: Made) -> None:
    class Shuffled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.cat([self.a(x), self.b(x)], 1)
            y = y.view(-1, 2, 4, 6, 6).transpose(1, 2).reshape(-1, 8, 6, 6)
            return self.c(y)

    _, coupling = made(Shuffled(), torch.zeros(2, 3, 6, 6))
    assert sizes(coupling) == {"a": 4}  # the i-th of a and the i-th of b, or the view by halves would have holes
    assert coupling.tensors["b.weight"][0].tolist() == coupling.tensors["a.weight"][0].tolist()
    assert coupling.tensors["c.weight"][1].tolist() == np.repeat(coupling.tensors["a.weight"][0], 2).tolist()


def test_squeeze_and_excite_follows_its_channels(made: Made) -> None:
    timm = pytest.importorskip("timm")
    block = timm.layers.SqueezeExcite(16, rd_channels=4)
    module = nn.Sequential(nn.Conv2d(3, 16, 1), block, nn.Conv2d(16, 2, 1))
    _, coupling = made(module, torch.zeros(2, 3, 6, 6))
    assert sizes(coupling) == {"0": 16, "1.fc1": 4}
    assert next(g for g in coupling.groups if g.name == "0").makers == ("0", "1.fc2")


def test_heads_of_attention_are_units(made: Made) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=3)
    _, coupling = made(vit, torch.zeros(2, 3, 32, 32))
    assert sizes(coupling) == {"blocks.0.attn.qkv": 3, "blocks.0.mlp.fc1": 768}
    heads = coupling.tensors["blocks.0.attn.qkv.weight"][0]
    assert heads.tolist() == (np.arange(576) // 64 % 3).tolist()
    reasons = {f.node: f.reason for f in coupling.frozen}
    assert "normalises over channels" in reasons["patch_embed.proj"]


def test_what_cannot_be_cut_says_why() -> None:
    g = GraphBuilder((3, 8, 8))
    x = g.add("conv2d", g.input, name="a", out_channels=4)
    x = g.add("group_norm", x, name="norm", groups=2)
    x = g.add("conv2d", x, name="b", out_channels=4)
    y = g.add("conv2d", x, name="one", out_channels=1)
    z = g.add("conv2d", g.add("multiply", x, y, name="product"), name="out", out_channels=2)
    reasons = {f.node: f.reason for f in couple(g.build(z)).frozen}
    assert "'norm' normalises over channels" in reasons["a"]
    assert "'product' uses it for all channels" in reasons["one"]
    assert reasons["out"] == "it is an output of the network"


def test_a_layer_called_twice_ties_its_inputs(made: Made) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
            self.shared, self.out = nn.Conv2d(4, 6, 1), nn.Conv2d(12, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.cat([self.shared(self.a(x)), self.shared(self.b(x))], 1))

    _, coupling = made(Twice(), torch.zeros(2, 3, 4, 4))
    assert sizes(coupling) == {"a": 4, "shared": 6}
    assert coupling.tensors["a.weight"][0].tolist() == coupling.tensors["b.weight"][0].tolist()


def places(coupling: Coupling, unit: int) -> dict[tuple[str, int], set[int]]:
    """Where a unit lies in weights: (tensor, axis) to positions."""
    found = {}
    for name, axes in coupling.tensors.items():
        for axis, along in enumerate(axes):
            if name.endswith("weight") and along is not None and (along == unit).any():
                found[name.removesuffix(".weight"), axis] = set(np.flatnonzero(along == unit).tolist())
    return found


def oracle_places(module: nn.Module, example: Tensor, maker: str, channel: int) -> dict[tuple[str, int], set[int]]:
    """The same by Torch-Pruning."""
    tp = pytest.importorskip("torch_pruning")
    graph = tp.DependencyGraph().build_dependency(module, example)
    part = module.get_submodule(maker)
    names = {m: n for n, m in module.named_modules()}
    found: dict[tuple[str, int], set[int]] = defaultdict(set)
    for dependency, indices in graph.get_pruning_group(
        part, graph.get_pruner_of_module(part).prune_out_channels, [channel]
    ):
        target = dependency.target.module
        if target in names:
            depthwise = isinstance(target, nn.Conv2d) and target.groups > 1
            reads = dependency.handler.__name__ == "prune_in_channels" and not depthwise
            norm = isinstance(target, nn.BatchNorm2d)
            found[names[target], int(reads and not norm)] |= set(indices)
    return dict(found)


@pytest.mark.parametrize(
    "name",
    ["resnet18", "mobilenet_v2", "vgg11_bn", "efficientnet_b0", pytest.param("densenet121", marks=pytest.mark.slow)],
)
def test_groups_are_those_of_torch_pruning(name: str, made: Made) -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    module = torchvision.models.get_model(name, weights=None).eval()
    example = torch.zeros(2, 3, 64, 64)
    coupling = couple(trace(module, example))
    for group in coupling.groups[:: max(1, len(coupling.groups) // 12)]:
        unit = int(group.units[len(group) // 2])
        channel = int(np.flatnonzero(coupling.tensors[f"{group.makers[0]}.weight"][0] == unit)[0])
        assert places(coupling, unit) == oracle_places(module, example, group.makers[0], channel), group.name


def test_a_bias_for_each_head_keeps_the_heads(made: Made) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    vit = timm.create_model("tiny_vit_5m_224", num_classes=3)
    graph = trace(vit.eval(), torch.zeros(2, 3, 224, 224))
    heads = {n.inputs[0] for n in graph.nodes if n.operator == "scaled_dot_product_attention"}
    coupling = couple(graph)
    assert heads
    assert not any(v is not None for name in heads for v in coupling.values[name])


def test_standardised_weights_are_not_taken_apart(made: Made) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    coupling = couple(trace(timm.create_model("nfnet_l0", num_classes=3).eval(), torch.zeros(2, 3, 64, 64)))
    assert not any(name.endswith(".gain") for name in coupling.tensors)

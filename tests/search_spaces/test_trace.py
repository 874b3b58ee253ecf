"""From a module to its graph and back: outputs, weights, costs, and what cannot be named."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nas_engine.testing.measure import shake_statistics
from search_spaces import Graph, GraphError, Network, trace


def close_circle(module: nn.Module, *inputs: Tensor, source: bool = False, tolerance: float = 1e-5) -> Graph:
    """Trace on a batch of one, build from the JSON, load the weights, compare on the whole batch; returns the graph."""
    shake_statistics(module, torch.Generator().manual_seed(1))
    training = [m.training for m in module.modules()]
    state = {k: v.clone() for k, v in module.state_dict().items()}
    graph = trace(module, tuple(x[:1] for x in inputs))
    assert [m.training for m in module.modules()] == training
    assert all(torch.equal(v, state[k]) for k, v in module.state_dict().items())
    again = Graph.from_json(graph.to_json())
    assert again == graph
    assert again.to_json() == graph.to_json()
    assert graph.cost.params == sum(p.numel() for p in module.parameters())
    network = Network(again, source=module if source else None).eval()
    network.load_state_dict(module.state_dict())
    assert {k: v.shape for k, v in network.state_dict().items()} == {k: v.shape for k, v in state.items()}
    with torch.no_grad():
        expected, got = module.eval()(*[x.clone() for x in inputs]), network(*inputs)
    for one, other in zip(*((r if isinstance(r, tuple) else (r,)) for r in (expected, got)), strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= tolerance * one.abs().max()
    return graph


def torch_macs(module: nn.Module, *shapes: tuple[int, ...]) -> int:
    """MACs of one example as torch's FLOP counter sees them."""
    module = copy.deepcopy(module).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*(torch.empty(1, *s, device="meta") for s in shapes))
    return counter.get_total_flops() // 2


class Calls(nn.Module):
    """A module whose forward is a given function of it and the inputs; tensors become parameters."""

    def __init__(self, function: Callable[..., Any], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                self.add_module(name, part)
            elif part.is_floating_point():
                self.register_parameter(name, nn.Parameter(part))
            else:
                self.register_buffer(name, part)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


IMAGES = randn(3, 6, 8, 8)
TOKENS = randn(3, 5, 8)


# ---- whole networks ---------------------------------------------------------------------------------------

NETWORKS = {
    **dict.fromkeys(("resnet18", "resnet50", "mobilenetv2_100", "mobilenetv3_small_100", "mobilenetv3_large_100"), 64),
    **dict.fromkeys(("efficientnet_b0", "densenet121", "regnetx_002", "regnety_002", "convnext_atto"), 64),
    **dict.fromkeys(("tf_efficientnet_b0", "ghostnet_100", "nfnet_f0", "edgenext_xx_small"), 64),
    "vit_tiny_patch16_224": 224,
    "levit_128s": 224,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_timm_networks(name: str) -> None:
    module = timm.create_model(name)
    shape = (3, NETWORKS[name], NETWORKS[name])
    graph = close_circle(module, randn(2, *shape))
    assert graph.uncounted == ()
    assert graph.cost.macs == torch_macs(module, shape)
    assert {n.name for n in graph} & set(dict(module.named_modules()))


def torchvision_network(name: str) -> nn.Module:
    models = torchvision.models
    if name == "vit":
        return models.VisionTransformer(32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64)
    if name == "lraspp":  # gives a dictionary, whose values become the outputs
        inner = models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)
        return Calls(lambda m, x: tuple(m.inner(x).values()), inner=inner)
    return models.get_model(name, weights=None)


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "squeezenet1_1", "vit", "lraspp"])
def test_torchvision_networks(name: str) -> None:
    module, size = torchvision_network(name), 32 if name == "vit" else 64
    graph = close_circle(module, randn(2, 3, size, size))
    assert graph.uncounted == ()
    assert graph.cost.macs == torch_macs(module, (3, size, size))


class UNet(nn.Module):
    """Two levels down and up, with a transposed convolution, a resizing and concatenations."""

    def __init__(self) -> None:
        super().__init__()

        def block(channels: int, width: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True))

        self.down1, self.down2, self.bottom = block(3, 8), block(8, 16), block(16, 32)
        self.up2, self.up1 = nn.ConvTranspose2d(32, 16, 2, stride=2), nn.Conv2d(16, 8, 1)
        self.right2, self.right1, self.head = block(32, 16), block(16, 8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        x = self.bottom(F.max_pool2d(two, 2))
        x = self.right2(torch.cat([self.up2(x), two], dim=1))
        x = F.interpolate(self.up1(x), size=one.shape[-2:], mode="bilinear", align_corners=False)
        return self.head(self.right1(torch.cat((x, one), 1)))


def test_unet() -> None:
    module = UNet()
    graph = close_circle(module, randn(2, 3, 16, 16))
    assert graph["head"].shape == (4, 16, 16)
    assert graph["up2"].operator == "conv_transpose2d"
    assert graph.cost.macs == torch_macs(module, (3, 16, 16))


def test_a_module_without_memory() -> None:
    """On the meta device, where a network of any size can be costed."""
    with torch.device("meta"):
        module = timm.create_model("resnet18")
        graph = trace(module, torch.empty(1, 3, 224, 224))
    assert graph.cost.macs == torch_macs(module, (3, 224, 224)) == 1814073344
    assert graph.cost.params == 11689512


def test_a_traced_network_trains_as_its_source() -> None:
    module = timm.create_model("resnet18", num_classes=5).train()
    network = Network(trace(module, torch.zeros(1, 3, 32, 32))).train()
    network.load_state_dict(module.state_dict())
    images = randn(4, 3, 32, 32)
    for each in (module, network):
        each(images).square().mean().backward()
    pairs = dict(network.named_parameters())
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(pairs[name].grad, parameter.grad, rtol=1e-4, atol=1e-7)
    assert torch.equal(network.state_dict()["bn1.running_mean"], module.state_dict()["bn1.running_mean"])


def test_torch_export_takes_a_traced_network() -> None:
    module = timm.create_model("resnet18").eval()
    network = Network(trace(module, torch.zeros(1, 3, 64, 64))).eval()
    network.load_state_dict(module.state_dict())
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(network, (randn(2, 3, 64, 64),), dynamic_shapes=(({0: batch},),))
    images = randn(5, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(images), module(images), rtol=1e-4, atol=1e-5)


# ---- one call at a time -----------------------------------------------------------------------------------

LAYERS: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {
    "activations": (
        nn.Sequential(
            nn.PReLU(6), nn.LeakyReLU(0.2), nn.ELU(0.5), nn.Hardtanh(), nn.ReLU6(), nn.Softplus(), nn.GLU(1), nn.Mish(),
            nn.GELU("tanh"), nn.Hardswish(), nn.Softmax(1), nn.LogSoftmax(-1), nn.SELU(), nn.Tanh(), nn.LogSigmoid(),
        ),
        (IMAGES,),
    ),
    "borders and sizes": (
        nn.Sequential(
            nn.ZeroPad2d(1), nn.ReflectionPad2d((2, 1, 0, 2)), nn.Conv2d(6, 6, 3, padding=1, padding_mode="circular"),
            nn.Conv2d(6, 6, (3, 5), padding="same", dilation=2), nn.Upsample(scale_factor=2),
            nn.Upsample(size=(9, 7), mode="bilinear", align_corners=True), nn.AdaptiveMaxPool2d((3, None)),
            nn.AvgPool2d(2, 1, 1, count_include_pad=False), nn.Dropout2d(0.3), nn.Dropout(0.1), nn.Identity(),
        ),
        (IMAGES,),
    ),
    "normalisations": (
        nn.Sequential(
            nn.GroupNorm(2, 6), nn.InstanceNorm2d(6, affine=True), nn.InstanceNorm2d(6), nn.LayerNorm((6, 8, 8)),
            nn.RMSNorm((8, 8)), nn.LayerNorm(8, elementwise_affine=False), nn.BatchNorm2d(6, momentum=None),
        ),
        (IMAGES,),
    ),
    "one dimension": (
        nn.Sequential(
            nn.Conv1d(8, 6, 3, padding=1, groups=2), nn.BatchNorm1d(6), nn.MaxPool1d(2), nn.ConvTranspose1d(6, 4, 2, 2),
            nn.AvgPool1d(2), nn.AdaptiveAvgPool1d(3), nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5),
        ),
        (randn(3, 8, 8),),
    ),
    "arithmetic": (
        Calls(lambda m, x: (1 - x / 2) ** 2 + 3 * x - abs(x).sqrt() + torch.maximum(x, -x) + x.clamp(-1, 0.5) + x * x),
        (IMAGES,),
    ),
    "reductions": (
        Calls(
            lambda m, x: x.mean((2, 3), keepdim=True) + x.sum(-1, keepdim=True) + x.max(1, keepdim=True)[0]
            + x.amin(1, keepdim=True) + x.var(dim=1, keepdim=True) + x.norm(dim=1, keepdim=True) + F.normalize(x, dim=1)
        ),
        (IMAGES,),
    ),
    "one number an example": (
        Calls(lambda m, x: torch.cat([x.mean((1, 2, 3)).unsqueeze(1), torch.zeros_like(x).sum((1, 2))], 1)),
        (IMAGES,),
    ),
    "hard-coded sizes": (
        Calls(lambda m, x: x.view(x.shape[0], x.size(1), x.shape[2] * x.shape[3]).transpose(1, 2).reshape(-1, 64 * 6)),
        (IMAGES,),
    ),
    "parts": (
        Calls(
            lambda m, x: torch.stack((*x.chunk(3, 1), *x[:, -2:, ::2].repeat(1, 1, 2, 1).split([2], dim=1)), dim=2)
            .flip(2).unbind(2)[1].roll((1, -2), (2, 3)).narrow(3, 1, 4)[:, :, None, 1:, ...].squeeze(2).movedim(1, -1)
        ),
        (IMAGES,),
    ),
    "shuffles": (
        Calls(
            lambda m, x: F.pixel_unshuffle(F.channel_shuffle(F.pixel_shuffle(x[:, :4], 2).expand(-1, 4, -1, -1), 2), 4)
        ),
        (IMAGES,),
    ),
    "tokens": (
        Calls(
            lambda m, x: torch.cat([m.cls.expand(x.shape[0], -1, -1), x], dim=1) + m.pos,
            cls=randn(1, 1, 8), pos=randn(1, 6, 8),
        ),
        (TOKENS,),
    ),
    "bare parameters": (
        Calls(
            lambda m, x: x * m.a[:, None, None] + m.b.view(1, -1, 1, 1) * m.c + m.d[m.index.view(-1)].view(8, 8),
            a=randn(6), b=randn(6), c=torch.tensor(2.0), d=randn(9), index=torch.arange(64).reshape(8, 8) % 9,
        ),
        (IMAGES,),
    ),
    "products": (
        Calls(lambda m, x: torch.einsum("nld,de->nle", x @ m.w @ x.mT @ x, m.w).matmul(m.w.T), w=randn(8, 8)),
        (TOKENS,),
    ),
    "constants": (
        Calls(
            lambda m, x: torch.cat([x + torch.arange(8, device=x.device), x.new_zeros(x.shape[0], 2, 8)], 1)
            + torch.tensor(float("-inf")).exp()
        ),
        (TOKENS,),
    ),
    "attention": (
        Calls(
            lambda m, x: m.attend(x, x, x, need_weights=False)[0].unflatten(-1, (2, 4)).transpose(1, 2),
            attend=nn.MultiheadAttention(8, 2, batch_first=True),
        ),
        (TOKENS,),
    ),
    "transformer": (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (TOKENS,)),
    "windows": (
        Calls(
            lambda m, x: m.norm(
                m.mix(x.view(len(x), 6, 2, 4, 2, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, 6)).flatten(0, 1)
            ).view(x.shape[0], 4, 16, 6).mean(1),
            mix=nn.Linear(6, 6), norm=nn.BatchNorm1d(6),
        ),
        (IMAGES,),
    ),
    "several inputs": (
        Calls(lambda m, x, y: (m.conv(x) + y, x.mean((2, 3))), conv=nn.Conv2d(6, 2, 1)),
        (IMAGES, randn(3, 2, 8, 8)),
    ),
    "words": (
        Calls(lambda m, x: m.head(m.words(x).mean(1)), words=nn.Embedding(9, 8), head=nn.Linear(8, 4)),
        (torch.arange(15).reshape(3, 5) % 9,),
    ),
    "computed weights": (
        nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 4, 3)), nn.Flatten(2),
            nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 4, 3, dilation=2)),
        ),
        (IMAGES,),
    ),
    "a module without a path": (nn.Linear(8, 3), (TOKENS,)),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_calls_have_operators(name: str) -> None:
    module, inputs = LAYERS[name]
    graph = close_circle(module, *inputs)
    assert graph.uncounted == ()
    assert trace(module, inputs) == graph
    if inputs[0].is_floating_point():
        assert graph.cost.macs == torch_macs(module, *(x.shape[1:] for x in inputs))


def test_values_in_place() -> None:
    """What reads a tensor after it was written to reads the new one, under every name it has."""

    def forward(m: Any, x: Tensor) -> Tensor:
        before = m.conv(x)
        after = before
        F.relu_(after)
        after += 1
        m.act(after.mul_(2))
        return before - x

    graph = close_circle(Calls(forward, conv=nn.Conv2d(6, 6, 1), act=nn.Hardswish(inplace=True)), IMAGES)
    assert graph.uncounted == ()


def test_names_are_paths() -> None:
    module = nn.Sequential()
    module.stem = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    module.input = nn.Conv2d(8, 8, 1)
    module.tail = Calls(lambda m, x: m.act(m.act(x) + x).flatten(1), act=nn.SiLU())
    graph = close_circle(module, IMAGES)
    assert [n.name for n in graph] == [
        "input_1", "stem.0", "stem.1", "stem.2", "input", "tail.act", "tail.add", "tail.act_1", "tail.flatten",
    ]  # fmt: skip
    assert graph["stem.0"].attributes["kernel_size"] == 3
    assert graph["stem.1"].operator == "batch_norm"


# ---- shared and idle weights ------------------------------------------------------------------------------


def test_a_module_called_twice_shares_its_weights() -> None:
    block = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
    module = Calls(lambda m, x: m.block(m.block(x)), block=block)
    graph = close_circle(module, IMAGES)
    assert [n.operator for n in graph if n.operator == "again"] == ["again", "again"]
    assert graph.cost.macs == torch_macs(module, (6, 8, 8))
    network = Network(graph).train()
    network(IMAGES)
    assert network.get_buffer("block.1.num_batches_tracked") == 2


def test_a_module_with_two_paths() -> None:
    layer = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(5))
    graph = close_circle(Calls(lambda m, x: m.b(m.a(x)), a=layer, b=layer), TOKENS)
    assert graph["b"].operator == "alias"
    network = Network(graph)
    assert network.get_submodule("b") is network.get_submodule("a")


def test_layers_with_one_weight() -> None:
    module = Calls(lambda m, x: m.head(m.words(x).mean(1)), words=nn.Embedding(9, 8), head=nn.Linear(8, 9))
    module.head.weight = module.words.weight
    graph = close_circle(module, torch.arange(15).reshape(3, 5) % 9)
    network = Network(graph)
    assert network.get_parameter("head.weight") is network.get_parameter("words.weight")
    assert graph.cost.params == 9 * 8 + 9


def test_idle_tensors_are_kept_and_counted() -> None:
    module = Calls(lambda m, x: m.a(x), a=nn.Linear(8, 8), idle=nn.Linear(3, 3), scale=randn(3), table=torch.arange(4))
    graph = close_circle(module, TOKENS)
    assert {n.name for n in graph if n.operator == "unused"} == {"idle.weight", "idle.bias", "scale", "table"}
    assert {n.name for n in graph.simplify()} == {"input", "a"}
    Network(graph)(TOKENS)


def test_buffers_come_with_the_weights_or_with_the_graph() -> None:
    module = Calls(lambda m, x: (x - m.shift) * m.factor)
    module.register_buffer("shift", randn(6, 1, 1))
    module.register_buffer("factor", torch.arange(8.0), persistent=False)
    graph = close_circle(module, IMAGES)
    assert (graph["shift"].operator, graph["factor"].operator) == ("buffer", "constant")
    assert not any(p.requires_grad for p in Network(graph).buffers())
    torch.testing.assert_close(Network(graph)(IMAGES), module(IMAGES))


# ---- what has no operator ---------------------------------------------------------------------------------


def test_unnamed_calls_are_reported_and_run_by_the_source() -> None:
    module = Calls(lambda m, x: F.unfold(torch.cumsum(m.conv(x), 1), 2).cumprod(1), conv=nn.Conv2d(6, 3, 1))
    graph = close_circle(module, IMAGES, source=True)
    assert [n.attributes["target"] for n in graph.uncounted] == [
        "torch.cumsum",
        "torch.nn.functional.unfold",
        "cumprod",
    ]
    assert not graph.cost.counted
    with pytest.raises(GraphError, match=r"'cumsum' \(torch.cumsum\).*pass source="):
        Network(graph)
    with pytest.raises(GraphError, match="source= does not have"):
        Network(graph, source=nn.Conv2d(6, 6, 1))
    with pytest.raises(GraphError, match="cannot follow Linear on inputs of \\(2, 6, 8, 8\\)"):
        Network(graph, source=nn.Linear(4, 4))


def test_a_module_that_cannot_be_followed_stays_whole() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.conv(x)
        return x if x.sum() > 0 else m.other(x)

    inner = Calls(forward, conv=nn.Conv2d(6, 6, 1), other=nn.Conv2d(6, 6, 1))
    module = Calls(lambda m, x: m.inner(m.inner(m.stem(x))), stem=nn.Conv2d(6, 6, 1), inner=inner)
    graph = close_circle(module, IMAGES, source=True)
    assert [n.name for n in graph.uncounted] == ["inner", "inner_1"]
    network = Network(graph, source=module)
    assert network.get_submodule("inner") is not inner


class Recurrent(nn.Module):
    """A recurrent layer, sequence first, whose several results are read in part."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        steps, (hidden, _) = self.lstm(x.transpose(0, 1))
        return (steps + hidden[0]).transpose(0, 1)


def test_parts_of_several_results() -> None:
    graph = close_circle(Recurrent(), TOKENS, source=True)
    assert [n.attributes["index"] for n in graph if n.operator == "item"] == [(0,), (1, 0)]
    assert graph["lstm"].attributes["layouts"] == ((1, 1),)


def test_copies_of_a_network_with_foreign_calls() -> None:
    module = Calls(lambda m, x: torch.cumsum(m.lin(x), 2), lin=nn.Linear(8, 4))
    network = Network(trace(module, TOKENS), source=module)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(other(TOKENS), network(TOKENS))


REFUSED: dict[str, tuple[Callable[..., Any], str]] = {
    "data": (lambda m, x: x if x.sum() > 0 else -x, "torch.fx cannot follow Calls"),
    "batch size": (lambda m, x: x * 2 if x.shape[0] > 3 else x + 1, "runs otherwise at batch 3 than at 6"),
    "two batches": (lambda m, x: x.flatten(1) @ x.flatten(1).T, "'matmul'.*two batch axes"),
    "batch last": (lambda m, x: x.flatten(1).T, "without the batch as its first axis"),
    "whole batch": (lambda m, x: x.mean(), "without the batch as its first axis"),
    "written part": (lambda m, x: written(x), "writes into a tensor in place"),
    "no tensor": (lambda m, x: (x, 3), "an output of type int"),
}


def written(x: Tensor) -> Tensor:
    x = x + 1
    x[:, 0] = 0
    return x


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_graph_can_say_is_refused(name: str) -> None:
    function, message = REFUSED[name]
    with pytest.raises(GraphError, match=message):
        trace(Calls(function), IMAGES)


def test_an_example_is_needed() -> None:
    for example in ((), torch.zeros(3)):
        with pytest.raises(GraphError, match="batch axis in front"):
            trace(nn.ReLU(), example)


def test_tracing_leaves_no_trace() -> None:
    """A module that keeps what it computed keeps nothing of a recording."""

    def forward(m: Any, x: Tensor) -> Tensor:
        if not hasattr(m, "table"):
            m.table = x.mean(0)
        return x + 1

    module = Calls(forward)
    trace(module, IMAGES)
    assert not hasattr(module, "table")

"""Reversible layers around convolutions of PyTorch Geometric: inverses, gradients, and what must stay as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck

from search_spaces.errors import GraphError
from search_spaces.reversible import PerGroup, Piece, Replay, Reversible, couple
from search_spaces.reversible.replay import uncounted

NODES, WIDTH = 6, 3
EDGES = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 2, 4], [1, 2, 3, 4, 5, 0, 3, 5, 1]])
CONVS: dict[str, Callable[[], nn.Module]] = {}


def conv(make: Callable[[], nn.Module]) -> None:
    CONVS[make.__name__] = make


@conv
def gcn() -> nn.Module:
    from torch_geometric.nn import GCNConv

    return GCNConv(WIDTH, WIDTH)


@conv
def sage() -> nn.Module:
    from torch_geometric.nn import SAGEConv

    return SAGEConv(WIDTH, WIDTH)


@conv
def gat() -> nn.Module:
    from torch_geometric.nn import GATConv

    return GATConv(WIDTH, WIDTH, edge_dim=2)


@conv
def gen() -> nn.Module:
    from torch_geometric.nn import GENConv

    return GENConv(WIDTH, WIDTH, edge_dim=2, norm="layer")


class Block(nn.Module):
    """Tanh, a mask if there is one, a convolution: smooth, so that gradients can be checked by differences."""

    def __init__(self, inner: nn.Module, after: nn.Module | None = None) -> None:
        super().__init__()
        self.inner, self.after = inner, after or nn.Identity()

    def forward(self, x: Tensor, *rest: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x.tanh() if mask is None else x.tanh() * mask
        result: Tensor = self.after(self.inner(x, *rest))
        return result


class MaskedBlock(Block):
    def forward(self, x: Tensor, edges: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, edges, mask=mask)


def stack(
    name: str, groups: int = 2, layers: int = 2, after: Callable[[], nn.Module] | None = None, **more: Any
) -> Any:
    torch.manual_seed(0)
    made = [[Block(CONVS[name](), after and after()) for _ in range(groups)] for _ in range(layers)]
    return Reversible(made, **more)


def ordinary(net: Reversible, x: Tensor, *rest: Any, wide: torch.dtype | None = None) -> Tensor:
    """The same layers by ordinary differentiation."""
    replay = Replay(x, wide=wide)
    given = [[a.values[g] if isinstance(a, PerGroup) else a for a in rest] for g in range(net.groups)]
    pieces = [
        [Piece(lambda y, f=f, own=own: f(y, *own)) for f, own in zip(layer, given, strict=True)] for layer in net.layers
    ]  # type: ignore
    groups = couple(pieces * net.repeats, list(x.to(replay.wide).tensor_split(net.groups, net.axis)), replay)
    return torch.cat(groups, net.axis).to(x.dtype)


def features(groups: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(NODES, groups * WIDTH, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def gradients(net: nn.Module, forward: Callable[[], Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(forward().square().sum(), list(net.parameters())))


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("groups", [2, 4])
def test_inverse_gives_what_went_in(groups: int, dtype: torch.dtype, limit: float) -> None:
    net = stack("sage", groups, layers=12).to(dtype)
    x = features(groups, dtype).detach()
    y = net(x, EDGES)
    assert (y - x).norm() > 0.1 * x.norm()
    assert (net.inverse(y, EDGES) - x).norm() <= limit * y.norm()


@pytest.mark.parametrize(("groups", "repeats"), [(2, 1), (4, 1), (2, 3)])
@pytest.mark.parametrize("name", CONVS)
def test_gradients_are_those_of_differences(name: str, groups: int, repeats: int) -> None:
    net = stack(name, groups, layers=1, repeats=repeats).double()
    given = [features(groups), *net.parameters()]
    if name in ("gat", "gen"):
        attributes = torch.randn(EDGES.shape[1], 2, dtype=torch.float64, requires_grad=True)
        assert gradcheck(lambda x, a, *_: net(x, EDGES, a), [given[0], attributes, *given[1:]], fast_mode=True)
    else:
        assert gradcheck(lambda x, *_: net(x, EDGES), given, fast_mode=True)


def test_gradients_of_a_mask_and_of_a_part_for_each_group() -> None:
    from torch_geometric.nn import SAGEConv

    net = Reversible([[MaskedBlock(SAGEConv(WIDTH, WIDTH)) for _ in range(2)] for _ in range(2)]).double()
    mask = torch.rand(NODES, 2 * WIDTH, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x, m: net(x, EDGES, PerGroup.split(m, 2)), [features(), mask])


def test_a_group_s_own_argument_is_differentiated() -> None:
    """Where a part is a leaf, its gradient is its own, not that of all groups."""
    net = Reversible([[MaskedBlock(CONVS["sage"]()) for _ in range(2)]]).double()
    parts = [torch.rand(NODES, WIDTH, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    x = features()
    mine = torch.autograd.grad(net(x, EDGES, PerGroup(parts)).square().sum(), parts)
    theirs = torch.autograd.grad(ordinary(net, x, EDGES, PerGroup(parts)).square().sum(), parts)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ["sage", "gcn"])
def test_gradients_in_float32_are_those_of_the_same_sums(name: str) -> None:
    net = stack(name, layers=40)
    x = features(dtype=torch.float32)
    mine = gradients(net, lambda: net(x, EDGES))
    same = gradients(net, lambda: ordinary(net, x, EDGES))
    for a, b in zip(mine, same, strict=True):
        assert (a - b).norm() <= 2e-6 * b.norm() + 1e-12


def test_sums_in_float32_drift_further() -> None:
    """Why sums are wider than what the functions compute in."""

    def error(wide: torch.dtype) -> float:
        net = stack("sage", layers=100, wide=wide)
        x = features(dtype=torch.float32)
        pairs = zip(
            gradients(net, lambda: net(x, EDGES)),
            gradients(net, lambda: ordinary(net, x, EDGES, wide=wide)),
            strict=True,
        )
        parts = [(float((a - b).norm() ** 2), float(b.norm() ** 2)) for a, b in pairs]
        return float((sum(a for a, _ in parts) / sum(b for _, b in parts)) ** 0.5)

    exact, drifting = error(torch.float64), error(torch.float32)
    assert exact <= 2e-6
    assert drifting > 3 * exact


def test_several_losses_of_one_step() -> None:
    net = stack("gcn").double()
    x, parameters = features(), None
    parameters = [x, *net.parameters()]
    y = net(x, EDGES)
    both = torch.autograd.grad(y.sum() + y.square().sum(), parameters, retain_graph=True)
    one = torch.autograd.grad(y.sum(), parameters, retain_graph=True)
    other = torch.autograd.grad(y.square().sum(), parameters)
    for a, b, c in zip(both, one, other, strict=True):
        torch.testing.assert_close(a, b + c)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(y.sum(), parameters)


def test_gradients_of_gradients_are_refused() -> None:
    net = stack("sage").double()
    x = features()
    (slope,) = torch.autograd.grad(net(x, EDGES).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_evaluation_and_no_gradient_give_the_same() -> None:
    net = stack("sage", after=lambda: nn.Dropout(0.5)).eval()
    x = features(dtype=torch.float32)
    y = net(x, EDGES)
    assert y.grad_fn is not None
    with torch.no_grad():
        assert torch.equal(net(x, EDGES), y)
    with torch.inference_mode():
        assert torch.equal(net(x, EDGES), y)
    torch.testing.assert_close(y, ordinary(net, x, EDGES))


@pytest.mark.parametrize("grad", [False, True])
def test_the_input_is_left_as_it_is(grad: bool) -> None:
    net = stack("sage")
    x = features(dtype=torch.float32).detach().requires_grad_(grad)
    before, size, version = x.detach().clone(), x.untyped_storage().nbytes(), x._version
    y = net(x, EDGES)
    (y + x).sum().backward()
    assert torch.equal(x, before)
    assert x.untyped_storage().nbytes() == size
    assert x._version == version


def test_a_weight_that_has_changed_since_is_told() -> None:
    net = stack("sage")
    y = net(features(dtype=torch.float32), EDGES)
    with torch.no_grad():
        next(net.parameters()).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_weights_that_need_no_gradient_get_none() -> None:
    net = stack("sage").requires_grad_(False)
    one = next(net.parameters()).requires_grad_()
    x = features(dtype=torch.float32).detach()
    net(x, EDGES).square().sum().backward()
    assert one.grad is not None
    assert [p.grad for p in net.parameters() if p is not one] == [None] * (len(list(net.parameters())) - 1)
    (expected,) = torch.autograd.grad(ordinary(net, x, EDGES).square().sum(), one)
    torch.testing.assert_close(one.grad, expected)


# ---- random numbers ----------------------------------------------------------------------------------------


class OwnDropout(nn.Module):
    """Dropout that draws from a generator which nobody sets back."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand(x.shape, generator=self.generator, dtype=x.dtype) > 0.5) * 2


def drift(net: Reversible) -> float:
    """How far the gradient by the input is from a difference along a line, both of the same random numbers."""
    x = features().detach().requires_grad_()
    line = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=x.dtype)

    def value(at: Tensor) -> Tensor:
        torch.manual_seed(11)
        for module in net.modules():
            if isinstance(module, OwnDropout):
                module.generator.manual_seed(3)
        return net(at, EDGES).square().sum()

    (slope,) = torch.autograd.grad(value(x), x)
    step = 1e-6
    expected = (value(x + step * line) - value(x - step * line)).detach() / (2 * step)
    return float(((slope * line).sum() - expected).abs() / expected.abs())


def test_dropout_passes_where_its_random_numbers_are_torch_s() -> None:
    assert drift(stack("sage", layers=3, after=lambda: nn.Dropout(0.5)).double()) < 1e-6


def test_dropout_of_numbers_that_are_not_drawn_again_fails() -> None:
    assert drift(stack("sage", layers=3, after=OwnDropout).double()) > 1e-2


def test_dropout_differs_from_layer_to_layer_and_step_to_step() -> None:
    class Noise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.dropout(torch.ones_like(x), 0.5) + 0 * x

    seen: list[Tensor] = []
    net = Reversible([[Noise() for _ in range(2)] for _ in range(2)])
    for module in net.modules():
        if isinstance(module, Noise):
            module.register_forward_hook(lambda m, i, o: seen.append(o.detach().clone()))
    x = torch.zeros(50, 4, requires_grad=True)
    net(
        x,
    ).sum().backward()
    forward, again = seen[:4], seen[4:]
    assert all(torch.equal(a, b) for a, b in zip(forward, reversed(again), strict=True))
    net(x)
    assert len({tuple(s.flatten().tolist()) for s in (*forward, *seen[8:])}) == 8


def test_random_numbers_outside_go_on_as_if_none_were_drawn_inside() -> None:
    x = features(dtype=torch.float32)

    def after(net: Reversible) -> Tensor:
        torch.manual_seed(7)
        net(x, EDGES).sum().backward()
        return torch.rand(4)

    with_dropout = after(stack("sage", layers=5, after=lambda: nn.Dropout(0.5)))
    assert torch.equal(with_dropout, after(stack("sage", layers=1)))


# ---- autocast, norms, ties ---------------------------------------------------------------------------------


def test_autocast_is_that_of_the_forward_pass() -> None:
    net = stack("sage", layers=3)
    x = features(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x, EDGES)
        expected = ordinary(net, x, EDGES)
    assert not torch.equal(y, net(x, EDGES))
    mine = torch.autograd.grad(y.square().sum(), list(net.parameters()))
    same = torch.autograd.grad(expected.square().sum(), list(net.parameters()))
    for a, b in zip(mine, same, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2 * float(b.abs().max()))


def test_batch_norms_count_a_batch_once() -> None:
    net = stack("sage", layers=3, after=lambda: nn.BatchNorm1d(WIDTH)).double()
    twin = stack("sage", layers=3, after=lambda: nn.BatchNorm1d(WIDTH)).double()
    x = features()
    net(x, EDGES).square().sum().backward()
    ordinary(twin, x, EDGES).square().sum().backward()
    for (name, mine), theirs in zip(net.state_dict().items(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, msg=name)
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-8, atol=1e-8)


def test_uncounted_norms_count_again_afterwards() -> None:
    norm = nn.BatchNorm1d(2)
    with uncounted([norm]):
        norm(torch.randn(4, 2))
    assert (norm.momentum, int(norm.num_batches_tracked)) == (0.1, 0)  # type: ignore[arg-type]
    assert norm.running_mean is not None
    assert torch.equal(norm.running_mean, torch.zeros(2))
    norm(torch.randn(4, 2))
    assert int(norm.num_batches_tracked) == 1  # type: ignore[arg-type]


def test_tied_layers_have_the_parameters_of_one() -> None:
    counts = {sum(p.numel() for p in stack("sage", layers=1, repeats=n).parameters()) for n in (1, 5, 50)}
    assert len(counts) == 1
    net = stack("sage", layers=1, repeats=5).double()
    x = features()
    mine = gradients(net, lambda: net(x, EDGES))
    for a, b in zip(mine, gradients(net, lambda: ordinary(net, x, EDGES)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("layers", "repeats"), [([], 1), ([["a"]], 1), ([["a", "b"], ["a", "b", "c"]], 1), ([["a", "b"]], 0)]
)
def test_layers_that_cannot_be_reversed_are_refused(layers: list[list[str]], repeats: int) -> None:
    with pytest.raises(GraphError, match="two or more groups"):
        Reversible([[nn.Identity() for _ in layer] for layer in layers], repeats=repeats)


# ---- memory ------------------------------------------------------------------------------------------------


def saved_bytes(net: nn.Module, call: Callable[[], Tensor]) -> int:
    """Bytes that are saved for the gradient, storages counted once, without those of the weights."""
    own = {p.untyped_storage().data_ptr() for p in net.parameters()}
    storages: dict[int, int] = {}
    kept = []

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
            kept.append(t)  # so that no other takes its place
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        result = call()
    result.sum().backward()
    return sum(storages.values())


def test_what_is_held_does_not_grow_with_depth() -> None:
    x = features(dtype=torch.float32)
    held, plain = {}, {}
    for layers in (4, 16, 64):
        net = stack("sage", layers=layers)
        held[layers] = saved_bytes(net, lambda net=net: net(x, EDGES))  # type: ignore[misc]
        plain[layers] = saved_bytes(net, lambda net=net: ordinary(net, x, EDGES, wide=torch.float32))  # type: ignore[misc]
    slope, other = (v[64] - v[4] for v in (held, plain))
    assert other > 50 * NODES * WIDTH * 4
    assert slope <= 0.02 * other
    assert held[4] <= 4 * x.untyped_storage().nbytes()


def test_gradients_lie_in_one_block() -> None:
    """Thousands of small ones among large tensors that come and go would leave the allocator with holes."""
    net = stack("sage", layers=3)
    net(features(dtype=torch.float32), EDGES).square().sum().backward()
    assert len({p.grad.untyped_storage().data_ptr() for p in net.parameters() if p.grad is not None}) == 1

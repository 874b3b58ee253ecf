"""Deep equilibria: the fixed point, its gradient against the unrolled one, and what happens where there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.errors import GraphError
from search_spaces.message_passing import DropoutMask, GraphEquilibrium
from search_spaces.reversible import Equilibrium, Solver

TIGHT = Solver(iterations=100, tolerance=1e-12)


class Forgetting(nn.Module):
    def __init__(self, width: int = 4, after: nn.Module | None = None) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.after = after or nn.Identity()

    def forward(self, z: Tensor, x: Tensor, *shift: Tensor) -> Tensor:
        result: Tensor = self.norm(x + sum(shift) + 0.5 * self.after(self.linear(z).tanh()))
        return result


def made(solver: Solver = TIGHT, after: nn.Module | None = None, **settings: Any) -> Equilibrium:
    torch.manual_seed(0)
    return Equilibrium(Forgetting(after=after), solver=solver, **settings).double()


def features() -> Tensor:
    return torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()


def unrolled(f: nn.Module, x: Tensor, *shift: Tensor, calls: int = 200) -> Tensor:
    z = torch.zeros_like(x)
    for _ in range(calls):
        z = f(z, x, *shift)
    return z


def error(mine: Any, other: Any) -> float:
    a, b = (torch.cat([t.flatten() for t in tensors]) for tensors in (mine, other))
    return float((a - b).norm() / b.norm())


def test_what_comes_out_is_a_fixed_point() -> None:
    net, x = made(), features()
    z = net(x)
    assert net.residual <= 1e-12
    torch.testing.assert_close(net.f(z, x), z, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(z, unrolled(net.f, x), rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        assert torch.equal(net(x), z)


def test_mixing_takes_fewer_calls_than_iterating() -> None:
    calls = {}
    for window in (1, 5):
        net = made(Solver(window=window, iterations=500, tolerance=1e-10))
        net(features())
        assert net.residual <= 1e-10
        calls[window] = net.iterations
    assert calls[5] < 0.7 * calls[1]


def test_a_linear_equation_is_solved_in_as_many_steps_as_it_has_unknowns() -> None:
    a = torch.tensor([[0.0, 2.0, 0.0], [-2.0, 0.0, 1.0], [0.5, 0.0, 3.0]], dtype=torch.float64)  # iterating diverges
    b = torch.ones(3, dtype=torch.float64)
    found = Solver(window=5, iterations=12, tolerance=1e-10)(lambda z: a @ z + b, torch.zeros_like(b))
    torch.testing.assert_close(found.z, torch.linalg.solve(torch.eye(3, dtype=a.dtype) - a, b))
    assert found.iterations <= 8


def test_gradients_are_the_unrolled_ones() -> None:
    net, x = made(), features()
    shift = torch.full((4,), 0.3, dtype=torch.float64, requires_grad=True)
    wanted = [x, shift, *net.parameters()]
    weights = torch.randn(5, 4, dtype=torch.float64)
    mine = torch.autograd.grad((net(x, shift) * weights).sum(), wanted)
    other = torch.autograd.grad((unrolled(net.f, x, shift) * weights).sum(), wanted)
    assert error(mine, other) <= 1e-9
    assert net.backward_residual <= 1e-12
    loose = made(Solver())
    rough = torch.autograd.grad((loose(x, shift) * weights).sum(), [x, shift, *loose.parameters()])
    assert 1e-8 < error(rough, other) <= 2e-2


def test_gradients_are_those_of_differences() -> None:
    net = made(Solver(iterations=200, tolerance=1e-14))
    assert torch.autograd.gradcheck(lambda x, *_: net(x), [features(), *net.parameters()], fast_mode=True)


def test_without_the_jacobian_gradients_are_those_of_the_last_call() -> None:
    net, x = made(jacobian_free=True), features()
    z = net(x)
    wanted = [x, *net.parameters()]
    weights = torch.randn(5, 4, dtype=torch.float64)
    mine = torch.autograd.grad((z * weights).sum(), wanted)
    last = torch.autograd.grad((net.f(z.detach(), x) * weights).sum(), wanted)
    assert error(mine, last) <= 1e-9
    exact = torch.autograd.grad((unrolled(net.f, x) * weights).sum(), wanted)
    assert error(mine, exact) > 1e-3
    assert (net.backward_iterations, net.iterations > 5) == (0, True)


def test_several_losses_and_what_is_refused() -> None:
    net, x = made(), features()
    z = net(x)
    (both,) = torch.autograd.grad(z.sum() + z.square().sum() + z[0].sum(), x, retain_graph=True)
    parts = [torch.autograd.grad(s, x, retain_graph=True)[0] for s in (z.sum(), z.square().sum(), z[0].sum())]
    torch.testing.assert_close(both, sum(parts))
    with torch.no_grad():
        net.f.linear.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


def test_what_is_held_does_not_grow_with_iterations() -> None:
    held = {}
    for iterations in (2, 60):
        net = made(Solver(iterations=iterations, tolerance=0))
        sizes: list[int] = []

        def pack(t: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(t.numel())
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            z = net(features())
        z.sum().backward()  # tensors of hooks are others than those that were saved
        assert all(p.grad is not None for p in net.parameters())
        held[iterations] = sum(sizes)
    assert held[2] == held[60]


def test_where_nothing_is_found_the_least_residual_is_told() -> None:
    class Growing(nn.Module):
        def forward(self, z: Tensor, x: Tensor) -> Tensor:
            return (z + x).abs() * 1.5 + 1  # above z everywhere

    net = Equilibrium(Growing(), solver=Solver(iterations=7))
    y = net(torch.ones(3, 2))
    assert torch.isfinite(y).all()
    assert net.iterations == 7
    assert 1e-3 < net.residual < 2

    class Broken(nn.Module):
        def forward(self, z: Tensor, x: Tensor) -> Tensor:
            return z + torch.nan

    net = Equilibrium(Broken())
    net(torch.ones(3, 2))
    assert (net.iterations, net.residual) == (1, float("inf"))


def test_random_numbers_are_one_draw_and_norms_count_once() -> None:
    net = made(after=nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(4))).train()
    x = features()
    torch.manual_seed(3)
    z = net(x)
    after = torch.rand(3)
    assert net.residual <= 1e-12, "with other masks from call to call there would be no fixed point"
    assert int(net.f.after[1].num_batches_tracked) == 1
    z.sum().backward()
    assert int(net.f.after[1].num_batches_tracked) == 1
    torch.manual_seed(3)
    Equilibrium(net.f, solver=Solver(iterations=2))(x)
    assert torch.equal(after, torch.rand(3)), "random numbers outside depend on how often f was called"


@pytest.mark.parametrize("settings", [{"window": 0}, {"beta": 0.0}, {"iterations": 0}, {"tolerance": -1.0}])
def test_settings_of_a_solver_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(GraphError, match="window and iterations are 1 or more"):
        Solver(**settings)


# ---- of graphs ---------------------------------------------------------------------------------------------


def graph(nodes: int = 60, edges: int = 240) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, nodes, 16, generator=generator), torch.randint(nodes, (1, 2, edges), generator=generator)


@pytest.mark.parametrize("kind", ["gcn", "sage", "gat", "gen", "gin", "cheb", "arma", "graph"])
def test_graph_equilibria_are_found(kind: str) -> None:
    torch.manual_seed(0)
    net = GraphEquilibrium(kind, 16)
    x, edges = graph()
    y = net(x, edges)
    assert net.solved.residual <= 1e-3
    y.square().mean().backward()
    assert net.solved.backward_residual <= 1e-3
    assert all(p.grad is not None for p in net.parameters())


def test_graph_equilibria_take_features_of_edges_and_a_mask() -> None:
    torch.manual_seed(0)
    net = GraphEquilibrium("gen", 16, edge_features=3, masked=True).train()
    x, edges = graph()
    attributes = torch.randn(1, 240, 3, requires_grad=True)
    net(x, edges, attributes, DropoutMask(0.5).train()(x)).square().sum().backward()
    assert attributes.grad is not None
    assert attributes.grad.abs().sum() > 0


def test_exported_they_give_the_same() -> None:
    torch.manual_seed(0)
    net = GraphEquilibrium("sage", 16, iterations=12, tolerance=1e-4).eval()
    given = graph()
    program = torch.export.export(net, given)
    torch.testing.assert_close(program.module()(*given), net(*given), rtol=5e-3, atol=5e-3)


@pytest.mark.slow
def test_a_deep_equilibrium_learns_more_than_a_linear_model(shared_file: Callable[[str], Any]) -> None:
    from benchmarks.memory import cora

    folder = shared_file("planetoid/cora.npz").parents[1]
    x, edges, labels, train = cora(folder)

    def accuracy(deep: bool) -> float:
        torch.manual_seed(0)
        first, last, net = nn.Linear(x.shape[1], 32), nn.Linear(32, 7), GraphEquilibrium("gcn", 32)
        modules = nn.ModuleList([first, last, net] if deep else [first, last])
        optimizer = torch.optim.Adam(modules.parameters(), 5e-3, weight_decay=5e-3)

        def logits(training: bool) -> Tensor:
            h = first(F.dropout(x, 0.5, training))[None]
            h = net(h, edges[None]) if deep else h
            result: Tensor = last(F.dropout(h, 0.5, training))[0]
            return result

        for _ in range(60):
            optimizer.zero_grad()
            F.cross_entropy(logits(True)[train], labels[train]).backward()
            optimizer.step()
        with torch.no_grad():
            return float((logits(False).argmax(1) == labels)[~train].float().mean())

    linear, deep = accuracy(False), accuracy(True)
    assert deep > linear + 0.02, f"{deep} against {linear}"

"""Torch modules of graph networks, around the convolutions of PyTorch Geometric.

Features are `(B, N, F)`, edges `(B, 2, E)` (from, to) and features of edges `(B, E, D)`: B graphs of N nodes and E
edges, as a rule one. PyTorch Geometric is imported when a convolution is made.
"""

from __future__ import annotations

import math
import warnings
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .reversible.equilibrium import Equilibrium, Solver

_EDGE_NUMBERS = 1 << 18  # numbers of messages that are worked on at a time


class GraphConvolution(nn.Module):
    """A convolution of PyTorch Geometric by its short name.

    Args:
        kind: gcn, sage, gat, gen, gin, gin_linear, cheb, arma or graph; see the operator `graph_conv`.
        inputs, outputs: features of a node before and after.
        heads: of attention (gat); their outputs are joined.
        edge_features: D, which gat and gen read; 0 for none.
        norm: inside gen's perceptron: layer, batch or none.
    """

    def __init__(
        self, kind: str, inputs: int, outputs: int, heads: int = 1, edge_features: int = 0, norm: str = "layer"
    ) -> None:
        super().__init__()
        self.conv = make_convolution(kind, inputs, outputs, heads, edge_features, norm)

    def forward(self, x: Tensor, edges: Tensor, attributes: Tensor | None = None) -> Tensor:
        """Features `(B, N, F)` to `(B, N, F')`."""
        count, nodes, _ = x.shape
        given = () if attributes is None else (attributes.flatten(0, 1),)
        if count > 1:  # one graph of separate parts
            first = torch.arange(count, device=edges.device)[:, None, None] * nodes
            edges = (edges + first).transpose(0, 1).reshape(1, 2, -1)
        result: Tensor = self.conv(x.flatten(0, 1), edges[0], *given)
        return result.view(count, nodes, -1)


def make_convolution(kind: str, inputs: int, outputs: int, heads: int, edge_features: int, norm: str) -> nn.Module:
    """The module behind `GraphConvolution`: features `(N, F)`, edges `(2, E)`, perhaps features of edges `(E, D)`."""
    pyg = _pyg()
    if kind == "gen":
        return _gen(inputs, outputs, edge_features, norm)
    if kind == "gat":
        edge_dim = edge_features or None
        return pyg.GATConv(inputs, outputs // heads, heads, edge_dim=edge_dim)  # type: ignore[no-any-return]
    if kind == "gin":
        perceptron = nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU(), nn.Linear(outputs, outputs))
        return pyg.GINConv(perceptron)  # type: ignore[no-any-return]
    if kind == "gin_linear":
        return pyg.GINConv(nn.Linear(inputs, outputs))  # type: ignore[no-any-return]
    if kind == "cheb":
        return pyg.ChebConv(inputs, outputs, K=2)  # type: ignore[no-any-return]
    if kind == "arma":
        arma = pyg.ARMAConv(inputs, outputs)
        arma.register_parameter("weight", None)  # of steps after the first, of which there are none
        return arma  # type: ignore[no-any-return]
    simple = {"gcn": pyg.GCNConv, "sage": pyg.SAGEConv, "graph": pyg.GraphConv}
    return simple[kind](inputs, outputs)  # type: ignore[no-any-return]


@cache
def _pyg() -> Any:
    """The layers of PyTorch Geometric, whose import warns of what torch means to change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        from torch_geometric import nn as pyg
    return pyg


def _gen(inputs: int, outputs: int, edge_features: int, norm: str) -> nn.Module:
    made: nn.Module = _gen_class()(
        inputs, outputs, norm=None if norm == "none" else norm, edge_dim=edge_features or None
    )
    return made


@cache  # PyTorch Geometric generates and imports code for each class it has not seen
def _gen_class() -> Any:
    class Gen(_pyg().GENConv):  # type: ignore[misc, name-defined]
        """PyTorch Geometric's, whose softmax keeps nothing as large as the edges."""

        def propagate(
            self, edge_index: Tensor, x: tuple[Tensor, Tensor], edge_attr: Tensor | None = None, size: Any = None
        ) -> Tensor:
            if edge_attr is not None and hasattr(self, "lin_edge"):
                edge_attr = self.lin_edge(edge_attr)
            return softmax_messages(x[0], edge_index, edge_attr, eps=self.eps)

    return Gen


# ---- messages --------------------------------------------------------------------------------------------


def softmax_messages(x: Tensor, edges: Tensor, attributes: Tensor | None = None, *, eps: float = 1e-7) -> Tensor:
    """Softmax aggregation of GENConv (Li et al. 2020, "DeeperGCN", equation 6, at temperature 1).

    A node's result is `sum_e softmax_e(m_e) m_e` over its incoming edges e, features by themselves, of messages
    `m_e = relu(x_from + a_e) + eps`; zeros where there are none. What is kept for the gradient is as large as the
    nodes; what is as large as the edges is made some features at a time.

    Args:
        x: `(N, F)`.
        edges: `(2, E)`, from and to.
        attributes: `(E, F)` or None.
    """
    start, end = edges[0], edges[1]
    if attributes is None and _moderate(x):
        result: Tensor = _SoftmaxOfNodes.apply(x, start, end, eps)
        return result
    width = _width(edges.shape[1])
    parts = x.split(width, -1)
    given = attributes.split(width, -1) if attributes is not None else (None,) * len(parts)
    results = [_SoftmaxOfEdges.apply(p, a, start, end, eps) for p, a in zip(parts, given, strict=True)]
    return results[0] if len(results) == 1 else torch.cat(results, -1)


class _SoftmaxOfNodes(torch.autograd.Function):
    """Messages that are their sender's features alone: exponentials are the nodes', and only sums go along edges."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, start: Tensor, end: Tensor, eps: float) -> Tensor:  # type: ignore[override]
        m = x.relu().add_(eps)
        weights = m.exp()
        total = _collected(weights, start, end).clamp_(min=1)  # which it is, but for nodes without an edge
        result = _collected(weights.mul_(m), start, end).div_(total)
        ctx.save_for_backward(x, start, end, total, result)
        ctx.eps = eps
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Any:  # type: ignore[override]
        x, start, end, total, result = ctx.saved_tensors
        share = slope / total
        m = x.relu().add_(ctx.eps)
        slopes = _collected(share, end, start).mul_(m.add(1))  # d(sum w m)/dm = w (1 + m - result)
        slopes.sub_(_collected(share.mul_(result), end, start)).mul_(m.exp_())
        return slopes.mul_(x > 0), None, None, None


class _SoftmaxOfEdges(torch.autograd.Function):
    """Messages that differ from edge to edge, or are too large for their exponentials to be summed as they are."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, attributes: Tensor | None, start: Tensor, end: Tensor, eps: float) -> Tensor:  # type: ignore[override]
        m = _messages(x, attributes, start).relu_().add_(eps)
        ends = end[:, None].expand_as(m)
        top = torch.zeros_like(x).scatter_reduce_(0, ends, m, "amax")  # messages are above 0
        weights = m.sub(top.index_select(0, end)).exp_()
        total = torch.zeros_like(x).scatter_add_(0, ends, weights).clamp_(min=1e-16)
        result = torch.zeros_like(x).scatter_add_(0, ends, weights.mul_(m)).div_(total)
        ctx.save_for_backward(x, attributes, start, end, top.add_(total.log_()), result)
        ctx.eps = eps
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Any:  # type: ignore[override]
        x, attributes, start, end, scale, result = ctx.saved_tensors
        m = _messages(x, attributes, start)
        passed = m > 0
        m.relu_().add_(ctx.eps)
        weights = m.sub(scale.index_select(0, end)).exp_()
        slopes = m.sub_(result.index_select(0, end)).add_(1).mul_(weights).mul_(passed)  # as above
        del weights, passed
        slopes.mul_(slope.index_select(0, end))
        by_x = torch.zeros_like(x).scatter_add_(0, start[:, None].expand_as(slopes), slopes)
        return by_x, slopes if ctx.needs_input_grad[1] else None, None, None, None


def _moderate(x: Tensor) -> bool:
    """Whether exponentials of features can be summed as they are; not asked of a network that is being compiled."""
    if x.dtype not in (torch.float32, torch.float64) or not x.numel() or torch.compiler.is_compiling():
        return False
    return bool(x.amax() < 0.7 * math.log(torch.finfo(x.dtype).max))


def _width(edges: int) -> int:
    """How many features of all edges are worked on at a time; all where a program is made for any number of edges."""
    if torch.compiler.is_compiling():
        return _EDGE_NUMBERS
    return max(1, _EDGE_NUMBERS // max(1, edges))


def _collected(x: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """For each node the sum of features `(N, F)` over the nodes at the other side of its edges."""
    total = torch.zeros_like(x)
    width = _width(len(start))
    for part, into in zip(x.split(width, -1), total.split(width, -1), strict=True):
        sent = part.index_select(0, start)
        into.scatter_add_(0, end[:, None].expand_as(sent), sent)
    return total


def _messages(x: Tensor, attributes: Tensor | None, start: Tensor) -> Tensor:
    m = x.index_select(0, start)
    return m if attributes is None else m.add_(attributes)


# ---- dropout, norms --------------------------------------------------------------------------------------


class DropoutMask(nn.Module):
    """One mask of dropout `(B, N, F)` for all layers of a stack, already scaled (Li et al. 2021, section 3.2)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(torch.ones_like(x), self.p) if self.training and self.p else x.new_ones(()).expand_as(x)


class Masked(nn.Module):
    """Features times a mask in training, as they are otherwise."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return x * mask if self.training else x


class NodeBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of features `(B, N, F)`, over all nodes."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, 1)).view_as(x)


# ---- equilibrium -----------------------------------------------------------------------------------------


class GraphEquilibrium(nn.Module):
    """The fixed point of `z = n(n(x) + g n(block(z)))`: norm, ReLU, dropout by a mask, convolution in a block.

    n is a layer norm without weights. What makes the iteration come to one point, as a rule, is that so neither z nor
    the block's part of it can grow with the weights, and that this part is weighed by a learned g below 1.

    Args:
        kind, heads, edge_features, norm: as of a `GraphConvolution`, from `channels` to as many.
        masked: the last argument of `forward` is a mask.
        iterations, tolerance: of the solver, see there; `solved` tells how far it came.
    """

    def __init__(
        self,
        kind: str,
        channels: int,
        heads: int = 1,
        edge_features: int = 0,
        norm: str = "layer",
        masked: bool = False,
        iterations: int = 30,
        tolerance: float = 1e-3,
    ) -> None:
        super().__init__()
        conv = GraphConvolution(kind, channels, channels, heads, edge_features, norm)
        solver = Solver(iterations=iterations, tolerance=tolerance)
        self.solved = Equilibrium(_Injected(conv, channels, norm, masked), solver=solver)

    def forward(self, x: Tensor, edges: Tensor, *rest: Tensor) -> Tensor:
        """Features `(B, N, F)` to as many."""
        result: Tensor = self.solved(x, edges, *rest)
        return result


class _Injected(nn.Module):
    def __init__(self, conv: nn.Module, channels: int, norm: str, masked: bool) -> None:
        super().__init__()
        norms = {"layer": nn.LayerNorm, "batch": NodeBatchNorm}
        self.norm = norms[norm](channels) if norm in norms else nn.Identity()
        self.conv, self.masked = conv, masked
        self.gain = nn.Parameter(torch.ones(()))  # g is 0.73 at first

    def forward(self, z: Tensor, x: Tensor, edges: Tensor, *rest: Tensor) -> Tensor:
        y = self.norm(z).relu()
        if self.masked:
            *rest, mask = rest  # type: ignore[assignment]
            y = y * mask if self.training else y
        size = x.shape[-1:]
        y = self.gain.sigmoid() * F.layer_norm(self.conv(y, edges, *rest), size)
        return F.layer_norm(F.layer_norm(x, size) + y, size)


_ALL: tuple[type[nn.Module], ...] = (GraphConvolution, DropoutMask, Masked, NodeBatchNorm, GraphEquilibrium)
MODULES: dict[str, type[nn.Module]] = {c.__name__: c for c in _ALL}
"""What constructors may name."""

"""Torch modules of graph networks, around the convolutions of PyTorch Geometric.

Features are `(B, N, F)`, edges `(B, 2, E)` (from, to) and features of edges `(B, E, D)`: B graphs of N nodes and E
edges, as a rule one. PyTorch Geometric is imported when a convolution is made.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_EDGE_NUMBERS = 1 << 17  # numbers of messages that are worked on at a time


class GraphConvolution(nn.Module):
    """A convolution of PyTorch Geometric by its short name.

    Args:
        kind: gcn, sage, gat, gen, gin, cheb, arma or graph; see the operator `graph_conv`.
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
    from torch_geometric import nn as pyg

    if kind == "gen":
        return _gen(inputs, outputs, edge_features, norm)
    if kind == "gat":
        edge_dim = edge_features or None
        return pyg.GATConv(inputs, outputs // heads, heads, edge_dim=edge_dim)  # type: ignore[no-any-return]
    if kind == "gin":
        perceptron = nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU(), nn.Linear(outputs, outputs))
        return pyg.GINConv(perceptron)  # type: ignore[no-any-return]
    if kind == "cheb":
        return pyg.ChebConv(inputs, outputs, K=2)  # type: ignore[no-any-return]
    if kind == "arma":
        arma = pyg.ARMAConv(inputs, outputs)
        arma.register_parameter("weight", None)  # of steps after the first, of which there are none
        return arma  # type: ignore[no-any-return]
    simple = {"gcn": pyg.GCNConv, "sage": pyg.SAGEConv, "graph": pyg.GraphConv}
    return simple[kind](inputs, outputs)  # type: ignore[no-any-return]


def _gen(inputs: int, outputs: int, edge_features: int, norm: str) -> nn.Module:
    from torch_geometric.nn import GENConv

    class Gen(GENConv):  # type: ignore[misc]
        """PyTorch Geometric's, whose softmax keeps nothing as large as the edges."""

        def propagate(
            self, edge_index: Tensor, x: tuple[Tensor, Tensor], edge_attr: Tensor | None = None, size: Any = None
        ) -> Tensor:
            if edge_attr is not None and hasattr(self, "lin_edge"):
                edge_attr = self.lin_edge(edge_attr)
            return softmax_messages(x[0], edge_index, edge_attr, eps=self.eps)

    return Gen(inputs, outputs, norm=None if norm == "none" else norm, edge_dim=edge_features or None)


# ---- messages --------------------------------------------------------------------------------------------


def softmax_messages(x: Tensor, edges: Tensor, attributes: Tensor | None = None, *, eps: float = 1e-7) -> Tensor:
    """Softmax aggregation of GENConv (Li et al. 2020, "DeeperGCN", equation 6, at temperature 1).

    A node's result is `sum_e softmax_e(m_e) m_e` over its incoming edges e, features by themselves, of messages
    `m_e = relu(x_from + a_e) + eps`; zeros where there are none. What is kept for the gradient is as large as the
    nodes; messages are made again, some features at a time.

    Args:
        x: `(N, F)`.
        edges: `(2, E)`, from and to.
        attributes: `(E, F)` or None.
    """
    width = max(1, _EDGE_NUMBERS // max(1, edges.shape[1]))
    parts = x.split(width, -1)
    given = attributes.split(width, -1) if attributes is not None else (None,) * len(parts)
    results = [_SoftmaxMessages.apply(p, a, edges[0], edges[1], eps) for p, a in zip(parts, given, strict=True)]
    return results[0] if len(results) == 1 else torch.cat(results, -1)


class _SoftmaxMessages(torch.autograd.Function):
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
        silent = m <= 0
        m.relu_().add_(ctx.eps)
        weights = m.sub(scale.index_select(0, end)).exp_()
        slopes = m.sub_(result.index_select(0, end)).add_(1).mul_(weights)  # d(sum w m)/dm = w (1 + m - result)
        del weights
        slopes.mul_(slope.index_select(0, end)).masked_fill_(silent, 0)
        by_x = torch.zeros_like(x).scatter_add_(0, start[:, None].expand_as(slopes), slopes)
        return by_x, slopes if ctx.needs_input_grad[1] else None, None, None, None


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
        return F.dropout(torch.ones_like(x), self.p) if self.training and self.p else x.new_ones(())


class Masked(nn.Module):
    """Features times a mask in training, as they are otherwise."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return x * mask if self.training else x


class NodeBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of features `(B, N, F)`, over all nodes."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, 1)).view_as(x)


MODULES: dict[str, type[nn.Module]] = {c.__name__: c for c in (GraphConvolution, DropoutMask, Masked, NodeBatchNorm)}
"""What constructors may name."""

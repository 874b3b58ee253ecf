"""The exact diagonal of the Hessian of a loss by gates, example by example.

By a gate that acts once, before layers that are linear piece by piece, outputs are linear: the curvature is that of the
loss alone, and a backward pass for each class gives it for all such gates. Other gates take a pass through the graph
of the gradient each (Pearlmutter 1994).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from search_spaces.coupling import Coupling

from .gates import ones
from .losses import losses

if TYPE_CHECKING:
    from search_spaces.coupling import Gated

_LINEAR = frozenset(
    {
        "conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d", "linear", "batch_norm", "prelu", "identity",
        "dropout", "add", "subtract", "concat", "reshape", "flatten", "permute", "slice", "select", "pick", "pad",
        "mean", "max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
        "adaptive_max_pool1d", "adaptive_max_pool2d", "pixel_shuffle", "pixel_unshuffle",
    }
)  # fmt: skip
_LINEAR_FUNCTIONS = frozenset({"relu", "relu6", "leaky_relu"})


class Derivatives(NamedTuple):
    """First and second derivatives of each example's loss: (B, units), (B, units), (B, blocks), (B, blocks)."""

    units: Tensor
    units_second: Tensor
    blocks: Tensor
    blocks_second: Tensor


def linear_groups(coupling: Coupling) -> np.ndarray:
    """(groups,) bool: by the gates of these groups the outputs are linear piece by piece.

    They are read in one place, and only layers that are linear piece by piece follow.
    """
    curved: set[str] = set()
    readers = {node.name: [n for n in coupling.graph.nodes if node.name in n.inputs] for node in coupling.graph.nodes}
    for node in reversed(coupling.graph.nodes):
        if not _is_linear(node.operator, node.attributes) or any(n.name in curved for n in readers[node.name]):
            curved.add(node.name)
    found = np.zeros(len(coupling.groups), dtype=bool)
    for i, group in enumerate(coupling.groups):
        edges = [edge for edge in coupling.edges if np.isin(group.units, edge.units).any()]
        found[i] = len(edges) == 1 and edges[0].node not in curved
    return found


def _is_linear(operator: str, attributes: dict[str, object]) -> bool:
    if operator == "activation":
        return attributes["kind"] in _LINEAR_FUNCTIONS
    return operator in _LINEAR


def derivatives(gated: Gated, inputs: Tensor, targets: Tensor, linear: np.ndarray) -> Derivatives:
    """First and second derivatives by the gates, at gates of 1, of the loss of each example.

    Args:
        inputs, targets: (B, ...) and (B, ...) a batch; examples must not mix (evaluation mode).
        linear: (groups,) as `linear_groups` gives it.
    """
    coupling = gated.coupling
    groups = [group.units for group in coupling.groups] or [np.zeros(0, dtype=np.int64)]
    leaves = [ones(gated, inputs, len(inputs), len(units), learned=True) for units in groups]
    blocks = ones(gated, inputs, len(inputs), len(coupling.blocks), learned=True)
    place = torch.from_numpy(np.argsort(np.concatenate(groups))).to(inputs.device)
    with torch.enable_grad():
        logits = gated(inputs, torch.cat(leaves, 1)[:, place], blocks)
        each = losses(logits, targets)
        first = torch.autograd.grad(each.sum(), [*leaves, blocks], create_graph=True, materialize_grads=True)
        cheaper = logits.dim() == 2 and logits.shape[1] <= coupling.count
        easy = [cheaper and bool(of_group) for of_group in linear] or [False]
        second = [None if e else _diagonal(g, x) for e, g, x in zip(easy, first, leaves, strict=False)]
        blocks_second = _diagonal(first[-1], blocks)
        chosen = [i for i, found in enumerate(second) if found is None]
        for i, found in zip(chosen, _of_loss(logits, [leaves[i] for i in chosen]), strict=True):
            second[i] = found
    return Derivatives(
        torch.cat(first[:-1], 1)[:, place].detach(),
        torch.cat([s for s in second if s is not None], 1)[:, place],
        first[-1].detach(),
        blocks_second,
    )


def _diagonal(gradient: Tensor, gates: Tensor) -> Tensor:
    """(B, n) second derivatives by each gate, from the gradient `(B, n)` in the autograd graph."""
    columns = []
    for i in range(gates.shape[1]):
        if not gradient.requires_grad:
            columns.append(torch.zeros_like(gates[:, i]))
            continue
        total = gradient[:, i].sum()
        (found,) = torch.autograd.grad(total, gates, retain_graph=True, materialize_grads=True)
        columns.append(found[:, i])
    return torch.stack(columns, 1).detach() if columns else torch.zeros_like(gates)


def _of_loss(logits: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """(B, n) second derivatives of cross-entropy by gates that the logits `(B, V)` are linear in.

    With p the softmax and J the logits' derivatives: sum of p J^2, less the square of the sum of p J.
    """
    if not leaves:
        return []
    weights = logits.detach().softmax(1)
    squares = [torch.zeros_like(x) for x in leaves]
    means = [torch.zeros_like(x) for x in leaves]
    for c in range(logits.shape[1]):
        slopes = torch.autograd.grad(logits[:, c].sum(), leaves, retain_graph=True, materialize_grads=True)
        for square, mean, slope in zip(squares, means, slopes, strict=True):
            square += weights[:, c, None] * slope.square()
            mean += weights[:, c, None] * slope
    return [(square - mean.square()).detach() for square, mean in zip(squares, means, strict=True)]

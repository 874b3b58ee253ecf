"""Operators of graph networks, by the contract of operators."""

from __future__ import annotations

import pytest

from nas_engine.testing import Example, OperatorContract
from search_spaces.operators.message_passing import CONVOLUTIONS

X, EDGES, ATTRIBUTES, MASK = (6, 8), (2, 11), (11, 4), (6, 8)


def case(operator: str, *more: tuple[int, ...], counted: bool = True, **attributes: object) -> Example:
    """An operator on a graph of 6 nodes and 11 edges; torch does not count messages as multiplications."""
    return Example(operator, (X, EDGES, *more), attributes, whole={1: 6}, counted_by_torch=counted)


EXAMPLES = (
    Example("dropout_mask", (X,), {"p": 0.3}),
    Example("masked", (X, MASK)),
    Example("node_batch_norm", (X,), mixes_batch=True),
    *(case("graph_conv", kind=kind, channels=6, counted=False) for kind in sorted(CONVOLUTIONS)),
    case("graph_conv", ATTRIBUTES, kind="gat", channels=6, heads=2, counted=False),
    case("graph_conv", ATTRIBUTES, kind="gen", channels=8, norm="none", counted=False),
    case("graph_block", MASK, kind="gcn", channels=8, masked=True, counted=False),
    case("graph_block", ATTRIBUTES, kind="gen", channels=8, edge_features=True, counted=False),
    case("graph_layer", kind="sage", groups=4, counted=False),
    case("graph_layer", MASK, kind="sage", connection="residual", masked=True, counted=False),
    case("graph_layer", kind="sage", connection="plain", norm="none", counted=False),
    case("graph_stack", MASK, kinds=("gcn", "sage", "gen"), masked=True, counted=False),
    case("graph_stack", kinds=("sage",) * 3, tied=True, counted=False),
    Example(
        "graph_equilibrium", (X, EDGES), {"kind": "sage"}, whole={1: 6}, counted_by_torch=False, mixes_batch=True
    ),  # an iteration that all graphs of a batch go through together
)


class TestGraphOperators(OperatorContract):
    examples = EXAMPLES


@pytest.mark.parametrize("kinds", [(), ("gcn", "sage")])
def test_tied_layers_are_of_one_kind(kinds: tuple[str, ...]) -> None:
    from search_spaces.errors import GraphError

    with pytest.raises(GraphError, match="one or more layers"):
        case("graph_stack", kinds=kinds, tied=True).graph().cost  # noqa: B018

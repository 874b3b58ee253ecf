"""What can be built: choices, architectures, operator graphs, and the networks made from them.

Importing this package does not import torch; `Network`, `Supernet` and `trace` do when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import compound, families, gnn, mobile, nasbench201, nasbench_graph, pruned, recurrent  # noqa: F401
from .errors import EngineError, GraphError, SpaceError
from .graph import Graph, GraphBuilder, Node, Signature
from .operators import (  # noqa: F401
    Cost,
    Operator,
    Shape,
    activation,
    arithmetic,
    attention,
    blocks,
    convolution,
    foreign,
    movement,
    normalization,
    operators,
    parameters,
    pooling,
    register_operator,
    residual,
    shuffle,
)
from .registry import Registry
from .space import Architecture, Choice, SearchSpace
from .spaces import make_space, register_space, spaces
from .tabular import TableSpace

if TYPE_CHECKING:
    from .modules import Stateful, carrying, reset_state
    from .network import Network
    from .supernet import Supernet
    from .trace import trace

_LAZY = {
    "Network": ".network",
    "Stateful": ".modules",
    "Supernet": ".supernet",
    "carrying": ".modules",
    "reset_state": ".modules",
    "trace": ".trace",
}

__all__ = [
    "Architecture",
    "Choice",
    "Cost",
    "EngineError",
    "Graph",
    "GraphBuilder",
    "GraphError",
    "Network",
    "Node",
    "Operator",
    "Registry",
    "SearchSpace",
    "Shape",
    "Signature",
    "SpaceError",
    "Stateful",
    "Supernet",
    "TableSpace",
    "carrying",
    "make_space",
    "operators",
    "register_operator",
    "register_space",
    "reset_state",
    "spaces",
    "trace",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

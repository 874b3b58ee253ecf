"""From any torch module to its graph.

The module is recorded by torch.fx at two batch sizes, as in evaluation; what differs between the recordings follows the
batch. Nodes bear the paths of the sub-modules they stand for, so `Network(trace(m))` takes m's state dict.
"""

from __future__ import annotations

import sys
from types import ModuleType

from torch import Tensor, nn

from .errors import GraphError
from .graph import Graph, Node, Signature
from .tracing import rules  # noqa: F401  (files the rules)
from .tracing.layout import Batches
from .tracing.recorder import record
from .tracing.translator import Translator, module_state


def trace(module: nn.Module, example: Tensor | tuple[Tensor, ...]) -> Graph:
    """The operator graph of a module.

    The module is recorded as in evaluation: dropout becomes a node that acts in training, but stochastic depth and
    whatever else a module does in training alone are gone. Tensors that it keeps outside its parameters and buffers
    are constants of the graph.

    Calls that no operator stands for become nodes of operator `other`, are listed in `Graph.uncounted`, and need
    `Network(graph, source=module)` to run. Tensors of the module that its `forward` never reads become nodes of
    operator `unused`, which no node reads: they are counted, and networks hold them, so that state dicts fit both ways.

    Args:
        module: what to trace; its weights may lie on any device, "meta" included. It is not changed.
        example: an input, or a tuple of them; only shapes and types matter. The first axis is the batch.

    Raises:
        GraphError: control flow depends on data or on the batch size, examples of a batch are mixed in a result, or a
            tensor is written in place in a way that cannot be followed.

    >>> import torch
    >>> graph = trace(nn.Conv2d(3, 8, 3, bias=False), torch.zeros(1, 3, 8, 8))
    >>> graph.cost.macs
    7776
    """
    examples = (example,) if isinstance(example, Tensor) else tuple(example)
    if not examples or not all(isinstance(e, Tensor) and e.dim() > 1 for e in examples):
        raise GraphError("trace needs an example tensor with a batch axis in front, or a tuple of them")
    size = max(2, examples[0].shape[0])
    first, second = (record(module, [((n * size, *e.shape[1:]), e.dtype, e.device) for e in examples]) for n in (1, 2))
    graph = Translator(module, first, second, Batches(size, 2 * size)).translate()
    return Graph((*graph.nodes, *_unread(module, graph)), graph.outputs)


def _unread(module: nn.Module, graph: Graph) -> list[Node]:
    """Nodes for the tensors of the module's state dict that no node has: second names, and tensors nothing reads."""
    state = {k: v for k, v in module.state_dict(keep_vars=True).items() if isinstance(v, Tensor)}
    missing = set(state) - _held(module, graph)
    nodes = []
    for path, of in _shared_modules(module):
        keys = {k for k in missing if k.startswith(f"{path}.")}
        if keys and not any(f"{of}{k[len(path) :]}" in missing for k in keys):
            nodes.append(Node(path, Signature.named("alias", {"of": of}, ())))
            missing -= keys
    known = {id(state[k]): k for k in state if k not in missing}
    for key in (k for k in state if k in missing):
        tensor = state[key]
        if id(tensor) in known:
            nodes.append(Node(key, Signature.named("alias", {"of": known[id(tensor)]}, ())))
            continue
        known[id(tensor)] = key
        dtype, learned = str(tensor.dtype).removeprefix("torch."), isinstance(tensor, nn.Parameter)
        attributes = {"size": tuple(tensor.shape), "dtype": dtype, "learned": learned}
        nodes.append(Node(key, Signature.named("unused", attributes, ())))
    return nodes


def _held(module: nn.Module, graph: Graph) -> set[str]:
    """Names of the tensors that a graph's network has."""
    held: set[str] = set()
    for node in graph.nodes:
        operator = node.signature.operator
        if operator.parameter() is not None:
            held.add(node.name)
        elif node.operator == "other":
            if node.attributes["kind"] == "module":
                path = node.attributes["target"]
                held.update(f"{path}.{k}" for k in module.get_submodule(path).state_dict())
        elif not node.signature.pure and node.operator != "input":
            path = node.attributes["slot"] if node.operator == "again" else node.name
            held.update(f"{path}.{k}" for k in module_state(node.signature))
    return held


def _shared_modules(module: nn.Module) -> list[tuple[str, str]]:
    """Second paths of sub-modules that are registered twice, with the first; outer ones first."""
    first: dict[nn.Module, str] = {}
    pairs: list[tuple[str, str]] = []
    for path, part in module.named_modules(remove_duplicate=False):
        if part in first and not any(path.startswith(f"{p}.") for p, _ in pairs):
            pairs.append((path, first[part]))
        first.setdefault(part, path)
    return pairs


class _Callable(ModuleType):
    """`search_spaces.trace` is this file once it is imported; the package promises a function, so it can be called."""

    def __call__(self, module: nn.Module, example: Tensor | tuple[Tensor, ...]) -> Graph:
        return trace(module, example)


sys.modules[__name__].__class__ = _Callable

"""Calls that no operator stands for: writing their arguments into a graph, and making them again from the module.

Arguments are trees of tuples that JSON can hold, each headed by what it is: ("tensor", 0) is the first input.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..errors import GraphError
from ..graph import Graph, Node
from ..operators.foreign import Other
from .layout import Batch, Layout, Unsupported, Value
from .recorder import plain_tensors, record

_BATCH = 2  # of the recording that finds functions again


def encode(thing: Any, values: list[Value]) -> Any:
    """An argument as a tree of tuples; tensors are appended to `values` and numbered."""
    if isinstance(thing, Value):
        values.append(thing)
        return ("tensor", len(values) - 1)
    if isinstance(thing, Batch):
        return ("batch", thing.factor)
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    if isinstance(thing, slice):
        return ("slice", *(encode(v, values) for v in (thing.start, thing.stop, thing.step)))
    if isinstance(thing, tuple | list):
        return ("list" if isinstance(thing, list) else "tuple", *(encode(v, values) for v in thing))
    if isinstance(thing, dict):
        return ("dict", *((str(k), encode(v, values)) for k, v in thing.items()))
    if isinstance(thing, torch.dtype):
        return ("dtype", str(thing).removeprefix("torch."))
    if isinstance(thing, torch.device):
        return ("device",)
    if thing is Ellipsis:
        return ("ellipsis",)
    raise Unsupported(f"an argument of type {type(thing).__name__}")


def decode(tree: Any, tensors: list[Tensor], batch: int) -> Any:
    """The argument that `encode` wrote, for these inputs and this batch size."""
    if not isinstance(tree, tuple):
        return tree
    kind, *rest = tree
    if kind == "tensor":
        return tensors[rest[0]]
    if kind == "batch":
        return rest[0] * batch
    if kind == "dtype":
        return getattr(torch, rest[0])
    if kind == "device":
        return tensors[0].device
    if kind == "ellipsis":
        return Ellipsis
    if kind == "dict":
        return {k: decode(v, tensors, batch) for k, v in rest}
    parts = [decode(v, tensors, batch) for v in rest]
    return slice(*parts) if kind == "slice" else tuple(parts) if kind == "tuple" else parts


def place_of_batch(layout: Layout) -> tuple[int, int]:
    """What `Other.layouts` says of a tensor."""
    return (-1, 1) if layout.batch is None else (layout.batch, layout.sizes[layout.batch])


def encode_results(out: Any) -> Any:
    """The tree of layouts of a result, for `Other.results`."""
    if isinstance(out, Layout):
        return ("layout", *place_of_batch(out))
    if isinstance(out, tuple | list):
        return ("tuple", *map(encode_results, out))
    if isinstance(out, dict):
        return ("dict", *((str(k), encode_results(v)) for k, v in out.items()))
    return ("none",)


def recorded(tensor: Tensor, batch: int, factor: int) -> Tensor:
    """A graph's value, which has the batch in front, as the traced module has it."""
    if batch < 0:
        return tensor[0]
    tensor = tensor.movedim(0, batch)
    return tensor.flatten(batch, batch + 1) if factor > 1 else tensor


def returned(result: Any, tree: Any) -> Any:
    """What a call of the traced module gave, as values of the graph."""
    kind, *rest = tree
    if kind == "layout":
        batch, factor = rest
        if batch < 0:
            return result[None]
        result = result.unflatten(batch, (-1, factor)) if factor > 1 else result
        return result.movedim(batch, 0)
    if kind == "tuple":
        return tuple(returned(r, t) for r, t in zip(result, rest, strict=True))
    if kind == "dict":
        return {k: returned(result[k], t) for k, t in rest}
    return None


@dataclass(frozen=True)
class ForeignCall:
    """A call of a traced module's part with values of the graph."""

    operator: Other
    call: Callable[..., Any]

    def __call__(self, *tensors: Tensor) -> Any:
        operator = self.operator
        given = [recorded(t, *place) for t, place in zip(tensors, operator.layouts, strict=True)]
        if operator.writes:
            given = [t.clone() for t in given]
        sizes = [t.shape[0] for t, (batch, _) in zip(tensors, operator.layouts, strict=True) if batch >= 0]
        batch = sizes[0] if sizes else 1
        args = decode(operator.arguments, given, batch) if operator.arguments else ()
        kwargs = decode(operator.keywords, given, batch) if operator.keywords else {}
        return returned(self.call(*args, **kwargs), operator.results)


def foreign_parts(
    graph: Graph, source: nn.Module | None
) -> tuple[dict[str, nn.Module], dict[str, Tensor], dict[str, Callable[..., Any]]]:
    """What the `other` nodes of a graph need of `source`: modules by path, constants and functions by node.

    Modules are copied. Functions are looked up in a recording of `source`, so a graph can name no others.

    Raises:
        GraphError: there are such nodes and no source, or the source has no such part.
    """
    modules: dict[str, nn.Module] = {}
    tensors: dict[str, Tensor] = {}
    functions: dict[str, Callable[..., Any]] = {}
    nodes = [n for n in graph.nodes if isinstance(n.signature.operator, Other)]
    if source is None:
        names = ", ".join(f"{n.name!r} ({n.attributes['target']})" for n in nodes[:3]) + (", ..." if nodes[3:] else "")
        raise GraphError(f"no operator stands for {names}: pass source=, the module that the graph was traced from")
    recording = None
    for node in nodes:
        kind, target = node.attributes["kind"], node.attributes["target"]
        if kind == "module":
            modules[target] = _submodule(node, source)
        elif kind == "method":
            functions[node.name] = partial(_method, target)
        else:
            recording = recording or record(source, _inputs(graph, source))
            if kind == "tensor":
                tensors[node.name] = nn.Buffer(_constant(node, recording.tensors), persistent=False)
            else:
                functions[node.name] = _function(node, recording.graph)
    return modules, tensors, functions


def qualified_name(function: Any) -> str:
    """The name under which `other` nodes know a function."""
    return f"{getattr(function, '__module__', None) or 'torch'}.{getattr(function, '__name__', function)}"


def _method(name: str, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
    return getattr(tensor, name)(*args, **kwargs)


def _submodule(node: Node, source: nn.Module) -> nn.Module:
    try:
        part = source.get_submodule(node.attributes["target"])
    except AttributeError:
        raise _not_found(node) from None
    return copy.deepcopy(part, {id(t): t.detach().clone() for t in plain_tensors(part)})


def _constant(node: Node, tensors: dict[str, Tensor]) -> Tensor:
    if node.attributes["target"] not in tensors:
        raise _not_found(node)
    return tensors[node.attributes["target"]].detach().clone()


def _function(node: Node, calls: fx.Graph) -> Callable[..., Any]:
    for call in calls.nodes:
        if call.op == "call_function" and qualified_name(call.target) == node.attributes["target"]:
            return call.target
    raise _not_found(node)


def _not_found(node: Node) -> GraphError:
    return GraphError(
        f"node {node.name!r} needs {node.attributes['target']!r}, which source= does not have; "
        "pass the module that the graph was traced from"
    )


def _inputs(graph: Graph, source: nn.Module) -> list[tuple[tuple[int, ...], torch.dtype, torch.device]]:
    tensor = next((t for t in (*source.parameters(), *source.buffers())), torch.empty(()))
    return [((_BATCH, *n.shape), getattr(torch, n.attributes["dtype"]), tensor.device) for n in graph.inputs]

"""Stacks of layers inside a network, run so that training keeps less than every layer's values.

The weights are the modules of the network's own nodes: a stack is run in one way or another, it is not another network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..graph import Graph, Node, Signature, within
from ..network import Plan, execute, plan
from .coupling import Layers, Piece, reversible
from .replay import Replay, uncounted

Call = Callable[[Node], Callable[..., Any]]
_STREAM = "stream"  # the function's own input, beside those of its layer


class Stack:
    """A node of an operator that is `layered`, ready to run.

    Args:
        call: what runs a primitive node, by its name in the network.
        checkpointed: keep each layer's input and run the layer again for its gradient (Chen et al. 2016), rather than
            undo reversible layers.
    """

    def __init__(self, node: Node, call: Call, *, checkpointed: bool = False) -> None:
        self._checkpointed = checkpointed
        made = _whole if checkpointed else _functions
        layers = [layer for layer in node.signature.body or () if layer.operator != "input"]
        self._layers = [made(node.name, layer, _placed(call, node.name, layer.name)) for layer in layers]

    def __call__(self, x: Tensor, *rest: Tensor) -> Tensor:
        """Features `(B, N, F)` and what all layers read beside them, to features."""
        if not self._checkpointed:
            return reversible(self.pieces(*rest), x, replay=Replay(x, modules=self._modules()))
        for (layer,) in self._layers:
            x = checkpoint(partial(execute, layer), x, *rest, use_reentrant=False, context_fn=self._contexts)
        return x

    def pieces(self, *rest: Tensor) -> Layers:
        """The functions of all layers, given what they read beside features."""
        given = tuple(t for t in rest if t.requires_grad)
        return [
            [Piece(partial(_run, steps, rest), (*_parameters(steps), *given)) for steps in layer]
            for layer in self._layers
        ]

    def _modules(self) -> list[nn.Module]:
        return [
            part for layer in self._layers for steps in layer for module in _called(steps) for part in module.modules()
        ]

    def _contexts(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), uncounted(self._modules())


def _run(steps: Plan, rest: Sequence[Tensor], x: Tensor) -> Tensor:
    result: Tensor = execute(steps, None, *rest, x)  # type: ignore[arg-type]  # the layer's whole input is not read
    return result


def _called(steps: Plan) -> list[nn.Module]:
    return [step.call for step in steps.steps if isinstance(step.call, nn.Module)]


def _parameters(steps: Plan) -> list[Tensor]:
    return [p for module in _called(steps) for p in module.parameters()]


def _placed(call: Call, *outer: str) -> Call:
    """A layer's nodes are called as those of the network, which slots of the layer are relative to."""
    return lambda node: call(Node(node.name, within(node.signature, *outer), node.inputs))


def _whole(stack: str, layer: Node, call: Call) -> list[Plan]:
    """The plan of a layer."""
    name = f"{stack}.{layer.name}"
    body = layer.signature.body
    assert body is not None
    path = {node.name: f"{name}.{node.name}" for node in body}
    nodes = tuple(Node(path[n.name], n.signature, tuple(path[i] for i in n.inputs)) for n in body)
    return [plan(Graph(nodes, tuple(path[o] for o in body.outputs)), call)]


def _functions(stack: str, layer: Node, call: Call) -> list[Plan]:
    """A plan for each function of a reversible layer: of the layer's inputs and, last, the function's own."""
    body = layer.signature.body
    assert body is not None
    names: tuple[str, ...] = layer.signature.operator.functions  # type: ignore[attr-defined]
    return [plan(_function(body, f"{stack}.{layer.name}", name), call) for name in names]


def _function(body: Graph, outer: str, name: str) -> Graph:
    """What a node of a body computes, with its first input given from outside."""
    path = {node.name: f"{outer}.{node.name}" for node in body}
    nodes = []
    for node in body:
        inputs = tuple(path[i] for i in node.inputs)
        if node.name == name:
            size = node.signature.inputs[0]
            nodes.append(Node(_STREAM, Signature.named("input", {"size": size}, ())))
            inputs = (_STREAM, *inputs[1:])
        nodes.append(Node(path[node.name], node.signature, inputs))
    return Graph(tuple(nodes), (path[name],)).live()

"""The executor: a graph becomes a plan of steps, and one function runs every plan.

A standalone `Network` holds modules of its own under the names of the nodes; a supernet's plan holds the
same modules bound to slices of shared tensors. Common sub-expressions without weights run once, nodes that
no output needs do not run at all, and every value is dropped after its last use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import GraphError, did_you_mean
from .graph import Graph, Node
from .graph import slot as slot
from .inputs import spread_out
from .message_passing import MODULES as MESSAGE_PASSING
from .modules import MODULES
from .operators.foreign import Other
from .operators.message_passing import GraphStack

MEMORY = ("reversible", "checkpoint", "plain")
OWN_MODULES = {**MODULES, **MESSAGE_PASSING}
"""What constructors of operators may name beside `torch.nn`."""
_SCOPE = {"torch": torch, "nn": nn, "F": F, **OWN_MODULES}


@dataclass(frozen=True, slots=True)
class Step:
    """One call: values are numbered registers; `free` are those not needed afterwards."""

    node: Node
    call: Callable[..., Any]
    inputs: tuple[int, ...]
    output: int
    free: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What `execute` runs: the registers of the inputs, the steps, the registers of the outputs."""

    inputs: tuple[int, ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]


def execute(plan: Plan, *tensors: Tensor) -> Any:
    """Run a plan. One output is returned as a tensor, several as a tuple."""
    if len(tensors) != len(plan.inputs):
        raise GraphError(f"the graph has {len(plan.inputs)} inputs, {len(tensors)} tensors came")
    values: list[Any] = [None] * (len(plan.inputs) + len(plan.steps))
    for register, tensor in zip(plan.inputs, tensors, strict=True):
        values[register] = tensor
    for step in plan.steps:
        values[step.output] = step.call(*[values[i] for i in step.inputs])
        for register in step.free:
            values[register] = None
    results = tuple(values[r] for r in plan.outputs)
    return results[0] if len(results) == 1 else results


@cache
def function(expression: str, arity: int) -> Callable[..., Any]:
    """The function of an operator's expression over `x0, x1, ...`."""
    return eval(f"lambda {', '.join(f'x{i}' for i in range(arity))}: {expression}", dict(_SCOPE))  # noqa: S307


def make_module(node: Node) -> nn.Module | None:
    """The torch module of a primitive node, None where it is a plain function."""
    source = node.signature.operator.constructor(*node.signature.inputs)
    return None if source is None else eval(source, dict(_SCOPE))  # noqa: S307


def plan(
    graph: Graph, call: Callable[[Node], Callable[..., Any]], whole: Callable[[Node], bool] = lambda node: False
) -> Plan:
    """The plan of a graph whose nodes are called by `call(node)`; see `Graph.simplify` for what is left out."""
    graph = graph.simplify(whole)
    register: dict[str, int] = {}
    last: dict[str, int] = {}
    for i, node in enumerate(graph.nodes):
        register[node.name] = i
        last.update(dict.fromkeys(node.inputs, i))
    kept = set(graph.outputs)
    steps = tuple(
        Step(
            node,
            call(node),
            tuple(register[n] for n in node.inputs),
            i,
            tuple(register[n] for n in dict.fromkeys(node.inputs) if last[n] == i and n not in kept),
        )
        for i, node in enumerate(graph.nodes)
        if node.operator != "input"
    )
    return Plan(tuple(register[n.name] for n in graph.inputs), steps, tuple(register[n] for n in graph.outputs))


def place(root: nn.Module, path: str, thing: nn.Module | nn.Parameter | Tensor) -> None:
    """Register a module, parameter or buffer at a dotted path, making containers on the way.

    A module that comes where a container stands takes over what the container holds.
    """
    *folders, name = path.split(".")
    for folder in folders:
        if folder not in root._modules:
            root.add_module(folder, nn.Module())
        root = root.get_submodule(folder)
    if isinstance(thing, nn.Module):
        if name in root._modules:
            _take_over(thing, root.get_submodule(name))
        root.add_module(name, thing)
    elif isinstance(thing, nn.Parameter):
        root.register_parameter(name, thing)
    else:
        root.register_buffer(name, thing, persistent=getattr(thing, "persistent", True))


def _take_over(module: nn.Module, container: nn.Module) -> None:
    for name, child in container.named_children():
        module.add_module(name, child)
    for name, parameter in container.named_parameters(recurse=False):
        module.register_parameter(name, parameter)
    for name, buffer in container.named_buffers(recurse=False):
        module.register_buffer(name, buffer, persistent=name not in container._non_persistent_buffers_set)


def find(root: nn.Module, path: str) -> nn.Module | Tensor | None:
    """The module, parameter or buffer at a dotted path, None where there is none."""
    thing: Any = root
    for name in path.split("."):
        thing = getattr(thing, name, None)
    return thing


def fetch(root: nn.Module, path: str) -> Callable[[], Tensor]:
    """A function that reads the parameter or buffer at a dotted path."""
    folder, _, name = path.rpartition(".")
    owner = root.get_submodule(folder)
    return lambda: getattr(owner, name)


class Network(nn.Module):
    """A torch module made from a graph; its sub-modules bear the nodes' names (dots make folders).

    Args:
        graph: what to build. Nodes that no output needs are not built, but for those of operators `unused` and
            `alias`, which keep the state dict that of the traced module.
        source: the module a graph was traced from; needed where the graph has nodes of operator `other`,
            which then run copies of that module's own parts.

    Raises:
        GraphError: the graph has nodes of operator `other` and there is no source.

    Shapes:
        input: `(N, *graph.inputs[0].shape)`, output: `(N, *shape of the output node)`.
    """

    def __init__(self, graph: Graph, source: nn.Module | None = None) -> None:
        super().__init__()
        self.graph = graph
        simple = graph.simplify()
        modules, tensors, self._functions = _foreign_parts(simple, source)
        for node in (*simple.nodes, *(n for n in graph.nodes if n.operator == "unused")):
            for path, thing in learned(node):
                if node.operator != "again" or find(self, path) is None:
                    place(self, path, thing)
        for path, thing in (*modules.items(), *tensors.items()):
            place(self, path, thing)
        for node in graph.nodes:
            if node.operator == "alias":
                place(self, node.name, _required(self, node))
        self._plan = plan(graph, self._call)
        self.memory = MEMORY[0]

    @property
    def memory(self) -> str:
        """How stacks of layers keep what their gradient needs, one of `MEMORY`.

        "reversible" undoes reversible layers, and keeps all of others; "checkpoint" keeps each layer's input and runs
        the layer again; "plain" keeps all. Results are the same but for rounding.
        """
        return self._memory

    @memory.setter
    def memory(self, memory: str) -> None:
        if memory not in MEMORY:
            raise GraphError(f"unknown way to keep a stack's values {memory!r}: {did_you_mean(memory, MEMORY)}")
        self._memory, self._saving = memory, self._saving_plan(memory)

    def _saving_plan(self, memory: str) -> Plan | None:
        """The plan for training where stacks are run as wholes, None where there are none."""
        from .reversible.stack import Stack

        def whole(node: Node) -> bool:
            operator = node.signature.operator
            if not isinstance(operator, GraphStack):
                return False
            return memory == "checkpoint" or (memory == "reversible" and operator.connection == memory)

        if not any(whole(node) for node in self.graph):
            return None
        stacked = memory == "checkpoint"
        return plan(
            self.graph,
            lambda node: Stack(node, self._call, checkpointed=stacked) if whole(node) else self._call(node),
            whole,
        )

    def _call(self, node: Node) -> Callable[..., Any]:
        operator = node.signature.operator
        if operator.parameter() is not None:
            return fetch(self, node.name)
        if node.signature.pure:
            return function(operator.expression(*_names(node)) or "", len(node.inputs))
        if isinstance(operator, Other):
            return self._foreign(node.name, operator)
        return self.get_submodule(slot(node))

    def _foreign(self, name: str, operator: Other) -> Callable[..., Any]:
        from .tracing.foreign import ForeignCall

        if operator.kind == "tensor":
            read = fetch(self, name)
            return lambda: read()[None]
        return ForeignCall(operator, self._functions.get(name) or self.get_submodule(operator.target))

    def forward(self, *tensors: Tensor) -> Any:
        tensors = spread_out(tensors)
        if self._saving is not None and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return execute(self._saving, *tensors)
        return execute(self._plan, *tensors)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_plan", "_saving")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._plan = plan(self.graph, self._call)
        self.memory = self._memory


def _names(node: Node) -> list[str]:
    return [f"x{i}" for i in range(len(node.inputs))]


def _foreign_parts(graph: Graph, source: nn.Module | None) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Modules, tensors and functions of the traced module that nodes of operator `other` need."""
    if not any(isinstance(n.signature.operator, Other) for n in graph.nodes):
        return {}, {}, {}
    from .tracing.foreign import foreign_parts  # torch.fx is slow to import

    return foreign_parts(graph, source)


def _required(root: nn.Module, node: Node) -> nn.Module | Tensor:
    found = find(root, node.attributes["of"])
    if found is None:
        raise GraphError(
            f"node {node.name!r} is an alias of {node.attributes['of']!r}, which the network does not have"
        )
    return found


def learned(node: Node) -> Sequence[tuple[str, nn.Module | nn.Parameter | Tensor]]:
    """What a primitive node brings into a module tree: (path, module or tensor), nothing for plain functions."""
    operator = node.signature.operator
    if (text := operator.parameter()) is not None:
        tensor = eval(text, dict(_SCOPE))  # noqa: S307
        kind = nn.Parameter(tensor) if operator.trainable else nn.Buffer(tensor, persistent=operator.persistent)
        return [(node.name, kind)]
    module = make_module(node)
    return [] if module is None else [(slot(node), module)]

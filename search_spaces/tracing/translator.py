"""From two recordings of a module to its graph: every recorded call is handed to the rule of its name.

A rule gives the graph's node, or nodes, for a call. Whatever it gives is checked against the recorded shapes; a call
without a rule, or one that its rule does not cover, becomes an `other` node.
"""

from __future__ import annotations

import inspect
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from ..errors import GraphError
from ..graph import Graph, GraphBuilder, Node, Signature
from ..operators.base import Shape
from .foreign import encode, encode_results, place_of_batch, qualified_name
from .layout import Batches, Layout, Unsupported, Value
from .recorder import Recorder

Rule = Callable[..., Any]
RULES: dict[str, Rule] = {}
_IN_PLACE = {"iadd": "add", "isub": "sub", "imul": "mul", "itruediv": "truediv", "imatmul": "matmul", "ipow": "pow"}
_MOST_BUFFER_VALUES, _MOST_CONSTANT_VALUES = 1 << 10, 1 << 16


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Decorator: files a rule under names of torch functions and methods, without the `_` of in-place forms.

    A rule takes the translator and the call's arguments, under the names that torch gives them, and returns a
    `Node`, a `Value` (for calls that change nothing), or a tuple of them.
    """

    def file(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return file


class Translator:
    """Builds the graph of a module, call by call.

    Attributes:
        module: the traced module.
        out: layouts of the result of the call that is being translated.
        call: its node in the recording.
        batch: the graph's first input, whose first axis tells the batch size.
    """

    def __init__(self, module: nn.Module, first: Recorder, second: Recorder, batches: Batches) -> None:
        self.module = module
        self.out: Any = None
        self.call: fx.Node
        self._recordings = first, second
        self._batches = batches
        self._builder = GraphBuilder()
        self._nodes: dict[str, Node] = {}
        self.batch: Node | None = None
        self._known: dict[fx.Node, Any] = {}
        self._pairs: dict[fx.Node, fx.Node] = {}
        self._tensors: dict[str, Node] = {}
        self._state: dict[str, Tensor] = module.state_dict(keep_vars=True)
        self._modules = dict(module.named_modules(remove_duplicate=False))
        self._taken = {*self._modules, *first.named, *self._state, ""}
        self._layers: dict[str, tuple[str, Mapping[str, Any]]] = {}
        self._memory = _by_storage(first.graph)
        self._order = {n: i for i, n in enumerate(first.graph.nodes)}
        self._readers: dict[str, list[fx.Node]] = defaultdict(list)
        for node in first.graph.nodes:
            if node.op == "get_attr":
                self._readers[node.target].extend(node.users)

    def translate(self) -> Graph:
        """The graph of everything that leads to an output."""
        first, second = (list(r.graph.nodes) for r in self._recordings)
        if [(n.op, str(n.target)) for n in first] != [(n.op, str(n.target)) for n in second]:
            raise GraphError(
                f"the module runs otherwise at batch {self._batches.first} than at {self._batches.second}; "
                "make its control flow independent of the batch size"
            )
        outputs: list[Node] = []
        for a, b in zip(first, second, strict=True):
            self._pairs[a] = b
            try:
                if a.op == "output":
                    outputs = self._outputs(self._merge(a.args[0], b.args[0]))
                else:
                    self._known[a] = self._value(a, b)
                    self._follow_writes(a)
            except Unsupported as e:
                where = f" in {a.meta['path']!r}" if a.meta.get("path") else ""
                raise GraphError(f"cannot trace {a.name!r}{where}: {e}") from None
        return self._builder.build(*outputs).live()

    @property
    def name(self) -> str:
        """Name of the called function or method, as rules are filed."""
        return _rule_name(self.call)

    # ---- for rules ---------------------------------------------------------------------------------------

    def add(self, operator: str, *nodes: Node, name: str | None = None, **attributes: Any) -> Node:
        """A node of the graph; its name is that of the sub-module it was made in, or lies in it."""
        name = name or self._name(operator)
        self._taken.add(name)
        self._nodes[name] = self._builder.add(operator, *nodes, name=name, **attributes)
        return self._nodes[name]

    def node(self, value: Value) -> Node:
        """The node of a value, in the shape that its layout says."""
        return self.shaped(value, value.layout.shape)

    def shaped(self, value: Value, shape: Shape) -> Node:
        """The node of a value with the numbers of each example in another shape."""
        if value.key is None:
            if value.node is None:
                raise Unsupported("a value that was not kept")
            return self.reshape(value.node, shape)
        node = self._tensor(value.key)
        if node.operator == "other":
            return self.reshape(node, shape)
        if value.layout.sizes[:1] == (1,) and node.shape == shape:
            return node
        return self._once("batch_of_one", node, size=shape)

    def reshape(self, node: Node, shape: Shape) -> Node:
        if node.shape != shape and node.operator in ("reshape", "flatten"):
            node = self._nodes[node.inputs[0]]
        if node.shape == shape:
            return node
        if len(shape) == 1 < len(node.shape):
            return self.add("flatten", node)
        return self.add("reshape", node, size=shape)

    def aligned(self, *values: Value) -> list[Node]:
        """Nodes of values that broadcast to the result, as they did when recorded."""
        return [self.shaped(v, v.layout.aligned(self.out)) for v in values]

    def expanded(self, node: Node, shape: Shape) -> Node:
        """A value of batch one as a value of the network's batch."""
        if self.batch is None:
            raise Unsupported("a network without inputs")
        return self.add("expand", node, self.batch, size=shape)

    def part(self, path: str) -> nn.Module:
        """A sub-module of the traced module."""
        return self._modules[path]

    def free_name(self, name: str) -> str:
        """A name in the current sub-module that no node has."""
        path = self.call.meta["path"]
        return self._free(f"{path}.{name}" if path else name)

    def owner(self, tensors: Mapping[str, Value | None]) -> str | None:
        """The sub-module whose tensors these are, under these names, if nothing else reads them."""
        keys = {name: v.key for name, v in tensors.items() if v is not None}
        first = next(iter(keys.values()), None)
        path = first.rpartition(".")[0] if first else ""
        if not path or any(key != f"{path}.{name}" for name, key in keys.items()):
            return None
        roles = {_role(reader) for key in keys.values() for reader in self._readers[key or ""]}
        return path if len(roles) == 1 else None

    def layer(self, path: str, operator: str, x: Node, **attributes: Any) -> Node:
        """A node with weights of its own, named as the sub-module that has them; called again, it shares them."""
        if path in self._layers:
            if self._layers[path] != (operator, attributes):
                raise Unsupported(f"{path!r} is called in two ways")
            return self.add(
                "again", x, name=self._unused(path), slot=path, kind=operator, settings=tuple(attributes.items())
            )
        expected = module_state(Signature.named(operator, attributes, (x.shape,)))
        found = {name: self._state.get(f"{path}.{name}") for name in expected}
        if any(t is None or tuple(t.shape) != expected[name] for name, t in found.items()):
            raise Unsupported(f"{path!r} does not have the tensors of {operator}")
        self._layers[path] = operator, attributes
        return self.add(operator, x, name=path, **attributes)

    # ---- recorded nodes ----------------------------------------------------------------------------------

    def _value(self, a: fx.Node, b: fx.Node) -> Any:
        self.call, self.out = a, self._layouts(a.meta["value"], b.meta["value"])
        if a.op == "placeholder":
            name = "input" if len(self._recordings[0].inputs) == 1 else str(a.target)
            node = self.add("input", name=self._free(name), size=self.out.shape, dtype=self.out.dtype)
            self.batch = self.batch or node
            return Value(self.out, node)
        if a.op == "get_attr":
            return self._attribute(str(a.target))
        args, kwargs = self._merge(a.args, b.args), self._merge(a.kwargs, b.kwargs)
        try:
            return self._settle(self._apply(args, kwargs), self.out)
        except (Unsupported, GraphError):
            return self._other(args, kwargs)

    def _apply(self, args: Any, kwargs: Any) -> Any:
        function = RULES.get(self.name)
        if function is None:
            raise Unsupported("no rule")
        try:
            bound = inspect.signature(function).bind(self, *args, **kwargs)
        except TypeError as e:
            raise Unsupported(str(e)) from None
        return function(*bound.args, **bound.kwargs)

    def _settle(self, result: Any, out: Any) -> Any:
        """Values of what a rule gave, checked against what was recorded."""
        if isinstance(result, Value) and isinstance(out, Layout):
            if result.layout != out:
                raise Unsupported(f"a layout of {result.layout} instead of {out}")
            return result
        if isinstance(result, Node) and isinstance(out, Layout):
            if out.batch is None and out.sizes == (1, *result.shape):
                result = self.reshape(result, out.shape)
            if result.shape != out.shape:
                raise Unsupported(f"a shape of {result.shape} instead of {out.shape}")
            return Value(out, result)
        if isinstance(result, tuple) and isinstance(out, tuple) and len(result) == len(out):
            return tuple(self._settle(r, o) for r, o in zip(result, out, strict=True))
        if result is None:
            return Value(out) if isinstance(out, Layout) else None
        raise Unsupported("another structure of results")

    def _other(self, args: Any, kwargs: Any) -> Any:
        """A call that stays the source module's own."""
        values: list[Value] = []
        call, arguments, keywords = self.call, encode(args, values), encode(kwargs, values)
        kind, target, params, name = call.op.removeprefix("call_"), str(call.target), 0, self._name(self.name)
        if kind == "module":
            params = 0 if target in self._layers else sum(p.numel() for p in self._modules[target].parameters())
            name = self._unused(target)
            self._layers[target] = "other", {}
        elif kind == "function":
            target = qualified_name(call.target)
        leaves = _leaves(self.out)
        node = self.add(
            "other",
            *(self.node(v) for v in values),
            name=name,
            kind=kind,
            target=target,
            size=leaves[0][1].shape,
            arguments=arguments if args else (),
            keywords=keywords if kwargs else (),
            layouts=tuple(place_of_batch(v.layout) for v in values),
            results=encode_results(self.out),
            params=params,
            writes=bool(call.meta["written"]),
        )
        return self._items(node, self.out)

    def _items(self, node: Node, out: Any, path: tuple[Any, ...] = ()) -> Any:
        """The tensors of a call's result, each a value of its own."""
        if isinstance(out, Layout):
            return Value(out, self.add("item", node, index=path, size=out.shape) if path else node)
        if isinstance(out, tuple):
            return tuple(self._items(node, o, (*path, i)) for i, o in enumerate(out))
        if isinstance(out, dict):
            return {k: self._items(node, o, (*path, str(k))) for k, o in out.items()}
        return out

    def _outputs(self, result: Any) -> list[Node]:
        if isinstance(result, dict):
            result = tuple(result.values())
        if isinstance(result, tuple | list):
            return [node for part in result for node in self._outputs(part)]
        if not isinstance(result, Value):
            raise Unsupported(f"an output of type {type(result).__name__}; tensors are allowed")
        if not result.layout.plain:
            raise Unsupported(f"an output of sizes {result.layout.sizes} without the batch as its first axis")
        return [self.node(result)]

    # ---- tensors of the module ---------------------------------------------------------------------------

    def _attribute(self, key: str) -> Value:
        if self.out.batch is None:
            return Value(self.out, key=key)
        if not self.out.plain:
            raise Unsupported(f"the constant {key!r} depends on the batch size")
        first, second = (r.tensors[key] for r in self._recordings)
        one = first[:1]
        if not (torch.equal(one.expand_as(first), first) and torch.equal(one.expand_as(second), second)):
            raise Unsupported(f"the constant {key!r} differs between the examples of a batch")
        node = self.add("constant", name=self._free(key), **_content(one, _MOST_CONSTANT_VALUES))
        return Value(self.out, self.expanded(node, self.out.shape))

    def _tensor(self, key: str) -> Node:
        """The node of a parameter, buffer or constant."""
        if key not in self._tensors:
            self._tensors[key] = self._make_tensor(key)
        return self._tensors[key]

    def _make_tensor(self, key: str) -> Node:
        first, second = (r.tensors[key] for r in self._recordings)
        if isinstance(first, nn.Parameter):
            return self.add("parameter", name=key, size=tuple(first.shape))
        if key in self._state:
            return self.add("buffer", name=key, **_content(first, _MOST_BUFFER_VALUES))
        if first is not second and not torch.equal(first, second):
            raise Unsupported(f"the constant {key!r} depends on the batch size")
        content = _content(first, _MOST_CONSTANT_VALUES)
        name = key if key in self._recordings[0].named else self._free(key)
        if content["values"] is not None:
            return self.add("constant", name=name, **content)
        return self.add("other", name=name, kind="tensor", target=key, size=tuple(first.shape))

    def _once(self, operator: str, node: Node, **attributes: Any) -> Node:
        """A node that is made once and used wherever it is needed."""
        key = f"{operator} {node.name} {attributes}"
        if key not in self._tensors:
            self._tensors[key] = self.add(operator, node, name=self._free(f"{node.name}.{operator}"), **attributes)
        return self._tensors[key]

    # ---- comparing the recordings ------------------------------------------------------------------------

    def _merge(self, a: Any, b: Any) -> Any:
        """An argument of a call, with values for recorded nodes and `Batch` for sizes that follow the batch."""
        if isinstance(a, fx.Node):
            if self._pairs.get(a) is not b:
                raise Unsupported("other arguments at another batch size")
            return self._known[a]
        if isinstance(a, tuple | list):
            if len(a) != len(b):
                raise Unsupported(f"{len(a)} or {len(b)} arguments, by the batch size")
            parts = [self._merge(x, y) for x, y in zip(a, b, strict=True)]
            return parts if isinstance(a, list) else tuple(parts)
        if isinstance(a, dict):
            return {k: self._merge(a[k], b[k]) for k in a}
        if isinstance(a, slice):
            return slice(*(self._merge(getattr(a, k), getattr(b, k)) for k in ("start", "stop", "step")))
        if isinstance(a, int) and not isinstance(a, bool) and isinstance(b, int):
            return self._batches.number(a, b)
        if a != b:
            raise Unsupported(f"{a!r} at batch {self._batches.first} and {b!r} at {self._batches.second}")
        return a

    def _layouts(self, a: Any, b: Any) -> Any:
        if isinstance(a, Tensor):
            return self._batches.layout(a.shape, b.shape, str(a.dtype).removeprefix("torch."))
        if isinstance(a, tuple | list):
            return tuple(self._layouts(x, y) for x, y in zip(a, b, strict=True))
        if isinstance(a, dict):
            return {k: self._layouts(a[k], b[k]) for k in a}
        return a

    def _follow_writes(self, call: fx.Node) -> None:
        """After a call in place, readers of the tensor it wrote to read its result."""
        for target in call.meta["written"]:
            here = _geometry(call.meta["value"])
            if target.op == "get_attr" or here is None or here[0] != _geometry(target.meta["value"])[0]:
                raise Unsupported("it writes into a tensor in place")
            for node in self._memory[here[0]]:
                late = any(self._order[u] > self._order[call] for u in node.users)
                if node in self._known and late and node is not call:
                    if _geometry(node.meta["value"]) != here:
                        raise Unsupported(f"it writes in place into the memory of {node.name!r}, which is read later")
                    self._known[node] = self._known[call]

    # ---- names -------------------------------------------------------------------------------------------

    def _name(self, operator: str) -> str:
        path = self.call.meta["path"]
        part = self._modules[path]
        if path and not part._modules and not part._parameters and not part._buffers:
            return self._unused(path)
        return self.free_name(operator)

    def _unused(self, path: str) -> str:
        """The path of a sub-module as the name of a node, numbered from the second on."""
        return self._free(path) if path in self._nodes else path

    def _free(self, name: str) -> str:
        """The name, numbered where it is taken."""
        number, free = 0, name
        while free in self._taken:
            number, free = number + 1, f"{name}_{number + 1}"
        return free


def module_state(signature: Signature) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of an operator's module."""
    from ..network import make_module

    with torch.device("meta"):
        module = make_module(Node("", signature))
    return {} if module is None else {k: tuple(v.shape) for k, v in module.state_dict().items()}


def _content(tensor: Tensor, most: int) -> dict[str, Any]:
    """Attributes of a buffer or constant; no values where they are many, unknown or not numbers."""
    values = None
    if tensor.numel() <= most and tensor.device.type != "meta" and not tensor.is_complex():
        numbers = tensor.detach().flatten().tolist()
        if not any(math.isnan(n) for n in numbers):
            values = tuple(int(n) if isinstance(n, bool) else n for n in numbers)
    return {"size": tuple(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch."), "values": values}


def _rule_name(call: fx.Node) -> str:
    """The name that a call's rule is filed under; functions that are not torch's have none."""
    if call.op == "call_method":
        name = str(call.target)
    elif call.op == "call_function":
        package = (getattr(call.target, "__module__", None) or "torch").partition(".")[0]
        name = getattr(call.target, "__name__", "") if package in ("torch", "_operator", "builtins") else ""
        name = _IN_PLACE.get(name, name)
    else:
        name = ""
    return name if name.endswith("__") else name.rstrip("_") or "other"


def _role(call: fx.Node) -> str:
    """A call without its activations: equal for calls that a shared layer makes."""

    def shorten(a: Any) -> Any:
        return (a.target if a.op == "get_attr" else "*") if isinstance(a, fx.Node) else a

    return f"{call.target} {map_aggregate((call.args, dict(call.kwargs)), shorten)}"


def _leaves(out: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], Layout]]:
    if isinstance(out, Layout):
        return [(path, out)]
    parts = out.items() if isinstance(out, dict) else enumerate(out) if isinstance(out, tuple) else ()
    return [leaf for key, part in parts for leaf in _leaves(part, (*path, key))]


def _geometry(value: Any) -> Any:
    """Where a fake tensor lies in which memory."""
    if not isinstance(value, Tensor):
        return None
    return value.untyped_storage()._cdata, value.shape, value.stride(), value.storage_offset()


def _by_storage(graph: fx.Graph) -> dict[int, list[fx.Node]]:
    memory: dict[int, list[fx.Node]] = defaultdict(list)
    for node in graph.nodes:
        geometry = _geometry(node.meta.get("value"))
        if geometry is not None:
            memory[geometry[0]].append(node)
    return memory

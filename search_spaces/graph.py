"""The operator graph: what a network is, in plain Python.

A node is an operator applied to earlier nodes. What an operator means for given input shapes (its output
shape, its cost, its inner graph) is a `Signature`, made once and shared by all nodes of all graphs that
repeat it: a graph of known blocks costs a dictionary look-up a node, so a million of them is arithmetic.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .errors import GraphError
from .operators.base import Cost, Operator, Shape, make_operator


class Signature:
    """An operator on given input shapes. Interned: equal signatures are the same object.

    Attributes:
        operator: the operator with its attributes.
        inputs: shapes of the inputs, without the batch.
        shape: shape of the output, without the batch.
    """

    __slots__ = ("__dict__", "inputs", "operator", "shape")
    _known: dict[tuple[Operator, tuple[Shape, ...]], Signature] = {}
    _asked: dict[Any, Signature] = {}

    def __init__(self, operator: Operator, inputs: tuple[Shape, ...]) -> None:
        self.operator = operator
        self.inputs = inputs
        try:
            self.shape: Shape = tuple(operator.shape(*inputs))
        except (ArithmeticError, LookupError, TypeError, ValueError) as e:  # as a rule, too few or too many inputs
            raise GraphError(f"{operator!r} does not take inputs of shapes {inputs}: {e}") from e

    @classmethod
    def of(cls, operator: Operator, inputs: tuple[Shape, ...]) -> Signature:
        key = (operator, inputs)
        if key not in cls._known:
            cls._known[key] = cls(operator, inputs)
        return cls._known[key]

    @classmethod
    def named(cls, name: str, attributes: Mapping[str, Any], inputs: tuple[Shape, ...]) -> Signature:
        """The signature of a registered operator; the fast path of graph building."""
        try:
            asked = (name, inputs, tuple(attributes.items()))
            return cls._asked[asked]
        except KeyError:
            signature = cls.of(make_operator(name, attributes), inputs)
            cls._asked[asked] = signature
            return signature
        except TypeError:  # an attribute is a list, as JSON gives them: `make_operator` freezes it
            return cls.of(make_operator(name, attributes), inputs)

    @cached_property
    def body(self) -> Graph | None:
        """The inner graph of a composite operator, None for a primitive one."""
        return self.operator.body(*self.inputs)

    @cached_property
    def cost(self) -> Cost:
        """Cost of one example; a composite's is the sum over its body."""
        if self.body is None:
            return self.operator.cost(self.inputs, self.shape)
        return sum((node.signature.cost for node in self.body.nodes), Cost())

    @cached_property
    def pure(self) -> bool:
        """A plain function of its inputs: no weights, no randomness."""
        return type(self.operator).expression is not Operator.expression

    @cached_property
    def flat(self) -> tuple[tuple[str, Signature, tuple[str, ...]], ...]:
        """The primitive nodes of a composite's body: relative name, signature, names of inputs."""
        if self.body is None:
            raise GraphError(f"operator {self.operator.name!r} is primitive; it has no body to inline")
        return tuple((n.name, n.signature, n.inputs) for n in self.body.inline().nodes)

    @cached_property
    def evaluated(self) -> Signature:
        """The signature of the operator as it is in evaluation."""
        return Signature.of(self.operator.evaluated(), self.inputs)

    def __repr__(self) -> str:
        return f"{self.operator!r} on {self.inputs} -> {self.shape}"

    def __reduce__(self) -> tuple[Any, ...]:
        return Signature.of, (self.operator, self.inputs)


@dataclass(frozen=True, slots=True)
class Node:
    """A named application of an operator; `inputs` are names of earlier nodes."""

    name: str
    signature: Signature
    inputs: tuple[str, ...] = ()

    @property
    def operator(self) -> str:
        return self.signature.operator.name

    @property
    def shape(self) -> Shape:
        return self.signature.shape

    @property
    def attributes(self) -> dict[str, Any]:
        return self.signature.operator.attributes


def slot(node: Node) -> str:
    """Path of the module that a node calls: its name, but for nodes that call another node's module again."""
    return node.attributes["slot"] if node.operator == "again" else node.name


@dataclass(frozen=True)
class Graph:
    """Operators in topological order, with the names of the outputs.

    Nodes of operator `input` are the graph's inputs, in order. Graphs compare by their content.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for node in self.nodes:
            for name in node.inputs:
                if name not in seen:
                    raise GraphError(f"node {node.name!r} reads {name!r}, which no earlier node makes")
            if node.name in seen:
                raise GraphError(f"two nodes are named {node.name!r}; names are weight slots and must differ")
            seen.add(node.name)
        for name in self.outputs:
            if name not in seen:
                raise GraphError(f"output {name!r} is not a node of the graph")

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, name: str) -> Node:
        try:
            return self._by_name[name]
        except KeyError:
            raise GraphError(f"the graph has no node {name!r}; it has {len(self)} nodes, see Graph.nodes") from None

    @cached_property
    def _by_name(self) -> dict[str, Node]:
        return {n.name: n for n in self.nodes}

    @property
    def inputs(self) -> tuple[Node, ...]:
        return tuple(n for n in self.nodes if n.operator == "input")

    @cached_property
    def cost(self) -> Cost:
        """Sum of the nodes' costs for one example (dead nodes included)."""
        return sum((n.signature.cost for n in self.nodes), Cost())

    @property
    def uncounted(self) -> tuple[Node, ...]:
        """Primitive nodes whose cost is not known; reports must name them."""
        return tuple(n for n in self.inline().nodes if not n.signature.cost.counted)

    def inline(self, whole: Callable[[Node], bool] = lambda node: False) -> Graph:
        """The same network with composites replaced by their primitive nodes, `outer.inner` by name.

        Args:
            whole: which composites stay as they are; none by default.
        """
        nodes: list[Node] = []
        renamed: dict[str, str] = {}
        for node in self.nodes:
            if node.signature.body is None or whole(node):
                nodes.append(Node(node.name, node.signature, tuple(renamed.get(i, i) for i in node.inputs)))
                continue
            outer = tuple(renamed.get(i, i) for i in node.inputs)
            inner: dict[str, str] = {}
            feed = iter(outer)
            for name, signature, inputs in node.signature.flat:
                if signature.operator.name == "input":
                    inner[name] = next(feed)
                    continue
                inner[name] = f"{node.name}.{name}"
                nodes.append(Node(inner[name], within(signature, node.name), tuple(inner[i] for i in inputs)))
            renamed[node.name] = inner[node.signature.body.inline().outputs[0]]
        return Graph(tuple(nodes), tuple(renamed.get(o, o) for o in self.outputs))

    def live(self) -> Graph:
        """The graph without nodes that no output needs; inputs stay."""
        needed = set(self.outputs)
        for node in reversed(self.nodes):
            if node.name in needed:
                needed.update(node.inputs)
        return Graph(tuple(n for n in self.nodes if n.name in needed or n.operator == "input"), self.outputs)

    def simplify(self, whole: Callable[[Node], bool] = lambda node: False) -> Graph:
        """What is executed: inlined and live, identities looked through, repeated functions run once.

        A node without weights that applies an equal operator to the same inputs as an earlier node is
        replaced by that node. Composites that are `whole` stay as they are.
        """
        alias: dict[str, str] = {}
        first: dict[Any, str] = {}
        kept = []
        inlined = self.inline(whole)
        for node in inlined.live().nodes:
            inputs = tuple(alias.get(i, i) for i in node.inputs)
            if node.operator == "identity":
                alias[node.name] = inputs[0]
                continue
            if node.signature.pure:
                repeated = first.setdefault((node.signature, inputs), node.name)
                if repeated != node.name:
                    alias[node.name] = repeated
                    continue
            kept.append(Node(node.name, node.signature, inputs))
        return Graph(tuple(kept), tuple(alias.get(o, o) for o in inlined.outputs)).live()

    def to_json(self) -> str:
        """Canonical JSON; `Graph.from_json` gives an equal graph."""
        nodes = [
            {
                "name": n.name,
                "operator": n.operator,
                "inputs": n.inputs,
                "attributes": {name: _plain(value) for name, value in n.attributes.items()},
                "shape": n.shape,
            }
            for n in self.nodes
        ]
        return json.dumps({"nodes": nodes, "outputs": self.outputs}, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Graph:
        """Rebuild a graph; shapes are inferred again and compared with the stored ones."""
        try:
            data = json.loads(text)
            shapes: dict[str, Shape] = {}
            nodes = []
            for item in data["nodes"]:
                inputs = tuple(item["inputs"])
                signature = Signature.named(item["operator"], item["attributes"], tuple(shapes[i] for i in inputs))
                if list(signature.shape) != list(item["shape"]):
                    raise GraphError(
                        f"node {item['name']!r} is stored with shape {item['shape']} but has {list(signature.shape)}"
                    )
                shapes[item["name"]] = signature.shape
                nodes.append(Node(item["name"], signature, inputs))
            return cls(tuple(nodes), tuple(data["outputs"]))
        except (AttributeError, KeyError, TypeError, ValueError) as e:
            raise GraphError(
                f"not a graph in JSON ({type(e).__name__}: {e}); expected what Graph.to_json writes"
            ) from None

    @cached_property
    def id(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


def within(signature: Signature, *outer: str) -> Signature:
    """A signature from a composite's body as it is outside: slots of `again` are relative to the body it stands in.

    Each leading "^" of a slot leads one composite further out. `outer` are names of composites, the outermost first.
    """
    if signature.operator.name != "again":
        return signature
    settings = signature.operator.attributes
    path, names = settings["slot"], list(outer)
    while names and path.startswith("^"):
        path = path[1:]
        names.pop()
    return Signature.named("again", {**settings, "slot": ".".join([*names, path])}, signature.inputs)


def _plain(value: Any) -> Any:
    """Whole numbers as such: 4 and 4.0 make equal operators, so they must make equal text."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class GraphBuilder:
    """Builds a graph node by node; shapes are inferred at once, so mistakes are told where they are made.

    >>> g = GraphBuilder((3, 8, 8))
    >>> x = g.add("conv2d", g.input, name="stem", out_channels=16, kernel_size=3, padding=1)
    >>> x.shape
    (16, 8, 8)
    >>> g.build(x).cost.macs
    27648
    """

    def __init__(self, *input_shapes: Sequence[int]) -> None:
        self._nodes: list[Node] = []
        self._taken: set[str] = set()
        names = ["input"] if len(input_shapes) == 1 else [f"input{i}" for i in range(len(input_shapes))]
        self.inputs = [self.add("input", name=n, size=tuple(s)) for n, s in zip(names, input_shapes, strict=True)]

    @property
    def input(self) -> Node:
        return self.inputs[0]

    def add(self, operator: str, *inputs: Node, name: str | None = None, **attributes: Any) -> Node:
        """Append a node. Without a name it is called after its operator, numbered.

        Raises:
            GraphError: unknown operator or attribute, shapes that do not fit, a name that is taken.
        """
        if name is None:
            name = next(n for i in range(len(self._nodes) + 1) if (n := f"{operator}{i}") not in self._taken)
        if name in self._taken:
            raise GraphError(f"two nodes are named {name!r}; names are weight slots and must differ")
        try:
            signature = Signature.named(operator, attributes, tuple(n.shape for n in inputs))
        except GraphError as e:
            raise GraphError(f"node {name!r}: {e}") from None
        node = Node(name, signature, tuple(n.name for n in inputs))
        self._nodes.append(node)
        self._taken.add(name)
        return node

    def build(self, *outputs: Node) -> Graph:
        """The graph of all nodes so far, with these outputs."""
        return Graph(tuple(self._nodes), tuple(n.name for n in outputs))

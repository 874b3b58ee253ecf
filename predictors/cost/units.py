"""What is measured as one: the units of a graph, and how the executor's sharing between them is counted.

A primitive operator or a composite with `Operator.fused` is a unit; other composites are the units of their bodies.
Within such a body the executor runs a repeated function once, so its repetitions count with a negative sign.
"""

from __future__ import annotations

from collections import Counter
from functools import cache

from search_spaces.graph import Graph, Node, Signature

Units = tuple[tuple[Signature, int], ...]

_WHOLE = {
    **dict.fromkeys(("embedding", "functional_embedding", "word_dropout"), (0,)),
    **dict.fromkeys(("graph_conv", "graph_equilibrium", "graph_block", "graph_layer", "graph_stack"), (1,)),
}
"""Inputs of operators that are whole numbers."""


@cache
def units(signature: Signature) -> Units:
    """The units of a signature with the times each is run; a negative number takes back what runs only once."""
    signature = itself(signature.evaluated)
    body = signature.body
    if body is None or signature.operator.fused:
        return ((signature, 1),) if runs(signature) else ()
    counts: Counter[Signature] = Counter()
    for node in body.live().nodes:
        for unit, times in units(node.signature):
            counts[unit] += times
    for unit, times in shared(body).items():
        counts[unit] -= times
    return tuple((unit, times) for unit, times in counts.items() if times)


def itself(signature: Signature) -> Signature:
    """The operator that a node calls again takes the time that it takes where it is called first."""
    if signature.operator.name != "again":
        return signature
    called = signature.operator.attributes
    return Signature.named(called["kind"], dict(called["settings"]), signature.inputs).evaluated


def shared(body: Graph) -> Counter[Signature]:
    """Primitive functions that the executor leaves out as repetitions, those inside one node of the body aside.

    Those inside a node that is itself a unit are in its time already; those of other composites in its `units`.
    """
    live = body.live()
    reads = [name for node in live.nodes for name in node.inputs]
    if len(set(reads)) == len(reads):  # functions repeat on equal inputs only
        return Counter()
    missing = _repeated(live)
    for node in live.nodes:
        if node.signature.body is not None:
            missing -= _repeated_inside(node.signature)
    return missing


@cache
def _repeated_inside(signature: Signature) -> Counter[Signature]:
    return Counter() if signature.body is None else _repeated(signature.body)


def _repeated(graph: Graph) -> Counter[Signature]:
    inlined = graph.inline()
    every = Counter(node.signature for node in inlined.live().nodes if runs(node.signature))
    return every - Counter(node.signature for node in inlined.simplify().nodes)


@cache
def runs(signature: Signature) -> bool:
    """Whether anything is executed for it: not for inputs, identities, masks and names of weights, also as values."""
    signature = signature.evaluated
    if signature.body is None:
        named = (
            signature.operator.name in ("input", "identity", "batch_of_one", "dropout_mask")
            or signature.operator.parameter() is not None
        )
        return not named and not (signature.operator.view and not signature.inputs)
    return any(runs(node.signature) for node in signature.body.simplify().nodes)


@cache
def measurable(signature: Signature) -> bool:
    """Whether its attributes describe its torch side, as those of a traced module's foreign parts do not."""
    if signature.body is not None:
        return all(measurable(node.signature) for node in signature.body.simplify().nodes)
    operator = signature.operator
    if signature.pure or operator.name == "input" or operator.parameter() is not None:
        return True
    return operator.constructor(*signature.inputs) is not None


def unit_graph(signature: Signature) -> Graph:
    """The network that a unit is measured as: the operator on inputs of its own."""
    whole = _WHOLE.get(signature.operator.name, ())
    inputs = tuple(
        Node(f"input{i}", Signature.named("input", {"size": shape, **({"dtype": "int64"} if i in whole else {})}, ()))
        for i, shape in enumerate(signature.inputs)
    )
    node = Node("unit", signature, tuple(n.name for n in inputs))
    return Graph((*inputs, node), ("unit",))


def units_of(graph: Graph) -> Counter[Signature]:
    """The units of all nodes that an output needs."""
    counts: Counter[Signature] = Counter()
    for node in graph.live().nodes:
        for unit, times in units(node.signature):
            counts[unit] += times
    return counts

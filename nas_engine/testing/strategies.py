"""Hypothesis strategies: small random graphs with every awkward shape of wiring, and small random spaces.

Graphs have dead nodes, repeated functions, chains of identities, composites within reach of primitives, several
outputs and inputs handed through; spaces have conditional choices and options of all types.
"""

from __future__ import annotations

from typing import Any, ClassVar

from hypothesis import strategies as st

from search_spaces import Architecture, Choice, Graph, GraphBuilder, Node, SearchSpace, Shape

CHANNELS = (4, 8)
SIDES = (4, 6)
_OPTIONS = st.one_of(
    st.integers(-3, 9), st.floats(-2, 2, width=16), st.booleans(), st.text("abcdefgh_", min_size=1, max_size=4)
)

_WEIGHTED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("conv2d", {"kernel_size": 3, "padding": 1}),
    ("conv2d", {"kernel_size": 1, "stride": 2, "bias": True}),
    ("conv_bn_act", {"kernel_size": 3}),
    ("inverted_residual", {"expansion": 2, "se_ratio": 0.25}),
    ("relu_conv_bn", {"kernel_size": 1}),
)


def shapes() -> st.SearchStrategy[Shape]:
    """Shapes of small images, `(C, H, W)`."""
    return st.tuples(st.sampled_from(CHANNELS), st.sampled_from(SIDES), st.sampled_from(SIDES))


@st.composite
def graphs(draw: st.DrawFn, max_nodes: int = 10) -> Graph:
    """A graph of one or two images with up to `max_nodes` nodes and up to three outputs, some of them dead ends."""
    builder = GraphBuilder(*draw(st.lists(shapes(), min_size=1, max_size=2)))
    nodes: list[Node] = list(builder.inputs)
    for _ in range(draw(st.integers(0, max_nodes))):
        nodes.append(_grow(draw, builder, nodes))
    outputs = draw(st.lists(st.sampled_from(nodes), min_size=0, max_size=2))
    return builder.build(nodes[-1], *outputs)


def _grow(draw: st.DrawFn, builder: GraphBuilder, nodes: list[Node]) -> Node:
    kind = draw(st.sampled_from(("join", "plain", "weights")))
    node = draw(st.sampled_from(nodes))
    if kind == "join":
        fits = [n for n in nodes if n.shape == node.shape]
        others = draw(st.lists(st.sampled_from(fits), min_size=1, max_size=2))
        return builder.add(draw(st.sampled_from(("add", "multiply", "concat"))), node, *others)
    if kind == "plain":
        return _plain(draw, builder, node)
    name, attributes = draw(st.sampled_from(_WEIGHTED))
    return builder.add(name, node, out_channels=draw(st.sampled_from(CHANNELS)), **attributes)


def _plain(draw: st.DrawFn, builder: GraphBuilder, node: Node) -> Node:
    name = draw(st.sampled_from(("identity", "zero", "activation", "avg_pool2d", "batch_norm", "dropout")))
    if name == "avg_pool2d":
        return builder.add(name, node, kernel_size=3, stride=1, padding=1)
    return builder.add(name, node)


class RandomSpace(SearchSpace):
    """Choices given from outside; a member is a chain of convolutions as wide as its option indices."""

    name: ClassVar[str] = "random"

    def graph(self, architecture: Architecture) -> Graph:
        builder = GraphBuilder(self.input_shape)
        node = builder.input
        for position in self.counting(architecture):
            width = architecture.indices[position] + 1
            node = builder.add("conv2d", node, name=self.choices[position].name, out_channels=width)
        return builder.build(builder.add("classifier", node, name="classifier", classes=self.classes))


@st.composite
def choice_lists(draw: st.DrawFn, max_choices: int = 5) -> list[Choice]:
    """Choices of which some depend on another, before or after it in the list."""
    count = draw(st.integers(1, max_choices))
    options = st.lists(_OPTIONS, min_size=1, max_size=4, unique_by=lambda o: (isinstance(o, bool), o))
    free = [Choice(f"choice{i}", tuple(draw(options))) for i in range(count)]
    parents = draw(st.lists(st.sampled_from(free), min_size=1, max_size=2, unique_by=lambda c: c.name))
    choices = []
    for choice in free:
        if choice not in parents and draw(st.booleans()):
            parent = draw(st.sampled_from(parents))
            when = draw(st.lists(st.sampled_from(parent.options), min_size=1, unique_by=repr))
            choice = Choice(choice.name, choice.options, (parent.name, tuple(when)))
        choices.append(choice)
    return choices


def spaces(max_choices: int = 5) -> st.SearchStrategy[RandomSpace]:
    """Spaces of up to `4 ** max_choices` members."""
    return choice_lists(max_choices).map(lambda choices: RandomSpace(choices, input_shape=(3, 4, 4), classes=2))

"""The text of `model.py`: the classes of a network, written into the template beside this file."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces import Graph
from search_spaces.errors import ExportError
from search_spaces.network import slot

from ..base import input_dtype, input_name
from .classes import BlockClass, init_lines, make_classes
from .modules import module_sources, names_of
from .text import call_lines, literal

if TYPE_CHECKING:
    import jinja2

    from ..card import Card

_USED_WIDTH = 80
_NAMED = 10  # classes named in the docstring; CLASSES lists them all


def model_source(graph: Graph, card: Card) -> str:
    """The text of `model.py`.

    Raises:
        ExportError: the graph has nodes that only the module it was traced from can run.
    """
    for node in graph.simplify().nodes:
        operator = node.signature.operator
        written = node.signature.pure or node.operator == "input" or operator.parameter() is not None
        if not written and operator.constructor(*node.signature.inputs) is None:
            raise ExportError(
                f"node {slot(node)!r} is of operator {node.operator!r}, which has no source to write down; "
                "leave the format 'model.py' out"
            )
    own = module_sources(names_of(graph))
    classes, network = make_classes(graph, own)
    text = template("model.py.j2").render(
        card=card,
        shape=tuple(graph.inputs[0].shape),
        output=tuple(graph[graph.outputs[0]].shape),
        given=input_name(graph),
        dtype=input_dtype(graph),
        modules=list(own.values()),
        classes=[_described(c) for c in classes],
        network=_described(network),
        constants=_constants(graph, card),
        about=_about(graph, card),
    )
    return text.rstrip() + "\n"


@cache
def template(name: str) -> jinja2.Template:
    """A template of the export package; unknown names in it are errors."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parents[1] / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["docstring"] = _in_docstring
    return environment.get_template(name)


def _about(graph: Graph, card: Card) -> list[str]:
    """The lines of the docstring on inputs, outputs and data."""
    shape, output = (", ".join(map(str, s)) for s in (graph.inputs[0].shape, graph[graph.outputs[0]].shape))
    given, dtype = input_name(graph), input_dtype(graph)
    said = [f"Input: {given} (N, {shape}), {dtype}{', normalised by `preprocess`' if card.mean else ''}."]
    if card.mean:
        said.append("Preprocessing: pixels in 0..1 (uint8 divided by 255), then (pixel - MEAN) / STD for each channel.")
    named = ", ".join(f"{i} {name}" for i, name in enumerate(card.classes[:_NAMED]))
    more = f" and {len(card.classes) - _NAMED} more" if len(card.classes) > _NAMED else ""
    said.append(f"Output: logits (N, {output})" + (f", in the order of CLASSES: {named}{more}." if named else "."))
    if card.data:
        said.append(f"Data: {card.data}")
    return [line for text in said for line in textwrap.wrap(text, 100, subsequent_indent="    ")]


def _described(made: BlockClass) -> dict[str, Any]:
    """What the template needs of a class."""
    parameters = "".join(f", {p.name}: {p.kind}" if p.kind else f", {p.name}" for p in made.parameters)
    arguments = "".join(f", {a}: Tensor" for a in made.block.forward.arguments)
    return {
        "name": made.name,
        "used": _used(made.paths),
        "init": _signature("__init__", parameters, "None"),
        "body": init_lines(made),
        "call": _signature("forward", arguments, "Tensor"),
        "forward": made.block.forward.lines,
    }


def _signature(name: str, parameters: str, result: str) -> str:
    return "\n".join(call_lines("def ", name, ["self", *parameters.split(", ")[1:]], f" -> {result}:", indent=4))


def _used(paths: Sequence[str]) -> str:
    """Where a class is used, in words."""
    shown = [f"`{p}`" for p in paths]
    while len(", ".join(shown)) > _USED_WIDTH and len(shown) > 1:
        shown.pop()
    rest = len(paths) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


def _constants(graph: Graph, card: Card) -> list[str]:
    lines = [f"INPUT_SHAPE = {tuple(graph.inputs[0].shape)}"]
    for name, values in (("MEAN", card.mean), ("STD", card.std), ("CLASSES", card.classes)):
        items = [literal(str(v) if name == "CLASSES" else float(v)) for v in values]
        whole = f"{name} = ({', '.join(items)}{',' if len(items) == 1 else ''})"
        lines += [whole] if len(whole) <= 110 else call_lines(f"{name} = ", "", items, indent=0)
    return lines


def _in_docstring(text: object) -> str:
    """Any text on one line of a docstring."""
    margin = len(str(text)) - len(str(text).lstrip(" "))
    return " " * margin + " ".join(str(text).split()).replace("\\", "\\\\").replace('"', '\\"')

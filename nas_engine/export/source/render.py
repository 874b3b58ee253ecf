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

from ..inputs import Port, is_of_graphs, ports
from .classes import BlockClass, init_lines, make_classes
from .modules import module_imports, module_sources, names_of
from .text import call_lines, literal, quote

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
    named = names_of(graph)
    own, taken = module_sources(named), ports(graph)
    classes, network = make_classes(graph, own)
    text = template("model.py.j2").render(
        card=card,
        kind=_kind(graph, taken),
        needs="torch and torch_geometric" if "torch_geometric" in "".join(own.values()) else "torch alone",
        shapes=[_called(port) for port in taken],
        output=_output(graph, taken),
        names=[port.name for port in taken],
        ports=taken,
        imports=_imports(module_imports(named)),
        modules=list(own.values()),
        classes=[_described(c) for c in classes],
        network=_described(network),
        constants=_constants(taken, card),
        about=_about(graph, taken, card),
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


def _called(port: Port) -> str:
    """An input with its sizes; at the beginning of a sentence where it is the only one."""
    name = port.name if port.free.get(0) != "batch" else port.name.capitalize()
    return f"{name} ({', '.join(port.words)})"


def _imports(lines: Sequence[str]) -> list[str]:
    """Imports of the standard library: whole modules first, then names, those of a module on one line."""
    named: dict[str, set[str]] = {"pathlib": {"Path"}}
    for line in lines:
        if line.startswith("from "):
            module, _, name = line.removeprefix("from ").partition(" import ")
            named.setdefault(module, set()).add(name)
    whole = {"import json", "import struct", *(line for line in lines if line.startswith("import "))}
    return [*sorted(whole), *(f"from {module} import {', '.join(sorted(named[module]))}" for module in sorted(named))]


def _kind(graph: Graph, taken: Sequence[Port]) -> str:
    """What sort of network it is."""
    if is_of_graphs(graph):
        return "a classifier of the nodes of graphs"
    return "an image classifier" if taken[0].name == "images" else "a model of texts"


def _output(graph: Graph, taken: Sequence[Port]) -> str:
    """Sizes of the output; that of a network of graphs is for each node."""
    shape = [str(size) for size in graph[graph.outputs[0]].shape]
    return ", ".join(["1", "N", *shape[1:]] if is_of_graphs(graph) else [taken[0].words[0], *shape])


def _about(graph: Graph, taken: Sequence[Port], card: Card) -> list[str]:
    """The lines of the docstring on inputs, outputs and data."""
    prepared = ", normalised by `preprocess`" if card.mean else ""
    said = [f"Input: {port.name} ({', '.join(port.words)}), {port.dtype}{prepared}." for port in taken]
    if card.mean:
        said.append("Preprocessing: pixels in 0..1 (uint8 divided by 255), then (pixel - MEAN) / STD for each channel.")
    if is_of_graphs(graph):
        said.append("One graph at a time, of any number of nodes N and of edges E; edges are pairs (from, to).")
    named = ", ".join(f"{i} {name}" for i, name in enumerate(card.classes[:_NAMED]))
    more = f" and {len(card.classes) - _NAMED} more" if len(card.classes) > _NAMED else ""
    order = f", in the order of CLASSES: {named}{more}." if named else "."
    said.append(f"Output: logits ({_output(graph, taken)}){order}")
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


def _constants(taken: Sequence[Port], card: Card) -> list[str]:
    if len(taken) == 1:
        lines = [f"INPUT_SHAPE = {tuple(taken[0].shape)}"]
    else:
        items = [f"{quote(port.name)}: {tuple(port.shape)}" for port in taken]
        lines = [f"INPUT_SHAPES = {{{', '.join(items)}}}"]
    for name, values in (("MEAN", card.mean), ("STD", card.std), ("CLASSES", card.classes)):
        items = [literal(str(v) if name == "CLASSES" else float(v)) for v in values]
        whole = f"{name} = ({', '.join(items)}{',' if len(items) == 1 else ''})"
        lines += [whole] if len(whole) <= 110 else call_lines(f"{name} = ", "", items, indent=0)
    return lines


def _in_docstring(text: object) -> str:
    """Any text on one line of a docstring."""
    margin = len(str(text)) - len(str(text).lstrip(" "))
    return " " * margin + " ".join(str(text).split()).replace("\\", "\\\\").replace('"', '\\"')

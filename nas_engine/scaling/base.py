"""What is scaled: a published network, a user's, a bundle's or a run's, as a function from multipliers to a graph.

What a name stands for is found once; graphs are kept, as many multipliers round to the same network.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from search_spaces.errors import ConfigError, SpaceError
from search_spaces.families import published, skeleton
from search_spaces.graph import Graph
from search_spaces.scaling import Rounding, Scaling, builder, grow, scale, stages, unwidened

from ..files import read_json
from ..report.words import plural
from .request import Request

if TYPE_CHECKING:
    from ..run import Run

_LISTED = 6  # things that a note names


@dataclass(frozen=True)
class Base:
    """A network that can be scaled.

    Attributes:
        name: short, for files and titles.
        source: where it comes from, in words.
        graph: of the network itself.
        make: the graph at some multipliers.
        class_names: of its outputs, where they are known.
        notes: how it grows, in words, where that is not by a table.
    """

    name: str
    source: str
    graph: Graph
    make: Callable[[Scaling], Graph]
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    _known: dict[Scaling, Graph] = field(default_factory=dict, repr=False)

    def scaled(self, scaling: Scaling) -> Graph:
        """The network at some multipliers.

        Raises:
            SpaceError, GraphError: it has nothing that can be scaled so, or is too small.
        """
        if scaling == Scaling():
            return self.graph
        if scaling not in self._known:
            self._known[scaling] = self.make(scaling)
        return self._known[scaling]

    @property
    def classes(self) -> int:
        return int(self.graph[self.graph.outputs[0]].shape[-1])


def resolution(graph: Graph) -> tuple[int, ...]:
    """Height and width that a network works at: of what it resizes its images to, else of its images."""
    first = graph.inputs[0]
    readers = [node for node in graph if first.name in node.inputs]
    resized = readers[0].shape if len(readers) == 1 and readers[0].operator == "resize" else first.shape
    return tuple(resized[1:])


def make_base(request: Request) -> Base:
    """Find what a request names.

    Raises:
        ConfigError: nothing of this name, or options that it does not take.
        GraphError, SpaceError: a network that cannot be followed or scaled.
    """
    from ..compress.subject import name_of, run_of

    model, rounding = request.model, request.rounding.over(Rounding())
    member = _member(model)
    if member is not None:
        return _of_family(member, request)
    found = run_of(model)
    if found is not None:
        _refuse_shape(request, "a run's network")
        if request.rounding.given:
            raise ConfigError("a run's network is rounded as its space does; leave out the settings of rounding")
        base = _of_run(*found)
    elif Path(model).is_dir():
        _refuse_shape(request, "a bundle")
        base = _of_graph(name_of(model), "an exported bundle", _graph_of_bundle(Path(model)), rounding)
    else:
        base = _of_text(request, rounding)
    _check(base)
    return base


def _refuse_shape(request: Request, what: str) -> None:
    for name in ("input", "classes"):
        if getattr(request, name) is not None:
            raise ConfigError(f"{what} has its own input and classes; leave out --{name}")


def _check(base: Base) -> None:
    outputs = [base.graph[name].shape for name in base.graph.outputs]
    shapes = [node.shape for node in base.graph.inputs]
    if len(shapes) != 1 or len(shapes[0]) != 3 or len(outputs) != 1 or len(outputs[0]) != 1:
        raise SpaceError(f"networks from one image to classes are scaled; {base.name!r} maps {shapes} to {outputs}")
    foreign = [node.name for node in base.graph if node.operator == "other"]
    if foreign:
        raise SpaceError(
            f"{base.name!r} calls what no operator stands for ({', '.join(foreign[:3])}), so it can be neither grown "
            "nor costed; write these calls with torch's own layers"
        )


# ---- kinds -------------------------------------------------------------------------------------------------


def _member(model: str) -> str | None:
    """The published network that a name is, by its own or by a library's: `timm:resnet50`."""
    known = published()
    library, colon, name = model.rpartition(":")
    if not colon:
        return model if model in known else None
    return next((m for m, family in known.items() if family.members[m].source == (library, name)), None)


def _of_family(member: str, request: Request) -> Base:
    table = skeleton(member)
    shape = request.input or (3, table.resolution, table.resolution)
    if shape[1] != shape[2]:
        raise ConfigError(f"{request.model!r} takes square images; got --input {'x'.join(map(str, shape))}")
    table = replace(table, resolution=shape[1], classes=request.classes or table.classes)

    def make(scaling: Scaling) -> Graph:
        scaled = table.scaled(scaling, request.rounding.over(table.rounding))
        return scaled.graph((shape[0], scaled.resolution, scaled.resolution))

    return Base(member, f"published network of family {published()[member].name}", table.graph(shape), make)


def _of_graph(name: str, source: str, graph: Graph, rounding: Rounding) -> Base:
    return Base(name, source, graph, lambda scaling: grow(graph, scaling, rounding), notes=_growth(graph))


def _growth(graph: Graph) -> tuple[str, ...]:
    """What of a graph grows, in words."""
    rows, stuck = stages(graph), unwidened(graph)
    depths = ", ".join(str(stage.depth) for stage in rows[:_LISTED]) + (", ..." if len(rows) > _LISTED else "")
    deep = (
        f"depth by {plural(len(rows), 'stage')} of {depths} layers"
        if rows
        else "no stage of like layers, so its depth stays"
    )
    if not stuck:
        return deep, "width in all layers"
    more = ", ..." if len(stuck) > _LISTED else ""
    return deep, f"width in all layers but {len(stuck)} ({', '.join(stuck[:_LISTED])}{more})"


def _of_run(run: Run, trial: int | None) -> Base:
    from ..compress.subject import trained_row

    row, space = trained_row(run, trial), run.space
    architecture = space.decode(row["code"])
    names = read_json(run.path / "device" / "done.json")["class_names"]
    return Base(
        f"{run.config.name}-{row['id']}",
        f"trial {row['trial']} of run {run.config.name}, of space {space.name}",
        space.graph(architecture),
        lambda scaling: space.scaled(architecture, scaling),
        tuple(map(str, names)),
    )


def _graph_of_bundle(directory: Path) -> Graph:
    file = directory / "architecture.json"
    if not file.is_file():
        raise ConfigError(f"{str(directory)!r} is no bundle: it has no architecture.json; give a directory of export")
    try:
        return Graph.from_json(json.dumps(json.loads(file.read_text(encoding="utf-8"))["graph"]))
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise SpaceError(f"bundle {str(directory)!r} is damaged ({e}); export the network again") from None


def _of_text(request: Request, rounding: Rounding) -> Base:
    """A model of a library or a user's: by its builder's own multipliers where it takes them, else grown.

    It is traced at its own resolution and resized from there, which is much faster than tracing it at each.
    """
    from search_spaces.models import models

    from ..compress.subject import name_of

    text, name = request.model, name_of(request.model)
    own = text in models or text.rpartition(":")[0].endswith(".py")
    found = None if own else builder(text)
    if found is not None and request.rounding.given:
        raise ConfigError(f"{text!r} is scaled by its library's builder, which rounds by itself; leave out rounding")

    def make(scaling: Scaling) -> Graph:
        taken = {n: getattr(scaling, n) for n in (found.takes if found else ())}
        graph = scale(text, **taken, input_shape=request.input, classes=request.classes).simplify()
        return grow(graph, replace(scaling, **dict.fromkeys(taken, 1.0)))

    graph = make(Scaling())
    if found is None:
        return _of_graph(name, f"traced from {text}", graph, rounding)
    return Base(name, f"scaled by the builder of {text}, which multiplies {' and '.join(found.takes)}", graph, make)

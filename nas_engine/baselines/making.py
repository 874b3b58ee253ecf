"""From a baseline's description to a graph that takes a run's images.

The network is what its library makes, or what scaling makes of it. Images that it is not made for are brought to its
size, and grey ones to three channels, by weightless nodes in front, so that costs and latency count them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces.errors import ConfigError, EngineError, SpaceError
from search_spaces.graph import Graph, Node, Signature
from search_spaces.operators.base import Shape
from search_spaces.scaling import Rounding, Scaling

from ..config import Baseline

if TYPE_CHECKING:
    from torch import Tensor, nn

_COLOURS = 3
_FINE = Rounding(divisor=4)  # of widths where no library rounds them: small networks come nearer to a latency
_FAILURES = (EngineError, RuntimeError, ValueError, TypeError, IndexError, AttributeError, NotImplementedError)


@dataclass(frozen=True)
class Made:
    """A network for comparison.

    Attributes:
        graph: takes the run's images.
        initial: weights that its library begins with; None where the engine's own are to be.
    """

    graph: Graph
    initial: dict[str, Tensor] | None = None


def make_baseline(
    asked: Baseline, input_shape: Shape, classes: int, *, more: Scaling | None = None, seed: int = 0
) -> Made:
    """The network that a baseline describes.

    Args:
        input_shape: of the run's images.
        more: multipliers on top of those asked for.
        seed: of the weights that the library begins with.

    Raises:
        EngineError: it cannot be made for these images and classes; the message names the baseline.
    """
    scaling = Scaling(depth=asked.depth, width=asked.width) * (more or Scaling())
    try:
        return _made(asked, input_shape, classes, scaling, seed)
    except _FAILURES as e:
        words = " ".join(str(e).split()) or type(e).__name__
        kind = type(e) if isinstance(e, ConfigError | SpaceError) else ConfigError
        raise kind(f"baseline {str(asked)!r} cannot be made for images of {input_shape}: {words}") from e


def _made(asked: Baseline, shape: Shape, classes: int, scaling: Scaling, seed: int) -> Made:
    import torch

    from search_spaces import trace
    from search_spaces.scaling import scale

    inner = _inner_shape(asked, shape)
    if is_published(asked.model):
        return Made(_in_front(_of_family(asked, inner, classes, scaling), shape))
    if asked.stride is not None:
        raise ConfigError("stride can be lowered in members of families only; give a larger resolution instead")
    if scaling != Scaling():
        multipliers = (scaling.depth, scaling.width, scaling.resolution)
        scaled = scale(asked.model, *multipliers, rounding=_FINE, input_shape=inner, classes=classes)
        return Made(_in_front(_checked(scaled, classes), shape))
    module = _module(asked.model, inner, classes, seed)
    graph = _checked(trace(module, torch.zeros(2, *inner)), classes)
    state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    return Made(_in_front(graph, shape), state if is_library(asked.model) else None)


def is_published(model: str) -> bool:
    """Whether a name is that of a member of a family of ours, and no other model's of ours."""
    from search_spaces.families import published
    from search_spaces.models import models

    return model not in models and model in published()


def is_library(model: str) -> bool:
    """Whether a model comes with fresh weights of its library; files and bundles may bring trained ones."""
    from search_spaces.models import models

    if model.startswith(("timm:", "torchvision:")) or model in models:
        return True
    return ":" not in model and not Path(model).exists()


def _inner_shape(asked: Baseline, shape: Shape) -> Shape:
    """What the network itself takes: grey images have three channels for torchvision's, whose stems are fixed."""
    channels, height, width = shape
    if channels == 1 and _is_torchvision(asked.model):
        channels = _COLOURS
    size = (height, width) if asked.resolution is None else (asked.resolution, asked.resolution)
    return channels, *size


def _is_torchvision(model: str) -> bool:
    if model.startswith("torchvision:"):
        return True
    return ":" not in model and not is_published(model) and model in _torchvision_names()


@cache
def _torchvision_names() -> frozenset[str]:
    try:
        import torchvision.models as library
    except ImportError:
        return frozenset()
    return frozenset(library.list_models(module=library))


def _of_family(asked: Baseline, shape: Shape, classes: int, scaling: Scaling) -> Graph:
    from search_spaces.families import skeleton

    table = skeleton(asked.model)
    if asked.stride is not None:
        table = table.at_stride(asked.stride)
    table = replace(table, resolution=shape[1]).scaled(scaling)
    return table.graph((shape[0], table.resolution, table.resolution), classes)


def _module(model: str, shape: Shape, classes: int, seed: int) -> nn.Module:
    """The module with the weights that its library begins with."""
    import torch

    from search_spaces.models import load_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return load_model(model, input_shape=shape, classes=classes)


def _checked(graph: Graph, classes: int) -> Graph:
    """A graph that is seen to be a classifier, and to be costed, trained and measured as it stands.

    Raises:
        SpaceError: it calls what no operator stands for, or gives something else than a logit a class.
    """
    graph = graph.simplify()
    foreign = [node.name for node in graph if node.operator == "other"]
    if foreign:
        raise SpaceError(f"it calls what no operator stands for ({', '.join(foreign[:3])})")
    given = [graph[name].shape for name in graph.outputs]
    if given != [(classes,)] or len(graph.inputs) != 1:
        raise SpaceError(f"it gives outputs of shape {given}, but the data has {classes} classes")
    return graph


def _in_front(graph: Graph, shape: Shape) -> Graph:
    """The graph behind whatever brings images of a shape to those that it takes."""
    channels, *sides = graph.inputs[0].shape
    if channels != shape[0]:
        graph = _behind(graph, "colours", (shape[0], *sides), "concat", {}, channels // shape[0])
    if tuple(sides) != shape[1:]:
        graph = _behind(graph, "resize", shape, "resize", {"size": tuple(sides)})
    return graph


def _behind(
    graph: Graph, name: str, image: Shape, operator: str, attributes: Mapping[str, Any], copies: int = 1
) -> Graph:
    """The graph with a first node that makes its input of so many copies of an image."""
    (old,) = graph.inputs
    taken = {node.name for node in graph}
    free = next(n for n in (name, *(f"{name}{i}" for i in range(len(graph)))) if n not in taken)
    given = Node(old.name, Signature.named("input", {**old.attributes, "size": image}, ()))
    first = Node(free, Signature.named(operator, attributes, (image,) * copies), (old.name,) * copies)
    rest = (
        Node(n.name, n.signature, tuple(free if i == old.name else i for i in n.inputs))
        for n in graph.nodes
        if n is not old
    )
    return Graph((given, first, *rest), graph.outputs)

"""Networks that bring images to the size that they work at."""

from __future__ import annotations

from ..errors import GraphError
from ..graph import Graph, Node, Shape, Signature


def behind_resize(graph: Graph, image: Shape) -> Graph:
    """The same network for images `(C, H, W)` of another size, which a first node `resize` brings to its own.

    Raises:
        GraphError: several inputs, or images of other channels.
    """
    if len(graph.inputs) != 1 or len(image) != 3 or graph.inputs[0].shape[0] != image[0]:
        raise GraphError(f"images of shape {image} cannot be resized for inputs {[n.shape for n in graph.inputs]}")
    (old,) = graph.inputs
    if old.shape == tuple(image):
        return graph
    name = next(n for n in ("resize", *(f"resize{i}" for i in range(len(graph)))) if n not in {m.name for m in graph})
    first = Node(old.name, Signature.named("input", {**old.attributes, "size": tuple(image)}, ()))
    resize = Node(name, Signature.named("resize", {"size": old.shape[1:]}, (first.shape,)), (old.name,))
    rest = (
        Node(n.name, n.signature, tuple(name if i == old.name else i for i in n.inputs))
        for n in graph.nodes
        if n is not old
    )
    return Graph((first, resize, *rest), tuple(name if o == old.name else o for o in graph.outputs))

"""Data: one specification string in, training, validation and test images out.

`load_data("digits")`, `load_data("npz:digits.npz")`, `load_data("folder:photos")` and `load_data("CIFAR10")` return the
same `DataSplits`: images held compactly in memory, a validation part split off the training part, and
statistics of the training part alone. `batches` then walks an `ImageSet` in an order that follows from
`(seed, epoch)` alone, augmenting on the way. A new kind of source is a function filed in `SOURCES`.
`load_text("text:PATH")` does the same for texts, `load_graph("graph:FILE.npz")` for the nodes of a graph; training and
judging see all of them as `Splits`.

Default augmentation (`DataSplits.augment`): a random shift of an eighth of the side everywhere; a horizontal flip for
colour images only, because a mirrored digit or letter is another sign. Named sets know better where they do
(Fashion-MNIST is flipped, SVHN and traffic signs are not). Cutout is off unless asked for.
"""

from .augment import Augment
from .batches import batch_count, batches, resize
from .containers import Batches, DataSplits, ImageSet, Normaliser, Splits
from .graph_load import load_graph
from .graphs import GraphSplits, GraphWalk, NodeSet
from .load import load_data
from .named import dataset_names
from .sources import GRAPH_SOURCES, SOURCES, TEXT_SOURCES, GraphRequest, RawGraph, RawImages, RawText, Request
from .text import TextSet, TextSplits, load_text

__all__ = [
    "GRAPH_SOURCES",
    "SOURCES",
    "TEXT_SOURCES",
    "Augment",
    "Batches",
    "DataSplits",
    "GraphRequest",
    "GraphSplits",
    "GraphWalk",
    "ImageSet",
    "NodeSet",
    "Normaliser",
    "RawGraph",
    "RawImages",
    "RawText",
    "Request",
    "Splits",
    "TextSet",
    "TextSplits",
    "batch_count",
    "batches",
    "dataset_names",
    "load_data",
    "load_graph",
    "load_text",
    "resize",
]

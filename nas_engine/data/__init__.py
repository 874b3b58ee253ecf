"""Data: one specification string in, training, validation and test images out.

`load_data("digits")`, `load_data("npz:digits.npz")`, `load_data("folder:photos")` and `load_data("CIFAR10")` return the
same `DataSplits`: images held compactly in memory, a validation part split off the training part, and
statistics of the training part alone. `batches` then walks an `ImageSet` in an order that follows from
`(seed, epoch)` alone, augmenting on the way. A new kind of source is a function filed in `SOURCES`.
`load_text("text:PATH")` does the same for texts; training and judging see both as `Splits`.

Default augmentation (`DataSplits.augment`): a random shift of an eighth of the side everywhere; a horizontal flip for
colour images only, because a mirrored digit or letter is another sign. Named sets know better where they do
(Fashion-MNIST is flipped, SVHN and traffic signs are not). Cutout is off unless asked for.
"""

from .augment import Augment
from .batches import batch_count, batches, resize
from .containers import Batches, DataSplits, ImageSet, Normaliser, Splits
from .load import load_data
from .named import dataset_names
from .sources import SOURCES, TEXT_SOURCES, RawImages, RawText, Request
from .text import TextSet, TextSplits, load_text

__all__ = [
    "SOURCES",
    "TEXT_SOURCES",
    "Augment",
    "Batches",
    "DataSplits",
    "ImageSet",
    "Normaliser",
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
    "load_text",
    "resize",
]

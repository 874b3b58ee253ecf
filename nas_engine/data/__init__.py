"""Data: one specification string in, training, validation and test images out.

`load_data("digits")`, `load_data("npz:digits.npz")`, `load_data("folder:photos")` and `load_data("CIFAR10")` return the
same `DataSplits`: images held compactly in memory, a validation part split off the training part, and
statistics of the training part alone. `batches` then walks an `ImageSet` in an order that follows from
`(seed, epoch)` alone, augmenting on the way. A new kind of source is a function filed in `SOURCES`.

Default augmentation (`DataSplits.augment`): a random shift of an eighth of the side everywhere; a horizontal flip for
colour images only, because a mirrored digit or letter is another sign. Named sets know better where they do
(Fashion-MNIST is flipped, SVHN and traffic signs are not). Cutout is off unless asked for.
"""

from .augment import Augment
from .batches import batch_count, batches, resize
from .containers import DataSplits, ImageSet, Normaliser
from .load import load_data
from .named import dataset_names
from .sources import SOURCES, RawImages, Request

__all__ = [
    "SOURCES",
    "Augment",
    "DataSplits",
    "ImageSet",
    "Normaliser",
    "RawImages",
    "Request",
    "batch_count",
    "batches",
    "dataset_names",
    "load_data",
    "resize",
]

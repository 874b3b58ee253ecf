"""What criteria look at in outputs and classes: cross-entropy and hits, one number an example."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

LEFT_OUT = -100
"""The class of places that do not count."""


def losses(logits: Tensor, targets: Tensor) -> Tensor:
    """(B,) cross-entropy of each example, the mean over its places where it has several.

    Args:
        logits: `(B, V)`, or `(B, V, H, W)` for images of classes, or `(B, T, V)` for texts.
        targets: `(B,)`, `(B, H, W)` or `(B, T)` classes; places of `LEFT_OUT` do not count.

    Raises:
        DataError: no classes, ones that the network does not know, or shapes that do not fit together.
    """
    import torch
    from torch.nn.functional import cross_entropy

    if not isinstance(targets, torch.Tensor) or targets.is_floating_point():
        raise DataError("the criterion needs labels, the class of each image as a whole number: give labelled images")
    ordered = _classes_second(logits, targets)
    try:
        found = cross_entropy(ordered, targets, reduction="none", ignore_index=LEFT_OUT)
    except IndexError as problem:
        raise DataError(
            f"the labels go up to {int(targets.max())} and the network knows the classes 0 to {ordered.shape[1] - 1}: "
            "give data with the classes that it was trained for"
        ) from problem
    return _mean_of_places(found, targets)


def hits(logits: Tensor, targets: Tensor) -> Tensor:
    """(B,) share of the places of each example whose class is the most probable; shapes as in `losses`."""
    found = _classes_second(logits, targets).argmax(1) == targets
    return _mean_of_places(found.to(logits.dtype), targets)


def _classes_second(logits: Tensor, targets: Tensor) -> Tensor:
    """Logits with the classes on the second axis, where torch wants them."""
    if targets.shape == (*logits.shape[:1], *logits.shape[2:]):
        return logits
    if targets.shape == logits.shape[:-1]:
        return logits.movedim(-1, 1)
    raise DataError(
        f"targets of shape {tuple(targets.shape)} do not fit outputs of shape {tuple(logits.shape)}: "
        "each example needs one class, or a class for each place"
    )


def _mean_of_places(found: Tensor, targets: Tensor) -> Tensor:
    if found.dim() == 1:
        return found
    return found.flatten(1).sum(1) / (targets != LEFT_OUT).flatten(1).sum(1).clamp(min=1)

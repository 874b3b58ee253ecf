"""How pixels are brought to the range that a network was trained on: by name, or by the data's own statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search_spaces.errors import ConfigError, did_you_mean

NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "symmetric": ((0.5,), (0.5,)),
    "unit": ((0.0,), (1.0,)),
}
"""Mean and deviation by name, for pixels in 0 to 1; one number is that of all channels."""


def normalisation(
    asked: str | Mapping[str, Any], channels: int, own: tuple[tuple[float, ...], tuple[float, ...]]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel.

    Args:
        asked: "data" for the statistics of the training images, a key of `NORMALISATIONS`, or {"mean": .., "std": ..}.
        own: the statistics of the training images.

    Raises:
        ConfigError: an unknown name, or numbers for another count of channels.

    >>> normalisation("symmetric", 2, ((0.1, 0.2), (1.0, 1.0)))
    ((0.5, 0.5), (0.5, 0.5))
    """
    found = parsed(asked)
    if found is None:
        return own
    for name, numbers in zip(("mean", "std"), found, strict=True):
        if len(numbers) not in (1, channels):
            raise ConfigError(
                f"normalisation has {len(numbers)} numbers of {name} and images have {channels} channels; "
                "give one, or one a channel"
            )
    mean, std = (numbers * (channels // len(numbers)) for numbers in found)
    return mean, std


def parsed(asked: str | Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and deviation as they were asked for; None for those of the data.

    Raises:
        ConfigError: an unknown name, or no numbers.
    """
    if asked == "data":
        return None
    if isinstance(asked, str):
        if asked not in NORMALISATIONS:
            raise ConfigError(f"unknown normalisation {asked!r}: {did_you_mean(asked, ['data', *NORMALISATIONS])}")
        return NORMALISATIONS[asked]
    mean, std = _given(asked, "mean"), _given(asked, "std")
    if min(std) <= 0:
        raise ConfigError(f"the std of a normalisation must be above 0; got {list(std)}")
    return mean, std


def _given(asked: Mapping[str, Any], name: str) -> tuple[float, ...]:
    if set(asked) != {"mean", "std"}:
        raise ConfigError(f"a normalisation has mean and std and nothing else; got {', '.join(map(str, asked))}")
    numbers = asked[name]
    if not isinstance(numbers, Sequence):
        numbers = [numbers]
    if not numbers or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        raise ConfigError(f"{name} of a normalisation is a number or a list of numbers; got {asked[name]!r}")
    return tuple(map(float, numbers))

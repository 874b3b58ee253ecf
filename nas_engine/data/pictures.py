"""From picture files to pixels: one orientation, one size, one number of channels, uint8.

Grey stays grey only where every image is; 16-bit grey is scaled to 8 bits rather than clipped, and the
orientation that a camera noted is applied.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from search_spaces.errors import DataError

from .checks import one_line

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".webp", ".tif", ".tiff"})
GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N"})
SIXTEEN_IN_32 = frozenset({"PNG", "PPM"})  # formats whose 16-bit grey pillow may open with 32 bits
ORIENTATION_TAG = 0x0112
THREADS = 8


class Header(NamedTuple):
    """What the first bytes of a picture tell: width and height as seen, and whether it has no colour."""

    width: int
    height: int
    grey: bool


def read_header(path: Path) -> Header:
    """Raises DataError, naming the file, where it is no picture that can be read."""
    with _opened(path) as image:
        width, height = image.size
        if _orientation(image) >= 5:  # the four orientations that lie on their side
            width, height = height, width
        return Header(width, height, image.mode in GREY_MODES)


def read_pixels(path: Path, size: tuple[int, int], channels: int) -> np.ndarray:
    """(C, H, W) uint8 of a picture file; see `pixels`. Raises DataError, naming the file, where it is broken."""
    with _opened(path) as image:
        return pixels(image, size, channels)


def pixels(image: Image.Image, size: tuple[int, int], channels: int) -> np.ndarray:
    """A picture as (C, H, W) uint8.

    Args:
        image: of any mode but 32 bits a channel.
        size: (width, height) to resize to, without keeping the proportions: the whole picture stays in view.
        channels: 1 for grey, 3 for RGB; transparency is dropped.

    Raises:
        ValueError: a picture with 32 bits a channel, whose range is unknown.
    """
    from PIL import Image, ImageOps

    file_format = getattr(image, "format", None)
    if _orientation(image) > 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "F" or (image.mode == "I" and file_format not in SIXTEEN_IN_32):
        raise ValueError("it has 32-bit pixels, whose range is unknown; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    if image.mode == "P":
        image = image.convert("RGBA")  # straight to RGB warns where the palette has transparency
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    values = np.asarray(image)
    return values[None] if channels == 1 else values.transpose(2, 0, 1)


def stack(count: int, get: Callable[[int], np.ndarray], shape: tuple[int, int, int]) -> np.ndarray:
    """(count, *shape) uint8 of `get(0)` .. `get(count - 1)`, called from several threads (decoders release the lock).

    Raises:
        DataError: the images do not fit into memory.
    """
    try:
        images = np.empty((count, *shape), dtype=np.uint8)
    except MemoryError as problem:
        needed = count * shape[0] * shape[1] * shape[2] / 2**30
        raise DataError(
            f"{count:,} images of {shape[1]} x {shape[2]} pixels need {needed:,.1f} GiB, more than there is: "
            "give a smaller image_size"
        ) from problem

    def fill(first: int, last: int) -> None:
        for index in range(first, last):
            images[index] = get(index)

    threads = min(THREADS, os.cpu_count() or 1)
    bounds = np.linspace(0, count, min(count, 16 * threads) + 1, dtype=int).tolist()
    with ThreadPoolExecutor(threads) as pool:
        try:
            list(pool.map(fill, bounds[:-1], bounds[1:]))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return images


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """`with _opened(path) as image`: turns whatever a broken picture raises, at any time, into a DataError."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            yield image
    except MemoryError:
        raise
    except UnidentifiedImageError as problem:
        raise DataError(f"broken image {path}: no image format is recognised; repair or remove the file") from problem
    except Exception as problem:  # OSError, SyntaxError, ValueError, struct.error and others, by format
        raise DataError(f"broken image {path}: {one_line(problem)}; repair or remove the file") from problem


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8. Asked of camera formats only: for PNG the question alone would decode the whole file."""
    if getattr(image, "format", None) not in ("JPEG", "MPO", "TIFF", "WEBP"):
        return 1
    orientation = image.getexif().get(ORIENTATION_TAG, 1)
    return orientation if isinstance(orientation, int) else 1


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """16-bit grey to 8 bits: 65535 becomes 255."""
    return np.rint(values.clip(0, 65535) / 257).astype(np.uint8)

"""Images from a numpy archive: `npz:PATH` with train_x, train_y and, optionally, test_x, test_y and classes.

The archive is read with `allow_pickle=False`, so a file from anywhere can be opened safely.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np

from search_spaces.errors import DataError

from .checks import channels_first, one_line
from .sources import SOURCES, RawImages, Request

LAYOUT = (
    "train_x and train_y, and optionally test_x and test_y (images N x H x W or N x H x W x C, labels N) and classes"
)


@SOURCES.register("npz")
def read_npz(request: Request) -> RawImages:
    """Reads the arrays of `request.argument`, a path.

    Raises:
        DataError: no such file, no npz archive, arrays missing, damaged, of objects or of a wrong shape.
    """
    if not request.argument:
        raise DataError("'npz:' names no file: write npz:PATH")
    path = Path(request.argument).expanduser()
    if path.is_dir():
        raise DataError(f"{path} is a folder, not an npz file: for a folder of images write folder:{path}")
    arrays = archive(path, ("train_x", "train_y", "test_x", "test_y", "classes"), LAYOUT)
    test = [key for key in ("test_x", "test_y") if key in arrays]
    missing = [key for key in ("train_x", "train_y") if key not in arrays]
    if len(test) == 1:
        missing += [key for key in ("test_x", "test_y") if key not in arrays]
    if missing:
        raise DataError(
            f"{path} has no {' and no '.join(missing)} (it has {', '.join(sorted(arrays)) or 'nothing'}): "
            f"it needs {LAYOUT}"
        )
    return RawImages(
        title=path.name,
        train_x=channels_first(arrays["train_x"], f"{path.name} train_x"),
        train_y=arrays["train_y"],
        test_x=channels_first(arrays["test_x"], f"{path.name} test_x") if test else None,
        test_y=arrays["test_y"] if test else None,
        classes=names_in(arrays["classes"], path) if "classes" in arrays else None,
    )


def archive(path: Path, wanted: Collection[str], layout: str) -> dict[str, np.ndarray]:
    """The wanted arrays of an archive by key; other keys are present with an empty array, for messages.

    Args:
        layout: what the archive should hold, for messages.

    Raises:
        DataError: no such file, no npz archive, or arrays that are damaged or of objects.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}: check the path, or make it with numpy.savez_compressed")
    try:
        with path.open("rb") as file:  # ours to close: numpy leaves its own open where an archive is broken
            read = np.load(file, allow_pickle=False)
            if not isinstance(read, np.lib.npyio.NpzFile):
                raise DataError(f"{path} holds a single array, not an npz archive: it needs {layout}")
            arrays = {key: read[key] if key in wanted else np.empty(0) for key in read.files}
    except (ValueError, OSError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error) as problem:
        reason = one_line(problem)
        if "allow_pickle" in reason or "pickled data" in reason:
            reason = "it is no npz archive of plain numbers (pickled objects are not read)"
        raise DataError(f"{path} cannot be read as npz: {reason}; make it with numpy.savez_compressed") from problem
    strange = [key for key, array in arrays.items() if not isinstance(array, np.ndarray)]
    if strange:  # numpy hands over the bytes of a member that is no array
        raise DataError(f"{path} has a member {strange[0]} that is no array: make it with numpy.savez_compressed")
    return arrays


def names_in(names: np.ndarray, path: Path) -> tuple[str, ...]:
    if names.ndim != 1 or names.dtype.kind != "U":
        raise DataError(
            f"{path.name} classes has shape {names.shape} and type {names.dtype}, but a list of strings is needed"
        )
    return tuple(str(name) for name in names)

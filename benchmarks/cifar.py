"""CIFAR-10 for benchmarks: an archive as it is, or the folder of JPEG images decoded once."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from nas_engine.config import Data
from nas_engine.data import DataSplits
from nas_engine.train.candidate import shared_data

TEST = 4_000


def cifar(path: Path, *, limit: int | None, seed: int = 0) -> DataSplits:
    """Images normalised as the networks of He et al. were trained on them (ImageNet's statistics).

    Args:
        path: an npz archive, or a folder with `cifar10_jpeg_train.parquet` and `cifar10_jpeg_test.parquet`.
        limit: training images, validation included.
    """
    path = decoded(path) if path.is_dir() else path
    data = shared_data(Data(source=f"npz:{path}", normalise="imagenet", limit=limit, validation=0.2), seed)
    assert isinstance(data, DataSplits)
    return data


def decoded(folder: Path) -> Path:
    """The JPEG images as an archive in the user's cache: all for training, `TEST` for test, the same share a class."""
    import platformdirs

    out = Path(platformdirs.user_cache_dir("nas-engine")) / f"cifar10_jpeg_{TEST}.npz"
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        train_x, train_y = _read(folder / "cifar10_jpeg_train.parquet", None)
        test_x, test_y = _read(folder / "cifar10_jpeg_test.parquet", TEST // 10)
        partial = out.with_suffix(".partial.npz")
        np.savez(partial, train_x=train_x, train_y=train_y, test_x=test_x, test_y=test_y)
        partial.replace(out)
    return out


def _read(path: Path, each: int | None) -> tuple[np.ndarray, np.ndarray]:
    """(N, 32, 32, 3) uint8 and labels; the first `each` of every class."""
    import pandas as pd
    from PIL import Image

    frame = pd.read_parquet(path)
    if each is not None:
        frame = frame.groupby("label", sort=True).head(each)
    images = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in frame["jpeg"]]
    return np.stack(images), frame["label"].to_numpy(np.int64)

"""Zero-cost scores of NAS-Bench-201 cells, really computed, against trained accuracy. Prints one JSON line last.

    python -m benchmarks.zerocost [--data digits|FILE] [--cells 200] [--batch 64] [--resolution 32] [--seeds 1]
                                  [--scores nwot ...] [--table FILE] [--accuracies FILE] [--target COLUMN ...]

For each seed, random rows of the table are built as untrained networks of the published size, with torch's initial
weights, and scored on one random mini-batch. Seeds draw cells, weights and images anew.

- spearman, kendall_tau: of each score with each target, median over the seeds; spread: lowest and highest.
- published: Spearman of the table's own values of the same scores on the same cells (columns cifar10_SCORE).
- floors: Spearman of parameters and FLOPs (multiply-accumulates) of the same cells.
- ms_per_network: CPU milliseconds of each score by itself, one thread; building the network counted apart.

Images are the first of these that is there: lossless CIFAR-10, CIFAR-10 as JPEG, digits. FILE is an npz with `train_x`
`(n, H, W, C)` uint8 and `train_y`, a Parquet file with columns `jpeg` and `label`, or a folder that holds one with
`train` in its name or else any. A resolution below the images' own averages their pixels: many small images rank no
worse than few large ones, and cost less (nwot with 256 of 8x8 against 64 of 32x32).
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import publish
from predictors.ranking import kendall_tau, spearman
from predictors.zerocost import ZeroCostScorer, scores, untrained
from search_spaces import Architecture, SearchSpace, make_space
from search_spaces.errors import DataError, EngineError, did_you_mean

SHARED = Path("../shared/data")
IMAGES = (
    SHARED / "cifar10_lossless_subset/cifar10_lossless_4000_249.npz",
    SHARED / "cifar10_jpeg/cifar10_jpeg_train.parquet",
)
PUBLISHED = {"jacob_cov": "cifar10_jacov"} | {n: f"cifar10_{n}" for n in ("grad_norm", "nwot", "snip", "synflow")}


# ---- images ------------------------------------------------------------------------------------------------


class Images:
    """Labelled images, normalised by the mean and deviation of each channel."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        """`images` `(n, H, W, C)` of any range, `labels` `(n,)`."""
        x = images.astype(np.float32)
        x = (x - x.mean((0, 1, 2))) / (x.std((0, 1, 2)) + 1e-8)
        self.images = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()
        self.labels = torch.from_numpy(np.asarray(labels, dtype=np.int64))

    def at(self, resolution: int | None) -> Images:
        """These images at a height and width that divide their own, or as they are."""
        height, width = self.images.shape[2:]
        if resolution is not None:
            if not 0 < resolution <= min(height, width) or height % resolution or width % resolution:
                raise DataError(f"resolution {resolution} of images of {height}x{width}; give a divisor of both")
            self.images = F.avg_pool2d(self.images, (height // resolution, width // resolution))
        return self

    def batch(self, size: int, seed: int) -> tuple[Tensor, Tensor]:
        """A random mini-batch."""
        if size > len(self.images):
            raise DataError(f"a batch of {size} from {len(self.images)} images; ask for fewer")
        which = torch.from_numpy(np.random.default_rng(seed).permutation(len(self.images))[:size])
        return self.images[which], self.labels[which]


def load_images(data: str | None) -> tuple[str, Images]:
    """Name and images of `--data`; by default the best that are present."""
    if data is None:
        data = next((str(path) for path in IMAGES if path.exists()), "digits")
    if data == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        return data, Images(digits.images[..., None], digits.target)
    path = _file(Path(data))
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return path.stem, Images(arrays["train_x"], arrays["train_y"])
    return path.stem, _from_jpeg(pd.read_parquet(path, columns=["jpeg", "label"]).sample(4000, random_state=0))


def _file(path: Path) -> Path:
    """The file of images that a path means."""
    if not path.is_dir():
        return path
    files = sorted(f for f in path.iterdir() if f.suffix in (".npz", ".parquet"))
    if not files:
        raise DataError(f"{path} holds no npz or Parquet file of images; give the file itself")
    return next((f for f in files if "train" in f.name), files[0])


def _from_jpeg(frame: pd.DataFrame) -> Images:
    from PIL import Image

    pixels = [np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")) for jpeg in frame["jpeg"]]
    return Images(np.stack(pixels), frame["label"].to_numpy())


# ---- cells -------------------------------------------------------------------------------------------------


def parse(space: SearchSpace, text: str) -> Architecture:
    """A cell from the benchmark's own string, `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`."""
    values = {}
    for target, node in enumerate(text.split("+"), start=1):
        for part in node.strip("|").split("|"):
            operation, source = part.split("~")
            values[f"edge{source}{target}"] = operation
    return space.architecture(values)


def load_cells(table: Path, accuracies: Path, targets: Sequence[str]) -> pd.DataFrame:
    """Rows of the table, with the targets it lacks looked up by `arch_str`."""
    frame, other = pd.read_parquet(table), pd.read_parquet(accuracies)
    for target in targets:
        if target not in frame and target not in other:
            raise DataError(f"no column {target!r}: {did_you_mean(target, {*frame, *other})}")
    missing = [t for t in targets if t not in frame]
    return frame.merge(other[["arch_str", *missing]], on="arch_str", how="inner") if missing else frame


# ---- measuring ---------------------------------------------------------------------------------------------


def one_seed(
    frame: pd.DataFrame, images: Images, names: Sequence[str], targets: Sequence[str], cells: int, batch: int, seed: int
) -> dict[str, Any]:
    """Rank correlations and times of one sample of cells."""
    shape, classes = list(images.images.shape[1:]), int(images.labels.max()) + 1
    space = make_space("nasbench201", {"input_shape": shape, "classes": classes})
    sample = frame.sample(min(cells, len(frame)), random_state=seed)
    members = [parse(space, text) for text in sample["arch_str"]]
    scorer = ZeroCostScorer(space, names, *images.batch(batch, seed), seed=seed)
    found = dict(zip(names, scorer(members).T, strict=True))
    costs = [space.graph(a).cost for a in members]
    floors = {"params": [c.params for c in costs], "flops": [c.macs for c in costs]}
    published = {n: sample[c].to_numpy(float) for n, c in PUBLISHED.items() if n in names and c in sample}
    started = time.process_time()
    for member in members[:20]:
        untrained(space, member, seed)
    build = (time.process_time() - started) / len(members[:20])
    y = {t: sample[t].to_numpy(float) for t in targets}
    return {
        "spearman": {t: {n: spearman(y[t], v) for n, v in found.items()} for t in targets},
        "kendall_tau": {t: {n: kendall_tau(y[t], v) for n, v in found.items()} for t in targets},
        "published": {t: {n: spearman(y[t], v) for n, v in published.items()} for t in targets},
        "floors": {t: {n: spearman(y[t], v) for n, v in floors.items()} for t in targets},
        "ms_per_network": {**{n: 1000 * s for n, s in scorer.seconds.items()}, "building": 1000 * build},
    }


def over_seeds(runs: Sequence[Any], statistic: Any) -> Any:
    """A statistic of equal places of nested dictionaries."""
    if isinstance(runs[0], dict):
        return {key: over_seeds([run[key] for run in runs], statistic) for key in runs[0]}
    return round(float(statistic(runs)), 4)


def report(figures: dict[str, Any], names: Sequence[str], targets: Sequence[str]) -> None:
    """A line for each score and target."""
    for target in targets:
        print(f"\n{target}: Spearman, tau, published Spearman on the same cells, CPU ms a network")
        for name in names:
            other = figures["published"][target].get(name)
            print(
                f"  {name:10s} {figures['spearman'][target][name]:6.3f} {figures['kendall_tau'][target][name]:6.3f} "
                f"{'   -  ' if other is None else f'{other:6.3f}'} {figures['ms_per_network'][name]:7.1f}"
            )
        print("  " + ", ".join(f"{n} {v:.3f}" for n, v in figures["floors"][target].items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="digits, or a file of images")
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--resolution", type=int, default=8, help="height and width of images, at most their own")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--scores", nargs="+", default=scores.names(), choices=scores.names())
    parser.add_argument("--table", type=Path, default=SHARED / "nasbench201_zerocost/nasbench201_zerocost.parquet")
    parser.add_argument("--accuracies", type=Path, default=SHARED / "nasbench201/nasbench201.parquet")
    parser.add_argument("--target", nargs="+", default=["cifar10_test_acc_200ep", "cifar100_test_acc_200ep"])
    arguments = parser.parse_args()
    files = [arguments.table, arguments.accuracies] + [Path(d) for d in [arguments.data] if d not in (None, "digits")]
    if absent := [str(path) for path in files if not path.exists()]:
        print(f"skipped: no file {', '.join(absent)}; give others with --table, --accuracies and --data")
        return
    try:
        measure(arguments)
    except EngineError as e:
        parser.error(str(e))


def measure(arguments: argparse.Namespace) -> None:
    """All seeds, printed and published."""
    torch.set_num_threads(1)
    name, images = load_images(arguments.data)
    images = images.at(arguments.resolution)
    frame = load_cells(arguments.table, arguments.accuracies, arguments.target)
    print(f"{arguments.cells} of {len(frame)} cells, {arguments.batch} images of {name}, {arguments.seeds} seed(s)")
    chosen, targets, size = arguments.scores, arguments.target, (arguments.cells, arguments.batch)
    runs = [one_seed(frame, images, chosen, targets, *size, seed) for seed in range(arguments.seeds)]
    figures = over_seeds(runs, np.median)
    figures["spread"] = {
        "lowest": over_seeds([run["spearman"] for run in runs], min),
        "highest": over_seeds([run["spearman"] for run in runs], max),
    }
    report(figures, chosen, targets)
    setting = {k: getattr(arguments, k) for k in ("cells", "batch", "seeds")}
    publish("zerocost", {"data": name, **setting, "resolution": images.images.shape[-1], **figures})


if __name__ == "__main__":
    main()

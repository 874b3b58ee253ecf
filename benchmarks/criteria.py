"""Pruning criteria against true ablation: do they rank units as the oracle does, and what does their order cost?

    python -m benchmarks.criteria --model resnet20 --weights FILE --data FILE [--images 500] [--batch 50]

Prints one JSON line last, for every registered criterion that scores units and some variants:

- `spearman`, `kendall`, `pearson` with the oracle over all units; `spearman_within` is the mean over groups,
  `spearman_sd` the spread over bootstrapped units. The oracle takes the squared change of the loss when a unit goes;
  `--over` says of what: of each mini-"batch" (as estimates by gradients do; the default), of the whole "set", or of
  each "example". All three are in the row as `spearman_set` and so on.
- `ablation_area`: area under the accuracy while the units of one group go in increasing order of scores, mean over
  groups; `ablation_area_all` the same over all units together; `ablation_loss` the mean loss on the way to half.
- `seconds` of scoring. Dear criteria (second order, Shapley) see the first `--few` images, and are held against the
  oracle on these.

`--calibrate train` scores on training images and draws curves on held-out ones (the test part), `test` the other way
round: on images that a network has learned by heart its loss is near zero, and gradients tell less. Rows are kept in
results/benchmarks/criteria.json; a table and a figure of the latest run in results/criteria/.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks import common
from benchmarks.criteria_report import figure, table
from nas_engine.compress.criteria import Criterion, Curve, ablation, agree, correlate, criteria, layerwise, score
from nas_engine.compress.criteria.losses import losses
from nas_engine.compress.criteria.oracle import OVER, block_changes, importance, unit_changes
from nas_engine.data import DataSplits, ImageSet, Normaliser, batches, load_data
from search_spaces import Network, trace
from search_spaces.coupling import Gated, couple
from search_spaces.errors import ConfigError, did_you_mean
from search_spaces.models import load_model

IMAGENET = Normaliser((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "magnitude_l1": ("magnitude", {"p": 1}),
    "magnitude_raw": ("magnitude", {"normalise": "none"}),
    "taylor_examples": ("taylor", {"examples": True}),
    "taylor_weight": ("taylor", {"form": "weight"}),
    "taylor_second": ("taylor", {"form": "second"}),
    "taylor_second_examples": ("taylor", {"form": "second", "examples": True}),
}
DEAR = ("shapley",)
BOOTSTRAPS = 200

Batches = list[tuple[Tensor, Tensor]]


class Truth(NamedTuple):
    """What ablation did to the loss of each image: (B, units) and (B, blocks) for each batch.

    Units that were not `asked` for are not numbers.
    """

    units: list[np.ndarray]
    blocks: list[np.ndarray]
    asked: np.ndarray
    seconds: float

    def of(self, over: str, count: int | None = None) -> np.ndarray:
        """(units,) importance over the first so many batches."""
        return importance(self.units[:count], over)


def names(asked: str | None) -> dict[str, tuple[str, dict[str, Any]]]:
    """The criteria to judge by the names of their rows: those asked for, or all but the oracle itself."""
    known = {name: (name, dict[str, Any]()) for name in criteria.names() if name != "oracle"} | VARIANTS
    if asked is None:
        return known
    wanted = asked.split(",")
    for name in wanted:
        if name not in known:
            raise ConfigError(f"unknown criterion {name!r}: {did_you_mean(name, known)}")
    return {name: known[name] for name in wanted}


def gated_model(args: argparse.Namespace, data: DataSplits) -> Gated:
    """The network of the model behind gates, in evaluation mode."""
    shape, classes = data.input_shape, len(data.classes)
    torch.manual_seed(args.seed)  # of random weights, where none are given
    module = load_model(args.model, input_shape=shape, classes=classes, weights=args.weights)
    graph = trace(module, torch.zeros(1, *shape))
    network = Network(graph, source=module)
    network.load_state_dict(module.state_dict())
    return Gated(network.eval(), couple(graph))


def chosen(images: ImageSet, count: int, seed: int) -> ImageSet:
    """So many images at random, or all."""
    order = np.random.default_rng(seed).permutation(len(images))[:count]
    return images.take(torch.from_numpy(order))


def normaliser_of(gated: Gated, data: DataSplits) -> tuple[Normaliser, str]:
    """The normalisation that the weights were trained with: the data's own or ImageNet's, by the loss on 200 images."""
    if data.input_shape[0] != 3:
        return data.normaliser, "of the data"
    some = chosen(data.train, 200, 0)
    found = [mean_loss(gated, list(batches(some, 100, normaliser=n))) for n in (data.normaliser, IMAGENET)]
    return (IMAGENET, "of ImageNet") if found[1] < found[0] else (data.normaliser, "of the data")


@torch.no_grad()
def mean_loss(gated: Gated, images: Batches) -> float:
    each = [losses(gated(inputs), targets) for inputs, targets in images]
    return float(torch.cat(each).mean())


def ablated(gated: Gated, images: Batches, units: np.ndarray) -> Truth:
    """Take out each of these units, and each block, on every batch."""
    start = time.perf_counter()
    changes, blocks = [], []
    for inputs, targets in images:
        found = np.full((len(inputs), gated.coupling.count), np.nan)
        found[:, units] = unit_changes(gated, inputs, targets, units)
        changes.append(found)
        blocks.append(block_changes(gated, inputs, targets))
    return Truth(changes, blocks, units, time.perf_counter() - start)


def judge(
    gated: Gated, scores: np.ndarray, truth: Truth, held: Batches, args: argparse.Namespace, seen: int | None
) -> tuple[dict[str, Any], Curve]:
    """Correlations and ablation areas of scores `(units,)`; the curve over all units together."""
    row: dict[str, Any] = {}
    for over in dict.fromkeys([args.over, *OVER]):
        found = agree(scores, truth.of(over, seen), gated.coupling, truth.asked)
        if over == args.over:
            all_units, within = found.overall, found.within
            row |= {"spearman": all_units.spearman, "kendall": all_units.kendall, "pearson": all_units.pearson}
            row |= {"spearman_within": within.spearman, "kendall_within": within.kendall}
            row["spearman_sd"] = spread(scores[truth.asked], truth.of(over, seen)[truth.asked])
        row[f"spearman_{over}"] = found.overall.spearman
    each = list(layerwise(gated, scores, held, args.points).values())
    curve = ablation(gated, scores, held, points=args.points)
    row |= {"ablation_area": float(np.mean([c.area for c in each])), "ablation_area_all": curve.area}
    row["ablation_loss"] = float(np.mean([c.loss_area for c in each]))
    return row, curve


def spread(scores: np.ndarray, truth: np.ndarray) -> float:
    """Standard deviation of Spearman's correlation over bootstrapped units."""
    rng = np.random.default_rng(0)
    draws = (rng.integers(len(scores), size=len(scores)) for _ in range(BOOTSTRAPS))
    found = np.array([correlate(scores[i], truth[i]).spearman for i in draws])
    held = found[~np.isnan(found)]  # a draw of one unit alone has no correlation
    return float(held.std()) if len(held) else float("nan")


def timed(criterion: Criterion, gated: Gated, images: Batches) -> tuple[Any, float]:
    start = time.perf_counter()
    return score(criterion, gated, images), time.perf_counter() - start


def prepared(args: argparse.Namespace) -> tuple[Gated, Batches, Batches, str]:
    """The network, calibration batches, batches for curves, and in words what is measured on what."""
    data = load_data(f"npz:{args.data}" if args.data.endswith(".npz") else args.data, validation=0.1, seed=args.seed)
    gated = gated_model(args, data)
    normaliser, told = normaliser_of(gated, data)
    parts = (data.train, data.test) if args.calibrate == "train" else (data.test, data.train)
    some = [chosen(part, count, args.seed) for part, count in zip(parts, (args.images, args.held_out), strict=True)]
    images, held = (list(batches(part, args.batch, normaliser=normaliser)) for part in some)
    words = (
        f"{args.model}, {gated.coupling.count} units in {len(gated.coupling.groups)} groups: calibrated on "
        f"{len(some[0])} images of the {args.calibrate} part (loss {mean_loss(gated, images):.4f}) in batches of "
        f"{args.batch}, curves on {len(some[1])} of the other (loss {mean_loss(gated, held):.4f}); normalisation {told}"
    )
    return gated, images, held, words


def compare(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Curve], str]:
    """Figures of all criteria, their curves over all units, and in words what they were measured on."""
    gated, images, held, words = prepared(args)
    asked = np.sort(np.random.default_rng(args.seed).permutation(gated.coupling.count)[: args.units])
    truth = ablated(gated, images, asked)
    rows: dict[str, Any] = {}
    curves: dict[str, Curve] = {}
    for name, (kind, settings) in names(args.criteria).items():
        dear = kind in DEAR or settings.get("form") == "second"
        few = max(1, args.few // args.batch) if dear else None
        try:
            scores, seconds = timed(criteria[kind](**settings), gated, images[:few])
        except ConfigError as problem:
            rows[name] = {"refused": str(problem)}
            continue
        if scores.units is None:
            continue
        rows[name], curves[name] = judge(gated, scores.units, truth, held, args, few)
        if scores.blocks is not None and len(scores.blocks) > 2:
            rows[name]["spearman_blocks"] = correlate(scores.blocks, importance(truth.blocks[:few], args.over)).spearman
        rows[name]["seconds"] = seconds
    if len(asked) == gated.coupling.count:
        rows["oracle"], curves["oracle"] = judge(gated, truth.of(args.over), truth, held, args, None)
        rows["oracle"]["seconds"] = truth.seconds
    return rows, curves, words


def plain(value: Any) -> Any:
    """Numbers with four digits; what is not a number as None, which JSON has."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.4g}")
    return value


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20", help="as `nas-engine compress` takes it")
    parser.add_argument("--weights", default=None, help="file of weights; random ones if left out")
    parser.add_argument("--data", required=True, help="npz file, or a data source such as digits")
    parser.add_argument("--images", type=int, default=500, help="calibration images")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--few", type=int, default=100, help="images that dear criteria see")
    parser.add_argument("--calibrate", choices=("train", "test"), default="train")
    parser.add_argument("--held-out", type=int, default=249, help="images of the other part for ablation curves")
    parser.add_argument("--points", type=int, default=6, help="shares removed, from none to all")
    parser.add_argument("--units", type=int, default=None, help="ask the oracle about so many random units only")
    parser.add_argument("--criteria", default=None, help="names of rows, with commas between; all if left out")
    parser.add_argument("--over", choices=OVER, default="batch", help="what the oracle squares the change of")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    rows, curves, words = compare(args)
    rows = plain(rows)
    folder = common.RESULTS.parent / "criteria"
    folder.mkdir(parents=True, exist_ok=True)
    title = f"{Path(args.model).stem}_{args.calibrate}".replace(":", "_")
    (folder / f"{title}.svg").write_text(figure(rows, curves, args.over))
    (folder / f"{title}.md").write_text(table(rows, words, args.over, f"{title}.svg"))
    asked = {k: v for k, v in vars(args).items() if k not in ("weights", "data", "threads")}
    files = {k: v and Path(v).name for k, v in (("weights", args.weights), ("data", args.data))}
    common.publish_row("criteria", {**asked, **files}, {"criteria": rows, "measured_on": words})


if __name__ == "__main__":
    main()

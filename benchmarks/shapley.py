"""Shapley values where data are few: scores and fine-tuning from some images of each class. Prints one JSON line last.

    python -m benchmarks.shapley [--data npz:FILE] [--model lenet5] [--images 10000] [--base 5] [--share 0.5]
        [--each 10,50,100] [--criteria shapley,shapley_2sd,...] [--updates 100] [--seeds 3]
    python -m benchmarks.shapley --seconds-only

A network is trained for `--base` epochs on `--images` training images (a fifth of them held out). Then, with so many
images of each class as are at hand, `--share` of the units of each group go by each criterion's scores on these images
(all layers at once), and the smaller network is fine-tuned on them for `--updates` steps of 100 images. `random` and
`magnitude` look at no images to score. `shapley` is the mean over examples, `shapley_2sd` adds two standard deviations,
`shapley_tenth` walks tenths of a permutation, each from the whole network on; all take 5 permutations.

One row for each number of images: test accuracy in % before, and of each criterion right after the cut and when
fine-tuned; means over the `seeds` that are done, with `_sd`. With `--seconds-only`: CPU seconds of 5
permutations on LeNet-5 and 1,000 images.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.common import publish_row
from nas_engine.compress.criteria import Shapley, criteria, score
from nas_engine.config import Optimizer
from nas_engine.data import DataSplits, ImageSet, load_data
from nas_engine.evaluate import judge, recalibrate
from nas_engine.train import NetworkProgram, train
from search_spaces import Network, trace
from search_spaces.coupling import Coupling, Gated, couple, operate
from search_spaces.models import models

PERMUTATIONS, DEVIATIONS, BATCH = 5, 2.0, 100
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "shapley_tenth": ("shapley", {"permutations": PERMUTATIONS, "truncate": 0.1}),
    "taylor": ("taylor", {}),
    "magnitude": ("magnitude", {"p": 1}),
    "chip": ("chip", {}),
    "hrel": ("hrel", {}),
    "oracle": ("oracle", {}),
}
NAMES = ("shapley", "shapley_2sd", *SETTINGS, "random")
TRAINING = Optimizer(batch_size=BATCH, learning_rate=0.02, warmup_epochs=0.2)
TUNING = Optimizer(batch_size=BATCH, learning_rate=0.01, warmup_epochs=0.2)


def base_network(name: str, data: DataSplits, epochs: int, seed: int) -> Network:
    """The network, trained."""
    torch.manual_seed(seed)
    module = models[name](input_shape=data.input_shape, classes=len(data.classes))
    network = Network(trace(module, torch.zeros(1, *data.input_shape)))
    for _ in train(NetworkProgram(network), data, TRAINING, epochs=epochs, seed=seed):
        pass
    return network.eval()


def few(images: ImageSet, each: int, seed: int) -> ImageSet:
    """So many images of each class, drawn at random, in random order."""
    rng = np.random.default_rng(seed)
    labels = images.labels.numpy()
    drawn = [rng.permutation(np.flatnonzero(labels == c))[:each] for c in np.unique(labels)]
    return images.take(torch.from_numpy(rng.permutation(np.concatenate(drawn))))


def all_scores(names: list[str], gated: Gated, data: DataSplits, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Scores of each criterion by the training part; both reductions of Shapley values come from the same walks."""
    batches = list(data.walk(data.train, BATCH))
    if {"shapley", "shapley_2sd"} & set(names):
        found = score(Shapley(PERMUTATIONS, seed=seed), gated, batches)
        mean, examples = np.asarray(found.units), np.asarray(found.examples, dtype=np.float64)
        yield "shapley", mean
        yield "shapley_2sd", mean + DEVIATIONS * examples.std(0)
    for name in names:
        if name in SETTINGS:
            kind, settings = SETTINGS[name]
            yield name, np.asarray(score(criteria[kind](**settings), gated, batches).units)
        elif name == "random":
            yield name, np.random.default_rng(seed).random(gated.coupling.count)


def halved(coupling: Coupling, units: np.ndarray, share: float) -> np.ndarray:
    """The mask without this share of each group, those of the lowest scores."""
    keep = coupling.all()
    for group in coupling.groups:
        order = np.argsort(units[group.units], kind="stable")
        keep[group.units[order[: round(share * len(group))]]] = False
    return keep


def after(
    network: Network, keep: np.ndarray, coupling: Coupling, data: DataSplits, updates: int, seed: int
) -> tuple[float, float]:
    """Test accuracy in % after the cut, and after fine-tuning on the training part."""
    small = operate(network, coupling, keep).network
    recalibrate(small, (inputs for inputs, _ in data.walk(data.train, BATCH)))
    cut = judge(small, data, data.test).accuracy
    epochs = max(1, round(updates / -(-len(data.train) // BATCH)))
    for _ in train(NetworkProgram(small), data, TUNING, epochs=epochs, seed=seed):
        pass
    return 100 * cut, 100 * judge(small, data, data.test).accuracy


def one_seed(a: argparse.Namespace, names: list[str], seed: int) -> Iterator[tuple[int, dict[str, float]]]:
    """For each number of images: the figures of all criteria."""
    data = load_data(a.data, limit=a.images, seed=seed)
    network = base_network(a.model, data, a.base, seed)
    coupling = couple(network.graph)
    before = 100 * judge(network, data, data.test).accuracy
    for each in map(int, a.each.split(",")):
        less = replace(data, train=few(data.train, each, seed))
        figures = {"accuracy_before": before}
        for name, units in all_scores(names, Gated(network, coupling), less, seed):
            cut, tuned = after(network, halved(coupling, units, a.share), coupling, less, a.updates, seed)
            figures |= {f"{name}_cut": cut, f"{name}_tuned": tuned}
            print({"seed": seed, "each": each, "criterion": name, "cut": cut, "tuned": tuned}, flush=True)
        yield each, figures


def seconds() -> dict[str, float]:
    """CPU seconds of Shapley values of all units of LeNet-5 on 1,000 images."""
    torch.manual_seed(0)
    graph = trace(models["lenet5"](), torch.zeros(1, 1, 28, 28))
    gated = Gated(Network(graph).eval(), couple(graph))
    images, classes = torch.randn(1000, 1, 28, 28), torch.arange(1000) % 10
    batches = list(zip(images.split(BATCH), classes.split(BATCH), strict=True))
    started, cpu = time.perf_counter(), time.process_time()
    score(Shapley(PERMUTATIONS), gated, batches)
    spent = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
    return {**{k: round(v, 1) for k, v in spent.items()}, "threads": torch.get_num_threads()}


def summary(runs: list[dict[str, float]]) -> dict[str, float]:
    """Means over the seeds so far, and their spread."""
    means = {k: round(float(np.mean([run[k] for run in runs])), 2) for k in runs[0]}
    spread = {f"{k}_sd": round(float(np.std([run[k] for run in runs])), 2) for k in runs[0]}
    return {**means, **spread, "seeds": len(runs)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="npz:../shared/data/fashion_mnist/fashion_mnist.npz")
    parser.add_argument("--model", default="lenet5")
    parser.add_argument("--images", type=int, default=10000)
    parser.add_argument("--base", type=int, default=5, help="epochs of the network that is cut")
    parser.add_argument("--share", type=float, default=0.5, help="of each group's units that go")
    parser.add_argument("--each", default="10,50,100", help="images of each class")
    parser.add_argument("--criteria", default=",".join(NAMES))
    parser.add_argument("--updates", type=int, default=100, help="steps of fine-tuning")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds-only", action="store_true")
    a = parser.parse_args()
    if a.seconds_only:
        publish_row("shapley", {"form": "seconds", "model": "lenet5", "images": 1000}, seconds())
        return
    asked = {"form": "few", "share": a.share, "model": a.model, "data": a.data.split("/")[-1].split(".")[0]}
    runs: dict[int, list[dict[str, float]]] = {}
    for seed in range(a.seeds):
        for each, figures in one_seed(a, a.criteria.split(","), seed):
            runs.setdefault(each, []).append(figures)
            publish_row("shapley", {**asked, "each": each, "updates": a.updates}, summary(runs[each]))


if __name__ == "__main__":
    main()

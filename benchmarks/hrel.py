"""HRel's headline: LeNet-5 on MNIST from 20-50 filters to 2-3. Prints one JSON line last.

    python -m benchmarks.hrel [--criteria hrel,magnitude,random,taylor] [--data npz:FILE] [--images 10000] [--steps 10]
        [--epochs 1] [--last 12] [--base 4] [--seeds 3]

A network is trained for `--base` epochs on `--images` training images (a fifth of them held out). Then filters go in
geometric steps, those of the lowest scores, with `--epochs` of training after each step and `--last` more at the end;
all criteria share the network, the steps, the calibration images (500 of training) and the trainings' seeds. The
network is made smaller at each step, not masked. Only convolutions are cut, as published.

Figures: test accuracy in % before, right after the last cut and at the end, `lost` in points of what it was before;
means over the `seeds` that are done, with `_sd`, one row a criterion. `conv_macs` as a share of what they were.
Nothing is chosen by test accuracy.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.common import publish_row
from nas_engine.compress.criteria import criteria, score
from nas_engine.config import Optimizer
from nas_engine.data import DataSplits, load_data
from nas_engine.evaluate import judge
from nas_engine.train import NetworkProgram, train
from search_spaces import Network, trace
from search_spaces.coupling import Coupling, Gated, couple, operate
from search_spaces.models import models

if TYPE_CHECKING:
    from search_spaces import Graph

TARGETS = {"conv1": 2, "conv2": 3}
SETTINGS: dict[str, dict[str, Any]] = {"magnitude": {"p": 1}}
BATCH, CALIBRATION = 100, 500
TRAINING = Optimizer(batch_size=BATCH, learning_rate=0.05, weight_decay=5e-4, warmup_epochs=0.2)


def trained(network: Network, data: DataSplits, epochs: int, seed: int) -> Network:
    """The network after some epochs."""
    for _ in train(NetworkProgram(network), data, TRAINING, epochs=epochs, seed=seed):
        pass
    return network.eval()


def counts(step: int, steps: int, sizes: dict[str, int]) -> dict[str, int]:
    """How many filters each convolution keeps after a step: the same share of what is left goes each time."""
    return {name: round(sizes[name] * (TARGETS[name] / sizes[name]) ** (step / steps)) for name in TARGETS}


def smaller(network: Network, graph: Graph, name: str, kept: dict[str, int], data: DataSplits, seed: int) -> Network:
    """The network with so many filters, those with the highest scores."""
    coupling = couple(graph)
    settings = {**SETTINGS.get(name, {}), **({"seed": seed} if name == "random" else {})}
    some = data.train.take(torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:CALIBRATION])
    units = score(criteria[name](**settings), Gated(network, coupling), data.walk(some, BATCH)).units
    return operate(network, coupling, best(coupling, np.asarray(units), kept)).network.eval()


def best(coupling: Coupling, units: np.ndarray, kept: dict[str, int]) -> np.ndarray:
    """The mask that keeps the best so many units of the groups named, and all others."""
    keep = coupling.all()
    for group in coupling.groups:
        if group.name in kept:
            order = np.argsort(-units[group.units], kind="stable")
            keep[group.units[order[kept[group.name] :]]] = False
    return keep


def conv_macs(graph: Graph) -> int:
    return sum(node.signature.cost.macs for node in graph.nodes if node.operator == "conv2d")


def pruned(
    name: str, base: Network, data: DataSplits, steps: int, epochs: int, last: int, seed: int
) -> dict[str, float]:
    """Figures of one criterion from a trained network on."""
    started = time.perf_counter()
    network, whole = base, base.graph
    sizes = {group.name: len(group) for group in couple(whole).groups}
    scoring = 0.0
    for step in range(1, steps + 1):
        before = time.perf_counter()
        network = smaller(network, network.graph, name, counts(step, steps, sizes), data, seed + step)
        scoring += time.perf_counter() - before
        if step == steps:
            cut = judge(network, data, data.test).accuracy
        trained(network, data, epochs + (last if step == steps else 0), seed=1000 * seed + step)
    return {
        "accuracy_cut": 100 * cut,
        "accuracy_after": 100 * judge(network, data, data.test).accuracy,
        "conv_macs": conv_macs(network.graph) / conv_macs(whole),
        "scoring_s": scoring,
        "seconds": time.perf_counter() - started,
    }


def base_network(data: DataSplits, epochs: int, seed: int) -> Network:
    """LeNet-5, trained."""
    torch.manual_seed(seed)
    graph = trace(models["lenet5"](), torch.zeros(1, 1, 28, 28))
    return trained(Network(graph), data, epochs, seed)


def summary(runs: list[dict[str, float]]) -> dict[str, float]:
    """Means over the seeds so far, and the spread of what matters."""
    means = {k: float(np.mean([run[k] for run in runs])) for k in runs[0]}
    spread = {f"{k}_sd": float(np.std([run[k] for run in runs])) for k in ("accuracy_after", "lost")}
    return {**{k: round(v, 3) for k, v in {**means, **spread}.items()}, "seeds": len(runs)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--criteria", default="hrel,magnitude,random,taylor")
    parser.add_argument("--data", default="npz:../shared/data/mnist/mnist.npz")
    parser.add_argument("--images", type=int, default=10000)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=1, help="after each step")
    parser.add_argument("--last", type=int, default=12, help="more of them after the last step")
    parser.add_argument("--base", type=int, default=4, help="of the network that is cut")
    parser.add_argument("--seeds", type=int, default=3)
    a = parser.parse_args()
    shared = {key: getattr(a, key) for key in ("images", "steps", "epochs", "last", "base")}
    asked = {"data": a.data.split("/")[-1].split(".")[0], **shared}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in a.criteria.split(",")}
    for seed in range(a.seeds):
        data = load_data(a.data, limit=a.images, seed=seed)
        base = base_network(data, a.base, seed)
        before = 100 * judge(base, data, data.test).accuracy
        for name, found in runs.items():
            figures = pruned(name, base, data, a.steps, a.epochs, a.last, seed)
            found.append({"accuracy_before": before, **figures, "lost": before - figures["accuracy_after"]})
            publish_row("hrel", {"criterion": name, **asked}, summary(found))


if __name__ == "__main__":
    main()

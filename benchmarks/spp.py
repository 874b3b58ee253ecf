"""Columns of convolutions that go by probabilities (SPP) against the same number gone at once, by L1 or at random.

`python -m benchmarks.spp --data npz:../shared/data/fashion_mnist/fashion_mnist.npz` trains LeNet-5, prunes the columns
of its convolutions while it trains on, and then trains all arms equally long again. All arms see the same iterations;
test images are read for the figures alone, and choose nothing. The last line is JSON.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nas_engine.compress.columns import bake, column_layers, columns, mask_columns, masks_of, realised
from nas_engine.compress.criteria.base import Scores
from nas_engine.compress.criteria.chance import Random
from nas_engine.compress.masked import Masked
from nas_engine.compress.schedules import Plan, ScheduledProgram, SppColumns
from nas_engine.compress.schedules.probabilities import target_count
from nas_engine.config import Optimizer
from nas_engine.data import DataSplits, load_data
from nas_engine.evaluate import judge
from nas_engine.train import NetworkProgram, train
from search_spaces import Network, trace
from search_spaces.coupling import Coupling, couple
from search_spaces.models import models

from .common import publish_row

ARMS = ("spp", "l1", "random")


@dataclass
class Bench:
    """What all arms share.

    Attributes:
        settings: of the training of the unpruned network; pruning and training after it use `rate`.
        base, pruning, training: epochs.
        every: iterations between two updates of SPP's probabilities.
    """

    data: DataSplits
    settings: Optimizer
    rate: float
    base: int
    pruning: int
    training: int
    every: int

    def accuracy(self, network: nn.Module) -> float:
        return judge(network, self.data, self.data.test).accuracy

    def trained(self, seed: int) -> tuple[Network, Coupling]:
        """LeNet-5 trained from random weights."""
        torch.manual_seed(seed)
        shape = self.data.input_shape
        module = models["lenet5"](input_shape=shape, classes=len(self.data.classes))
        graph = trace(module, torch.zeros(1, *shape))
        network = Network(graph, module)
        network.load_state_dict(module.state_dict())
        self.fit(NetworkProgram(network), self.base, seed, self.settings)
        return network, couple(graph)

    def fit(self, program: Any, epochs: int, seed: int, settings: Optimizer | None = None) -> None:
        used = settings or self.settings.model_copy(update={"learning_rate": self.rate})
        for _ in train(program, self.data, used, epochs=epochs, seed=seed, augment=self.data.augment):
            pass


class Watched(SppColumns):
    """SPP that is judged in the moment it has finished."""

    def __init__(self, bench: Bench, **settings: Any) -> None:
        super().__init__(**settings)
        self._bench = bench
        self.accuracy: float | None = None

    def observe(self, inputs: Tensor, targets: Tensor, epoch: int, step: int) -> None:
        super().observe(inputs, targets, epoch, step)
        self._judged()

    def complete(self) -> None:
        super().complete()
        self._judged()

    def _judged(self) -> None:
        if self.finished and self.accuracy is None:
            self.accuracy = self._bench.accuracy(self.plan.masked)


def at_once(arm: str, network: Network, ratio: float, seed: int) -> None:
    """Mask the columns of lowest L1 norm, or any."""
    rng = np.random.default_rng(seed)
    for _, layer in column_layers(network):
        norms = columns(layer, layer.weight.detach()).abs().sum(1)[0].numpy()
        order = np.argsort(norms, kind="stable") if arm == "l1" else rng.permutation(len(norms))
        keep = np.ones((1, len(norms)), dtype=bool)
        keep[0, order[: target_count(ratio, len(norms))]] = False
        mask_columns(layer).mask(torch.from_numpy(keep))


def pruned(bench: Bench, arm: str, base: tuple[Network, Coupling], ratio: float, seed: int) -> dict[str, Any]:
    """One arm from the unpruned network to the end of its training."""
    network, coupling = copy.deepcopy(base[0]), base[1]
    masked = Masked(network, coupling)
    found: dict[str, Any]
    if arm == "spp":
        schedule = Watched(bench, ratio=ratio, every=bench.every, seed=seed)
        plan = Plan(masked, _everything, Random)
        bench.fit(ScheduledProgram(NetworkProgram(masked), schedule, plan), bench.pruning, seed)
        schedule.complete()
        report = schedule.report()
        found = {
            "when_pruned": schedule.accuracy,
            **{key: report[key] for key in ("iterations", "forced", "recoveries", "rescued", "dead_units")},
        }
    else:
        at_once(arm, network, ratio, seed)
        found = {"when_pruned": bench.accuracy(masked)}
        bench.fit(NetworkProgram(masked), bench.pruning, seed)
    found["after_pruning_phase"] = bench.accuracy(masked)
    bench.fit(NetworkProgram(masked), bench.training, seed + 1000)
    kept = masks_of(network)
    gone = {name: int((~keep).sum()) for name, keep in kept.items()}
    return {**found, "trained": bench.accuracy(masked), "gone": gone, "speed": speed(network, bench.data)}


def _everything(scores: Scores, share: float) -> np.ndarray:
    """No channel goes: columns are what is pruned."""
    raise AssertionError("SPP on columns asks no allocator")


def speed(network: Network, data: DataSplits, rounds: int = 15) -> float:
    """Time of the unpruned convolutions over that of the pruned ones: the whole network, 64 images, one thread."""
    small, whole = realised(network).eval(), copy.deepcopy(network).eval()
    bake(whole)
    inputs = data.samples(64)
    seconds: dict[int, list[float]] = {0: [], 1: []}
    with torch.inference_mode():
        for _ in range(rounds):  # in turn, so that a busy machine slows both
            for i, module in enumerate((whole, small)):
                started = time.perf_counter()
                module(inputs)
                seconds[i].append(time.perf_counter() - started)
    return min(seconds[0]) / min(seconds[1])


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and standard deviations over seeds."""

    def both(key: str) -> dict[str, float]:
        values = [row[key] for row in rows]
        return {
            "mean": round(statistics.mean(values), 4),
            "std": round(statistics.stdev(values), 4) if len(values) > 1 else 0.0,
        }

    keys = [key for key in rows[0] if key != "gone"]
    return {**{key: both(key) for key in keys}, "gone": rows[0]["gone"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="npz:../shared/data/fashion_mnist/fashion_mnist.npz")
    parser.add_argument("--limit", type=int, default=6_000, help="images that are learned from, a fifth held out")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.5, 0.75, 0.9])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--base", type=int, default=6, help="epochs of the unpruned network")
    parser.add_argument("--pruning", type=int, default=3, help="epochs in which SPP prunes")
    parser.add_argument("--training", type=int, default=2, help="epochs after them, for all arms")
    parser.add_argument("--every", type=int, default=2, help="iterations between updates of probabilities")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=0.01)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data(asked.data, limit=asked.limit)
    settings = Optimizer(batch_size=asked.batch, learning_rate=0.05)
    bench = Bench(data, settings, asked.rate, asked.base, asked.pruning, asked.training, asked.every)
    bases = [bench.trained(seed) for seed in range(asked.seeds)]
    before = [bench.accuracy(network) for network, _ in bases]
    print(f"unpruned: {before}", flush=True)
    for ratio in asked.ratios:
        started = time.process_time()
        figures: dict[str, Any] = {"unpruned": round(statistics.mean(before), 4)}
        for arm in ARMS:
            rows = [pruned(bench, arm, base, ratio, seed) for seed, base in enumerate(bases)]
            figures[arm] = summary(rows)
        figures["cpu_seconds"] = round(time.process_time() - started)
        name = Path(asked.data.rpartition(":")[2]).stem
        protocol = {k: v for k, v in vars(asked).items() if k not in ("data", "ratios")}
        publish_row("spp", {"data": name, "ratio": ratio, **protocol}, figures)


if __name__ == "__main__":
    main()

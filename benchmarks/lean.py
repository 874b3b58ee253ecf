"""LEAN against its own norms and magnitudes in one schedule, on labelled pixels. Prints one JSON line last.

    python -m benchmarks.lean [--model msd|unet] [--data circles|FILE] [--share 0.05] [--steps 8] [--epochs 2]
                              [--training 30] [--seeds 1] [--methods lean lean_scaled operator_norm l1]

A network is trained, then kernels are cut in geometric steps down to `--share` of them, each step followed by clean-up
and `--epochs` of retraining. Methods start from the same weights and see the same batches; FILE is CamVid as an npz.

- lean is as published, lean_scaled divides norms by their median; operator_norm and l1 rank kernels by themselves.
- miou: mean IoU on test images after each step's retraining, by the share asked for: mean over seeds, and each.
- lost: whether it is more than 0.02 below the network before pruning (`before`).
- unpruned: the network trained on for as many epochs without pruning.
- kernels, channels, chained: kernels left after clean-up, channels on a way from input to output, share of the scored
  kernels that came with chains.
- params_ratio, macs_ratio: of the network without its dead channels; difference: of its outputs from the masked one's.
- seconds: of scoring, largest over steps. `--scores-of WIDTH` adds the time for an untrained U-Net of that width.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.common import publish_row
from benchmarks.pixels import PixelProgram, PixelSplits, camvid, circles, mean_iou, shortened
from nas_engine.compress.criteria import Lean, OperatorNorm, score
from nas_engine.compress.criteria.lean import kernel_l1, strongest
from nas_engine.compress.kernels import Cleaned, Masks, clean_up, geometric_quotas, mask_kernels, remove_dead
from nas_engine.compress.liveness import Life
from nas_engine.config import Optimizer
from nas_engine.train import train
from search_spaces import Network, trace
from search_spaces.coupling import Coupling, Gated, couple
from search_spaces.models import models

Score = Callable[[Gated], tuple[dict[str, np.ndarray], float]]
_ONCE = ("share", "seconds", "params_ratio", "macs_ratio", "difference")
FLAT = 1e-10  # running variance below which a channel counts as dead, as published for U-Nets


def lean(scale: str, grid: int) -> Score:
    def scored(gated: Gated) -> tuple[dict[str, np.ndarray], float]:
        criterion = Lean(grid=grid, scale=scale)
        kernels = score(criterion, gated).kernels
        found = criterion.extraction
        return kernels, 0.0 if found is None else found.chained / max(1, len(found.order))

    return scored


def methods(grid: int) -> dict[str, Score]:
    """Scores of kernels, and the share of them that came with chains."""
    return {
        "lean": lean("none", grid),
        "lean_scaled": lean("network", grid),
        "operator_norm": lambda gated: (score(OperatorNorm(grid=grid), gated).kernels, 0.0),
        "l1": lambda gated: (kernel_l1(gated.coupling.graph, gated.network), 0.0),
    }


@dataclass(frozen=True)
class Setting:
    """What is trained, how, and down to which share of the kernels."""

    data: PixelSplits
    training: Optimizer
    retraining: Optimizer
    share: float
    steps: int
    epochs: int

    def fit(self, network: nn.Module, settings: Optimizer, epochs: int, seed: int) -> None:
        for _ in train(PixelProgram(network), self.data, settings, epochs=epochs, seed=seed):
            pass

    def judged(self, network: nn.Module) -> dict[str, float]:
        return mean_iou(network, self.data, self.data.test)


def pruned(setting: Setting, network: Network, coupling: Coupling, scores: Score, seed: int) -> list[dict[str, Any]]:
    """Cut and retrain a network in steps; what it is like after each."""
    graph = coupling.graph
    masks: Masks = {n: np.ones(k.shape, dtype=bool) for n, k in kernel_l1(graph, network).items()}
    total = sum(m.size for m in masks.values())
    rows = []
    for step, quota in enumerate(geometric_quotas(total, setting.share, setting.steps)):
        started = time.perf_counter()
        kernels, chained = scores(Gated(network, coupling))
        seconds = time.perf_counter() - started
        chosen = strongest(kernels, quota)
        cleaned = clean_up(coupling, {n: chosen[n] & masks[n] for n in masks}, network, FLAT)
        masks = cleaned.masks
        mask_kernels(network, graph, masks, cleaned.dead)
        setting.fit(network, setting.retraining, setting.epochs, seed=1000 * seed + step)
        life = Life(graph, dict(masks)).run()
        row = {
            "share": quota / total,
            "kernels": cleaned.kernels,
            "channels": sum(int((life.alive[n] & life.needed[n]).sum()) for n in masks),
            "chained": chained,
            "seconds": seconds,
            **setting.judged(network),
        }
        rows.append(row)
        print({k: round(v, 4) for k, v in row.items()}, flush=True)
    rows[-1] |= smaller(network, coupling, clean_up(coupling, masks, network, FLAT), setting.data)
    return rows


def smaller(network: Network, coupling: Coupling, cleaned: Cleaned, data: PixelSplits) -> dict[str, float]:
    """The network without dead channels: its size, and how far its outputs are from the masked one's."""
    mask_kernels(network, coupling.graph, cleaned.masks, cleaned.dead)
    small = remove_dead(network.eval(), coupling, cleaned).surgery.network.eval()
    inputs, _ = next(iter(data.walk(data.test, 4)))
    with torch.inference_mode():
        expected, found = network(inputs), small(inputs)
    before, after = coupling.graph.cost, small.graph.cost
    return {
        "params_ratio": after.params / before.params,
        "macs_ratio": after.macs / before.macs,
        "difference": float((found - expected).norm() / expected.norm()),
    }


def control(setting: Setting, network: Network, seed: int) -> list[dict[str, Any]]:
    """The unpruned network trained on like the others."""
    rows = []
    for step in range(setting.steps):
        setting.fit(network, setting.retraining, setting.epochs, seed=1000 * seed + step)
        rows.append({"share": setting.share ** ((step + 1) / setting.steps), **setting.judged(network)})
    return rows


def summary(runs: list[list[dict[str, Any]]], base: list[float]) -> dict[str, Any]:
    """Figures of one method over seeds, by share."""
    found: dict[str, Any] = {"steps": {}}
    for rows in zip(*runs, strict=True):
        means = {k: round(float(np.mean([row[k] for row in rows])), 4) for k in rows[0] if k not in _ONCE}
        miou = [round(row["miou"], 4) for row in rows]
        lost = bool(np.mean(base) - means["miou"] > 0.02)
        found["steps"][f"{rows[0]['share']:.3f}"] = {**means, "seeds": miou, "lost": lost}
    last = [rows[-1] for rows in runs]
    if "seconds" in last[0]:
        found["seconds"] = round(max(row["seconds"] for rows in runs for row in rows), 2)
        found |= {k: round(float(np.mean([r[k] for r in last])), 4) for k in ("params_ratio", "macs_ratio")}
        found["difference"] = max(r["difference"] for r in last)
    return found


def scoring_seconds(width: int, levels: int = 4) -> dict[str, Any]:
    """Seconds of LEAN's scores of an untrained U-Net with norms scaled so that chains are long."""
    torch.manual_seed(0)
    module = models["unet"](width=width, levels=levels, input_shape=(3, 64, 64), classes=11).eval()
    graph = trace(module, torch.zeros(1, 3, 64, 64))
    gated, criterion = Gated(Network(graph), couple(graph)), Lean(scale="network")
    started = time.perf_counter()
    kernels = score(criterion, gated).kernels
    seconds = time.perf_counter() - started
    return {"width": width, "levels": levels, "kernels": sum(k.size for k in kernels.values()), "seconds": seconds}


def build(model: str, data: PixelSplits, asked: argparse.Namespace) -> nn.Module:
    options = {"msd": {"depth": asked.depth}, "unet": {"width": asked.width}}[model]
    module: nn.Module = models[model](input_shape=data.input_shape, classes=len(data.classes), **options)
    return module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("msd", "unet"), default="msd")
    parser.add_argument("--depth", type=int, default=30, help="layers of the mixed-scale dense network")
    parser.add_argument("--width", type=int, default=8, help="channels of the U-Net's first level")
    parser.add_argument("--data", default="circles", help="circles, or CamVid as an npz")
    parser.add_argument("--size", type=int, default=64, help="side of generated images")
    parser.add_argument("--images", type=int, default=500, help="training images, at most")
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=2, help="retraining after each step")
    parser.add_argument("--training", type=int, default=30, help="epochs before pruning")
    parser.add_argument("--rate", type=float, default=0.05, help="learning rate; half of it in retraining")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--methods", nargs="+", default=["lean", "operator_norm", "l1"], choices=sorted(methods(1)))
    parser.add_argument("--scores-of", type=int, help="width of a U-Net whose scoring is timed")
    asked = parser.parse_args()
    data = circles(size=asked.size) if asked.data == "circles" else camvid(Path(asked.data))
    data = shortened(data, asked.images)
    optimizer = Optimizer(batch_size=10, learning_rate=asked.rate, weight_decay=1e-4)
    calm = optimizer.model_copy(update={"learning_rate": asked.rate / 2})
    setting = Setting(data, optimizer, calm, asked.share, asked.steps, asked.epochs)
    base: list[float] = []
    runs: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in (*asked.methods, "unpruned")}
    settings = {k: v for k, v in vars(asked).items() if k not in ("data", "seeds")} | {"data": data.source}
    for seed in range(asked.seeds):
        one_seed(setting, asked, seed, base, runs)
        figures: dict[str, Any] = {"seeds": seed + 1, "before": [round(v, 4) for v in base], "splits": data.description}
        figures["methods"] = {name: summary(found, base) for name, found in runs.items()}
        if asked.scores_of and seed + 1 == asked.seeds:
            figures["scoring"] = scoring_seconds(asked.scores_of)
        publish_row("lean", settings, figures)


def one_seed(
    setting: Setting,
    asked: argparse.Namespace,
    seed: int,
    base: list[float],
    runs: dict[str, list[list[dict[str, Any]]]],
) -> None:
    """Train a network, then prune copies of it by each method."""
    torch.manual_seed(seed)
    module = build(asked.model, setting.data, asked)
    graph = trace(module, torch.zeros(1, *setting.data.input_shape))
    network, coupling = Network(graph), couple(graph)
    network.load_state_dict(module.state_dict())
    setting.fit(network, setting.training, asked.training, seed)
    base.append(setting.judged(network)["miou"])
    print("unpruned", seed, base[-1], flush=True)
    state = {k: v.clone() for k, v in network.state_dict().items()}
    known = methods(16 if asked.model == "unet" else 128)
    for name, found in runs.items():
        print(name, flush=True)
        network.load_state_dict(state)
        if name == "unpruned":
            found.append(control(setting, network, seed))
        else:
            copy = Network(graph)
            copy.load_state_dict(state)
            found.append(pruned(setting, copy, coupling, known[name], seed))


if __name__ == "__main__":
    main()

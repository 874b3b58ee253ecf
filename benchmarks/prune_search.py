"""Searching what to cut against uniform cuts and global thresholds, at the same measured latency.

    python -m benchmarks.prune_search --model resnet56 --data ../shared/data/cifar10_jpeg --bound 0.5 --finetune 2 \
        --weights ../shared/data/resnet_cifar10_weights/resnet56.safetensors --seeds 3

The search is a run of the engine over the space `pruned` under `latency_ms <= BOUNDx`; its result is the candidate of
the highest validation accuracy, after the search's own short trainings, among those that meet the bound when measured
(the nearest, where none does). The others are the largest cuts along their allocator's order that take no longer than
it, all measured in turns. Then all start again from the weights that were given, and get the same batch
norms and the same training (`benchmarks.prune`), with the same seeds. What the search cost beside is in `search_s`.

The given weights have seen the validation images in their own training, so validation only orders cuts; accuracies
are of test images.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch

from nas_engine import Run
from nas_engine.compress.allocation import Limits, allocators
from nas_engine.compress.criteria import criteria, score
from nas_engine.compress.request import made
from nas_engine.config import make_config
from nas_engine.data import DataSplits
from nas_engine.pipeline import run_pipeline
from nas_engine.train.candidate import GIVEN, initial_network
from predictors.cost import DeviceProfile
from predictors.cost.measure import measure_networks
from search_spaces import Graph, Network
from search_spaces.coupling import Gated, operate
from search_spaces.models import load_model

from .cifar import cifar, decoded
from .common import publish_row
from .prune import BATCH, refined, traced

LEVELS = 24  # cuts along an allocator's order that are measured
LATENCY_S = 0.5
SLACK = 1.01  # of the measured latency: less than its spread


@dataclass
class Arm:
    """A cut: its graph, and how to make its network with the weights that were given."""

    graph: Graph
    make: Any


def searched(asked: argparse.Namespace) -> tuple[Run, Arm, float]:
    """The run, its best cut, and the seconds that it took in all."""
    source = decoded(asked.data) if asked.data.is_dir() else asked.data
    optimizer = {"batch_size": 128, "learning_rate": asked.rate, "warmup_epochs": 0}
    config = make_config(
        {
            "name": f"{asked.model}-{asked.bound:g}-{asked.criterion}-{asked.sampler}",
            "results": str(asked.results),
            "threads": asked.threads,
            "data": {"source": f"npz:{source}", "normalise": "imagenet", "limit": asked.limit},
            "device": {"measure_seconds": asked.measure},
            "space": {
                "name": "pruned",
                "model": asked.model,
                "weights": str(asked.weights),
                "criterion": asked.criterion,
                "multiple": asked.multiple,
                "images": asked.images,
            },
            "objectives": {"accuracy": "max"},
            "constraints": [f"latency_ms <= {asked.bound:g}x"],
            "supernet": {"epochs": asked.supernet, "strategy": "sandwich", "optimizer": optimizer},
            "sample": {"architectures": asked.members, "images": 1000, "workers": 1},
            "table": {"rows": asked.rows, "workers": 1},
            "search": {
                "sampler": asked.sampler,
                "trials": asked.trials,
                "epochs": asked.epochs,
                "grace_epochs": asked.epochs,
                "threads": asked.threads,
                "optimizer": optimizer,
            },
            "export": {"networks": 1, "formats": []},
        }
    )
    run = run_pipeline(config, until="choose")
    chosen = max((n for n in run.chosen["networks"] if n["chosen"]), key=lambda n: n["accuracy"])
    weights = run.path / "supernet" / GIVEN
    seconds = sum(row["seconds"] or 0.0 for row in run.status)
    graph = run.space.graph(run.architecture(chosen["code"]))
    return run, Arm(graph, lambda: initial_network(run.space, chosen["code"], weights).eval()), seconds


def along(name: str, whole: Network, data: DataSplits, run: Run, asked: argparse.Namespace) -> list[Arm]:
    """Cuts along the order of an allocator, from the smallest to the largest."""
    coupling = run.space.coupling  # type: ignore[attr-defined]
    criterion = made("criterion", criteria[asked.criterion], asked.criterion, {}, 0)
    walk = islice(iter(data.walk(data.train, BATCH, seed=0)), asked.images // BATCH)
    scores = score(criterion, Gated(whole, coupling), walk)
    allocator = allocators[name](coupling, scores, Limits(multiple=asked.multiple), criterion.comparable)
    arms = []
    for steps in np.unique(np.linspace(0, len(allocator), LEVELS).round().astype(int))[::-1].tolist():
        cut = allocator.cut(steps)
        arms.append(Arm(cut.graph(coupling), lambda cut=cut: _cut(whole, run, cut)))
    return arms


def _cut(whole: Network, run: Run, cut: Any) -> Network:
    return operate(whole, run.space.coupling, cut.keep, cut.without).network.eval()  # type: ignore[attr-defined]


def latencies(graphs: list[Graph], threads: int = 1) -> list[float]:
    """Median milliseconds of each, in turns."""
    found = measure_networks(graphs, DeviceProfile.detect(threads=threads), seconds=LATENCY_S)
    return [m.median_ms for m in found]


def matched(arms: list[Arm], target_ms: float, times: list[float]) -> Arm:
    """The largest cut that takes no longer than the target; the smallest where all do."""
    fitting = [arm for arm, ms in zip(arms, times, strict=True) if ms <= target_ms * SLACK]
    return max(fitting, key=lambda arm: arm.graph.cost.macs) if fitting else arms[0]


def judged(arm: Arm, asked: argparse.Namespace) -> dict[str, Any]:
    """Test accuracy after the cut and after the training, over seeds."""
    rows = []
    for seed in range(asked.seeds):
        torch.manual_seed(seed)
        rows.append(refined(arm.make(), cifar(asked.data, limit=asked.limit, seed=seed), asked, seed))
    cut, tuned = zip(*rows, strict=True)
    spread = stdev(tuned) if len(tuned) > 1 else None
    return {"accuracy_cut": mean(cut), "accuracy_finetuned": mean(tuned), "accuracy_std": spread}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet56")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bound", type=float, default=0.5, help="share of the measured latency")
    parser.add_argument("--criterion", default="taylor")
    parser.add_argument("--rivals", nargs="+", default=["uniform", "global", "per_cost"], help="allocators")
    parser.add_argument("--finetune", type=int, default=2, help="epochs of the training that is compared")
    parser.add_argument("--rate", type=float, default=0.01, help="learning rate, falling to 0")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=10_000, help="training images, a fifth of them for validation")
    parser.add_argument("--images", type=int, default=1000, help="that the criterion sees")
    parser.add_argument("--multiple", type=int, default=1, help="that widths are rounded to")
    parser.add_argument("--supernet", type=int, default=0, help="epochs in which cuts learn to share the weights")
    parser.add_argument("--members", type=int, default=200, help="cuts scored")
    parser.add_argument("--rows", type=int, default=20_000, help="of the lookup table")
    parser.add_argument("--sampler", default="gcn")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=1, help="of a trial")
    parser.add_argument("--measure", type=float, default=60, help="seconds for the latency model")
    parser.add_argument("--results", type=Path, default=Path("results"), help="where the run lies; it resumes")
    parser.add_argument("--threads", type=int, default=1, help="of training")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    started = time.perf_counter()
    run, best, search_s = searched(asked)
    data = cifar(asked.data, limit=asked.limit, seed=0)
    whole = traced(load_model(asked.model, input_shape=data.input_shape, weights=asked.weights), data)
    rivals = {name: along(name, whole, data, run, asked) for name in asked.rivals}
    times = latencies([best.graph, *(arm.graph for arms in rivals.values() for arm in arms)])
    arms = {"searched": best}
    first = 1
    for name, found in rivals.items():
        arms[name] = matched(found, times[0], times[first : first + len(found)])
        first += len(found)
    final = latencies([whole.graph, *(arm.graph for arm in arms.values())])
    figures: dict[str, Any] = {}
    for (name, arm), ms in zip(arms.items(), final[1:], strict=True):
        ratios = {
            "latency_ratio": ms / final[0],
            "macs_ratio": arm.graph.cost.macs / whole.graph.cost.macs,
            "params_ratio": arm.graph.cost.params / whole.graph.cost.params,
        }
        figures[name] = {**ratios, **judged(arm, asked)}
    left_out = ("weights", "data", "results", "threads", "measure", "rivals")
    settings = {**{k: v for k, v in vars(asked).items() if k not in left_out}, "data": asked.data.name}
    gap = {
        f"ahead_of_{n}": figures["searched"]["accuracy_finetuned"] - figures[n]["accuracy_finetuned"] for n in rivals
    }
    seconds = {"search_s": search_s, "seconds": time.perf_counter() - started}
    publish_row("prune_search", settings, {**figures, **gap, **seconds})


if __name__ == "__main__":
    main()

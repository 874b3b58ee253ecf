"""Pruning a trained network by one criterion: accuracy before, after the cut and after fine-tuning, sizes and latency.

    python -m benchmarks.prune --model resnet56 --weights ../shared/data/resnet_cifar10_weights/resnet56.safetensors \
        --data ../shared/data/cifar10_jpeg --criterion taylor --target macs=0.5 --finetune 2 --seeds 3

Criteria are those of the engine; `layerprune` leaves out whole blocks. `torch_pruning_magnitude` and
`torch_pruning_taylor` are Torch-Pruning's own in the same protocol: cut to the same target, batch norms recalibrated on
1,024 images, the same training. It cannot cut the residual stream of networks with padded shortcuts, so it cuts inner
channels there. `none` is the uncut network with the same training. Seeds draw the images and the order of training.
"""

from __future__ import annotations

import argparse
import time
from itertools import islice
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import nn

from nas_engine.compress import verdict
from nas_engine.compress.allocation import Limits, allocators, suited
from nas_engine.compress.criteria import criteria, score
from nas_engine.compress.request import made
from nas_engine.compress.targets import Budget, Target
from nas_engine.config import Optimizer
from nas_engine.data import DataSplits
from nas_engine.evaluate import judge, recalibrate
from nas_engine.train import NetworkProgram, train
from predictors.cost import make_cost_model
from search_spaces import Network, trace
from search_spaces.coupling import Gated, couple, operate
from search_spaces.models import load_model

from .cifar import cifar
from .common import publish_row

CALIBRATION = 1024
BATCH = 50
LATENCY_S = 2.0


def traced(module: nn.Module, data: DataSplits) -> Network:
    """The network of a module, in evaluation mode."""
    network = Network(trace(module.eval(), torch.zeros(2, *data.input_shape)))
    network.load_state_dict(module.state_dict())
    return network.eval()


def cut(network: Network, data: DataSplits, asked: argparse.Namespace, seed: int) -> tuple[Network, float]:
    """The network cut to the target by a criterion of the engine, and the seconds of scoring."""
    coupling = couple(network.graph)
    criterion = made("criterion", criteria[asked.criterion], asked.criterion, {}, seed)
    started = time.perf_counter()
    walk = islice(iter(data.walk(data.train, BATCH, seed=seed)), asked.images // BATCH)
    scores = score(criterion, Gated(network, coupling), walk)
    seconds = time.perf_counter() - started
    allocation = asked.allocation or ("blocks" if scores.units is None else suited(type(criterion)))
    allocator = allocators[allocation](coupling, scores, Limits(multiple=asked.multiple), criterion.comparable)
    target = Target.parse(asked.target if asked.target.endswith("x") else f"{asked.target}x")
    chosen = Budget(coupling, [target], {target.metric: make_cost_model(target.metric)}).solve(allocator)
    return operate(network, coupling, chosen.keep, chosen.without).network.eval(), seconds


def cut_by_torch_pruning(module: nn.Module, data: DataSplits, asked: argparse.Namespace, seed: int) -> Network:
    """Torch-Pruning to the same MACs: the smallest global ratio that reaches them, by bisection."""
    import copy

    import torch_pruning as tp

    example = torch.zeros(1, *data.input_shape)
    share = Target.parse(f"{asked.target.removesuffix('x')}x").value
    goal = share * traced(module, data).graph.cost.macs
    low, high, found = 0.0, 0.9, None
    for _ in range(8):
        ratio = (low + high) / 2
        copied = copy.deepcopy(module)
        _prune(tp, copied, example, ratio, data, asked, seed)
        network = traced(copied, data)
        if network.graph.cost.macs <= goal:
            high, found = ratio, network
        else:
            low = ratio
    if found is None:
        raise SystemExit(f"torch-pruning does not reach {asked.target} with inner channels alone")
    return found


def _prune(
    tp: Any,
    module: nn.Module,
    example: torch.Tensor,
    ratio: float,
    data: DataSplits,
    asked: argparse.Namespace,
    seed: int,
) -> None:
    taylor = asked.criterion.endswith("taylor")
    importance = tp.importance.GroupTaylorImportance() if taylor else tp.importance.GroupMagnitudeImportance(p=2)
    stream = [m for n, m in module.named_modules() if n in ("conv1", "linear") or n.endswith(".conv2")]
    pruner = tp.pruner.BasePruner(
        module, example, importance, pruning_ratio=ratio, global_pruning=True, ignored_layers=stream,
        round_to=asked.multiple if asked.multiple > 1 else None,
    )  # fmt: skip
    if taylor:
        for images, labels in islice(iter(data.walk(data.train, BATCH, seed=seed)), asked.images // BATCH):
            nn.functional.cross_entropy(module(images), labels).backward()
    pruner.step()


def refined(network: Network, data: DataSplits, asked: argparse.Namespace, seed: int) -> tuple[float, float]:
    """Test accuracy after recalibration, and after the training."""
    if asked.criterion != "none":
        walk = data.walk(data.train, 128, seed=seed)
        recalibrate(network, (x for x, _ in islice(iter(walk), CALIBRATION // 128)))
    after_cut = judge(network, data, data.test).accuracy
    settings = Optimizer(batch_size=128, learning_rate=asked.rate, warmup_epochs=0.0, weight_decay=5e-4)
    epochs = train(NetworkProgram(network), data, settings, epochs=asked.finetune, seed=seed, augment=data.augment)
    for _ in epochs:
        pass
    return after_cut, judge(network, data, data.test).accuracy


def one_seed(asked: argparse.Namespace, seed: int) -> tuple[dict[str, float], Network, Network]:
    """Figures of one seed, the network before and after."""
    data = cifar(asked.data, limit=asked.limit, seed=seed)
    module = load_model(asked.model, input_shape=data.input_shape, classes=10, weights=str(asked.weights)).eval()
    whole, seconds = traced(module, data), 0.0
    torch.manual_seed(seed)
    if asked.criterion == "none":
        small = traced(module, data)
    elif asked.criterion.startswith("torch_pruning"):
        small = cut_by_torch_pruning(module, data, asked, seed)
    else:
        small, seconds = cut(whole, data, asked, seed)
    before = judge(whole, data, data.test).accuracy
    after_cut, after = refined(small, data, asked, seed)
    figures = {
        "accuracy_before": before,
        "accuracy_cut": after_cut,
        "accuracy_finetuned": after,
        "params_ratio": small.graph.cost.params / whole.graph.cost.params,
        "macs_ratio": small.graph.cost.macs / whole.graph.cost.macs,
        "scoring_s": seconds,
    }
    return figures, whole, small


def latency(whole: Network, small: Network) -> dict[str, float]:
    """Median latency of the small network as a share of the whole one's, in turns, one thread."""
    times = verdict.latencies({"before": whole.graph, "after": small.graph}, 1, LATENCY_S)
    return {name: verdict.ratio(t, "after") for name, t in times.items()}


def spread(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Means over seeds, with the standard deviation where it is of interest."""
    figures: dict[str, Any] = {key: mean(row[key] for row in rows) for key in rows[0]}
    if len(rows) > 1:
        figures["spread"] = {key: stdev(row[key] for row in rows) for key in rows[0]}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet56")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--criterion", default="taylor")
    parser.add_argument("--allocation", help="as of `nas-engine compress`; what suits the criterion, if left out")
    parser.add_argument("--target", default="macs=0.5")
    parser.add_argument("--finetune", type=int, default=2, help="epochs")
    parser.add_argument("--rate", type=float, default=0.01, help="learning rate, falling to 0")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=10_000, help="training images, a fifth of them for validation")
    parser.add_argument("--images", type=int, default=1000, help="that the criterion sees")
    parser.add_argument("--multiple", type=int, default=1, help="that widths are rounded to")
    parser.add_argument("--threads", type=int, default=1, help="of training")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    rows, networks = [], None
    for seed in range(asked.seeds):
        figures, whole, small = one_seed(asked, seed)
        rows.append(figures)
        networks = networks or (whole, small)
    assert networks is not None
    keys = ("model", "criterion", "allocation", "target", "finetune", "rate", "seeds", "limit", "images", "multiple")
    settings = {**{k: getattr(asked, k) for k in keys}, "data": asked.data.name}
    publish_row("prune", settings, {**spread(rows), "latency_ratio": latency(*networks)})


if __name__ == "__main__":
    main()

"""How long it takes to find what can be cut out of a network, to cost cuts that are not built, and to cut it.

    python -m benchmarks.coupling --models resnet50 mobilenet_v2 shufflenet_v2_x1_0 --repeats 5

Torchvision's networks at 224 x 224 with random weights; half of every group is dropped. The error is that of the pruned
against the masked network, relative in the 2-norm. Torch-Pruning finds the groups and cuts half of all channels beside
it, where it can.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn

from search_spaces import Network, trace
from search_spaces.coupling import Coupling, Gated, couple, cut, operate

from .common import publish

MODELS = ("resnet50", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "densenet121", "shufflenet_v2_x1_0")
CUTS = 200


def timed(call: Callable[[], Any], repeats: int) -> tuple[Any, list[float]]:
    """The last result and the seconds of each call."""
    seconds, result = [], None
    for _ in range(repeats):
        started = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - started)
    return result, seconds


def dropped(coupling: Coupling, rng: np.random.Generator, share: float = 0.5) -> np.ndarray:
    """A mask that drops a share of every group at random."""
    keep = coupling.all()
    for group in coupling.groups:
        keep[rng.choice(group.units, int(share * len(group)), replace=False)] = False
    return keep


def ours(module: nn.Module, images: torch.Tensor, repeats: int) -> dict[str, Any]:
    """Seconds of each step, and how far the pruned network is from the masked one."""
    graph, traced = timed(lambda: trace(module, images), repeats)
    coupling, coupled = timed(lambda: couple(graph), repeats)
    network = Network(graph)
    network.load_state_dict(module.state_dict())
    network.eval()
    keep = dropped(coupling, np.random.default_rng(0))
    surgery, cutting = timed(lambda: operate(network, coupling, keep), repeats)
    with torch.inference_mode():
        masked = Gated(network, coupling)(images, torch.from_numpy(keep).float())
        error = float((surgery.network(images) - masked).norm() / masked.norm())
    rng = np.random.default_rng(1)
    masks = [dropped(coupling, rng, share) for share in rng.uniform(0.1, 0.9, CUTS)]
    _, costed = timed(lambda: [cut(coupling, mask).cost.macs for mask in masks], 1)
    return {
        "units": coupling.count,
        "groups": len(coupling.groups),
        "frozen": len(coupling.frozen),
        "trace_s": median(traced),
        "couple_s": median(coupled),
        "couple_s_range": [min(coupled), max(coupled)],
        "surgery_s": median(cutting),
        "surgery_s_range": [min(cutting), max(cutting)],
        "cuts_costed_per_s": CUTS / costed[0],
        "macs_ratio": surgery.network.graph.cost.macs / graph.cost.macs,
        "error": error,
    }


def theirs(module: nn.Module, images: torch.Tensor) -> dict[str, Any]:
    """Seconds of Torch-Pruning for the groups, and for cutting half of all channels."""
    import torch_pruning as tp

    module = copy.deepcopy(module)
    last = [m for m in module.modules() if isinstance(m, nn.Linear)][-1]
    try:
        _, found = timed(lambda: tp.DependencyGraph().build_dependency(module, images), 1)
        pruner = tp.pruner.BasePruner(
            module, images, tp.importance.MagnitudeImportance(), pruning_ratio=0.5, ignored_layers=[last]
        )
        _, cutting = timed(pruner.step, 1)
        with torch.inference_mode():
            module(images)
    except Exception as e:  # it fails in many ways
        return {"failed": f"{type(e).__name__}: {e}".splitlines()[0]}
    return {"couple_s": found[0], "surgery_s": cutting[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = {}
    for name in asked.models:
        torch.manual_seed(0)
        module = torchvision.models.get_model(name, weights=None).eval()
        images = torch.randn(2, 3, asked.size, asked.size)
        rows[name] = {**ours(module, images, asked.repeats), "torch_pruning": theirs(module, images)}
    publish("coupling", {"size": asked.size, "repeats": asked.repeats, "models": rows})


if __name__ == "__main__":
    main()

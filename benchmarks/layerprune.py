"""Whole blocks against filters at equal MACs: latency, and which scores find the blocks. Prints one JSON line last.

    python -m benchmarks.layerprune [--model resnet56] [--left 0.33] [--batch 1] [--threads 1] [--runtime torch]
        [--rounds 20] [--seconds 0.3]
        [--clock wall]
    python -m benchmarks.layerprune --agreement [--model resnet56] --weights FILE --data npz:FILE
        [--normalise imagenet] [--images 1000]

The first form needs no training, as latency does not depend on weights. Blocks are removed evenly over the network
until about `--left` of the MACs are left; the filter-pruned networks have the same MACs as that: `inner` by fewer
filters inside the blocks (what most papers cut), `all` by fewer channels everywhere, and `inner_8`, `all_8` with all
widths rounded to multiples of 8. Networks are timed in turns, `--seconds` each a round; the time of a network is the
fastest of the rounds, each its tenth percentile, as other work on the machine only adds. Figures: `macs` and `latency`
as shares of the whole network's; `times_the_cut`, how many times the latency that filters save is saved by blocks; both
also for the even and the odd rounds alone (`_halves`), to see how far they can be trusted. On a machine that is
busy otherwise, `--clock cpu` counts only the time that the one thread had a core.

The second form gives Spearman's correlation of scores for blocks with the rise of the loss, and with the fall of the
accuracy, when a block alone is left out and nothing is trained; both on the test images, which no score has seen.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.common import publish_row
from predictors.cost import DeviceProfile
from predictors.cost.measure import measure_calls, prepare, running
from search_spaces import Graph, Network, trace
from search_spaces.coupling import Coupling, Gated, couple, cut
from search_spaces.models import load_model, models

if TYPE_CHECKING:
    from nas_engine.data import DataSplits

CLOCKS: dict[str, Callable[[], int]] = {"wall": time.perf_counter_ns, "cpu": time.thread_time_ns}
SCORES: dict[str, dict[str, Any]] = {
    "imprint": {},
    "taylor": {"criterion": "taylor"},
    "taylor_weight": {"criterion": "taylor", "settings": {"form": "weight"}},
    "magnitude": {"criterion": "magnitude"},
    "bn_scale": {"criterion": "bn_scale"},
    "chip": {"criterion": "chip"},
    "hrel": {"criterion": "hrel"},
    "random": {"criterion": "random"},
}


def without_blocks(coupling: Coupling, left: float) -> Graph:
    """The network with blocks removed evenly over its depth, of about this share of its MACs."""
    names = [block.name for block in coupling.blocks]
    cuts = [coupling.graph]
    for count in range(1, len(names) + 1):
        spread = np.linspace(0, len(names) - 1, count).round().astype(int)
        cuts.append(cut(coupling, coupling.all(), {names[i] for i in spread}))
    wanted = left * coupling.graph.cost.macs
    return min(cuts, key=lambda graph: abs(graph.cost.macs - wanted))


def fewer_filters(coupling: Coupling, macs: int, inner: bool, multiple: int) -> Graph:
    """The network with the same share of units kept in each group, of about these MACs.

    Args:
        inner: cut only what a single layer makes, and leave residual streams as they are.
        multiple: round widths to multiples of it.
    """
    groups = [g for g in coupling.groups if not inner or len(g.makers) == 1]

    def kept(share: float) -> np.ndarray:
        keep = coupling.all()
        for group in groups:
            count = int(np.clip(round(share * len(group) / multiple) * multiple, min(multiple, len(group)), len(group)))
            keep[group.units[count:]] = False
        return keep

    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if cut(coupling, kept(middle)).cost.macs < macs else (low, middle)
    return min((cut(coupling, kept(share)) for share in (low, high)), key=lambda g: abs(g.cost.macs - macs))


def latencies(
    name: str, left: float, profile: DeviceProfile, rounds: int, seconds: float, clock: str
) -> dict[str, Any]:
    """Shares of MACs and of latency of each pruned network."""
    coupling = couple(trace(models[name](), _example()))
    blocks = without_blocks(coupling, left)
    networks = {"whole": coupling.graph, "blocks": blocks}
    for inner in (True, False):
        for multiple in (1, 8):
            key = ("inner" if inner else "all") + ("_8" if multiple > 1 else "")
            networks[key] = fewer_filters(coupling, blocks.cost.macs, inner, multiple)
    with running(profile):
        calls = prepare(list(networks.values()), profile)
        found = np.array(
            [[m.low_ms for m in measure_calls(calls, seconds=seconds, timer=CLOCKS[clock])] for _ in range(rounds)]
        )
    parts = [_compared(list(networks), rows.min(0)) for rows in (found, found[::2], found[1::2])]
    figures: dict[str, Any] = {"whole_ms": round(float(found[:, 0].min()), 3), "rounds": rounds}
    figures["macs"] = {k: round(g.cost.macs / coupling.graph.cost.macs, 3) for k, g in networks.items()}
    for i, key in enumerate(("latency", "times_the_cut")):
        figures |= {key: parts[0][i], f"{key}_halves": [parts[1][i], parts[2][i]]}
    return figures


def _compared(names: list[str], times: np.ndarray) -> tuple[dict[str, float], dict[str, float]]:
    """Latencies as shares of the first network's, and how many times the cut of the others the second one's is."""
    shares = times / times[0]
    latency = {name: round(float(v), 3) for name, v in zip(names, shares, strict=True)}
    more = (1 - shares[1]) / (1 - shares[2:])
    return latency, {name: round(float(v), 2) for name, v in zip(names[2:], more, strict=True)}


def _example() -> Any:
    import torch

    return torch.zeros(1, 3, 32, 32)


def agreement(name: str, weights: str, data: DataSplits, images: int) -> dict[str, Any]:
    """Correlations of scores of blocks with what leaving each out does on the test images."""
    import torch
    from scipy.stats import spearmanr

    from nas_engine.compress.criteria import LayerPrune, score
    from nas_engine.compress.criteria.losses import losses

    module = load_model(name, weights=weights)
    graph = trace(module, _example())
    network = Network(graph)
    network.load_state_dict(module.state_dict())
    gated = Gated(network.eval(), couple(graph))
    inputs, targets = next(iter(data.walk(data.test, len(data.test))))
    masks = torch.cat([torch.ones(1, len(gated.coupling.blocks)), 1 - torch.eye(len(gated.coupling.blocks))])
    with torch.no_grad():
        outputs = torch.stack([gated(inputs, blocks=mask) for mask in masks])
    loss = np.array([float(losses(logits, targets).double().mean()) for logits in outputs])
    right = (outputs.argmax(2) == targets).double().mean(1).numpy()
    seen = data.train.take(torch.arange(min(images, len(data.train))))
    batches = list(data.walk(seen, 100))
    figures: dict[str, Any] = {"accuracy": round(float(right[0]), 4), "blocks": len(masks) - 1, "images": len(targets)}
    for key, settings in SCORES.items():
        found = score(LayerPrune(**settings), gated, batches).blocks
        truths = {"loss": loss[1:], "accuracy": -right[1:]}
        figures[key] = {f"spearman_{k}": round(float(spearmanr(found, v).statistic), 3) for k, v in truths.items()}
        print({key: figures[key]}, flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet56")
    parser.add_argument("--left", type=float, default=0.33, help="share of the MACs")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runtime", default="torch", choices=("torch", "onnxruntime"))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=0.3, help="for each network and round")
    parser.add_argument("--clock", default="wall", choices=tuple(CLOCKS), help="cpu: the calling thread's own time")
    parser.add_argument("--agreement", action="store_true", help="scores against leaving blocks out")
    parser.add_argument("--weights", default="../shared/data/resnet_cifar10_weights/resnet56.safetensors")
    parser.add_argument("--data", default="npz:../shared/data/cifar10_lossless_subset/cifar10_lossless_4000_249.npz")
    parser.add_argument("--normalise", default="imagenet")
    parser.add_argument("--images", type=int, default=1000, help="calibration images")
    a = parser.parse_args()
    if a.agreement:
        from nas_engine.data import load_data

        figures = agreement(a.model, a.weights, load_data(a.data, normalise=a.normalise), a.images)
        publish_row("layerprune", {"form": "agreement", "model": a.model, "images": a.images}, figures)
        return
    profile = DeviceProfile.detect(runtime=a.runtime, threads=a.threads, batch=a.batch)
    figures = latencies(a.model, a.left, profile, a.rounds, a.seconds, a.clock)
    asked = {"form": "latency", "model": a.model, "left": a.left, "batch": a.batch, "threads": a.threads}
    publish_row("layerprune", {**asked, "runtime": a.runtime, "clock": a.clock}, figures)


if __name__ == "__main__":
    main()

"""What training a deep graph predictor takes, and what its depth is worth, by its trunk. Prints one JSON line last.

    python -m benchmarks.predictor_memory [--layers 4 16 64] [--batch 8] [--groups 2] [--repeats 2]
        [--table ../shared/data/nasbench201/nasbench201.parquet] [--train 100] [--seeds 3] [--ranked 4 16]

memory: one step (forward, loss, backward) of the ensemble as the predictor trains it: ten networks, of which each reads
`batch` graphs of its own. Graphs are networks of the space mobile, down to their primitive operators: the large ones
that a predictor of a user's space meets. Bytes are those of allocator events: `held` after the forward pass, beyond
weights and inputs, `peak` within the step, which ends with gradients of all weights, `gradient` bytes in size.
Seconds are the least of the repeats, of processors, in one thread.

ranking: Kendall tau of predictors of other depths on all cells of NAS-Bench-201 (CIFAR-10, 200 epochs) that were not
learned from, one of each isomorphism class; and seconds of processors for a fit.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import publish
from benchmarks.memory import allocated, seconds
from benchmarks.tables import Labelled, label, read
from predictors import kendall_tau
from predictors.gcn import GCNPredictor, Networks
from predictors.reading import Members, Reader
from search_spaces.graph import Graph
from search_spaces.mobile import Mobile
from search_spaces.space import Architecture

TARGET = "cifar10_test_acc_200ep"
TRUNKS = ("plain", "reversible")


class Primitives(Mobile):
    """Networks of the space mobile, which predictors read down to their primitive operators."""

    def sketch(self, architecture: Architecture) -> Graph:
        return self.graph(architecture).inline()


# ---- memory ------------------------------------------------------------------------------------------------


def memory(seen: Members, batch: int, settings: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Bytes and seconds of a step of training."""
    predictor = GCNPredictor(seen.reader.space, **settings)
    predictor.read_with(seen.reader)
    generator = torch.Generator().manual_seed(0)
    count = predictor.settings.members + predictor.settings.folds
    data = predictor.lessons(seen)
    networks: Networks = predictor.stack(count, data, generator)
    which = torch.randint(len(seen), (count, batch), generator=generator)
    goal = torch.randn(len(seen), generator=generator)
    forward = partial(predictor.loss, networks, data, which, goal, generator)
    step = partial(_step, networks, forward)
    step()
    networks.zero_grad(set_to_none=True)
    held, _ = allocated(forward, "cpu")
    _, peak = allocated(step, "cpu")
    return {
        "held_bytes": held,
        "peak_bytes": peak,
        "gradient_bytes": sum(p.numel() * p.element_size() for p in networks.parameters()),
        "features_bytes": 4 * count * batch * data.graphs.rows.shape[1] * predictor.settings.hidden,
        "nodes": data.graphs.rows.shape[1],
        "step_cpu_s": round(seconds(step, repeats, "cpu")[0], 3),
    }


def _step(networks: Networks, forward: partial[Tensor]) -> None:
    networks.zero_grad(set_to_none=True)
    forward().backward()


def memories(asked: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each trunk and depth."""
    space, rng = Primitives(), np.random.default_rng(0)
    seen = Reader.of(space).read([space.sample(rng) for _ in range(64)])
    rows = []
    for layers in asked.layers:
        for trunk in TRUNKS:
            told = memory(seen, asked.batch, _settings(asked, trunk, layers), asked.repeats)
            rows.append({"trunk": trunk, "layers": layers} | told)
            held, peak = told["held_bytes"] / 1e6, told["peak_bytes"] / 1e6
            print(f"{trunk:>10} {layers:>3} layers: held {held:.1f} MB, peak {peak:.1f}, {told['step_cpu_s']} CPU s")
    return rows


def _settings(asked: argparse.Namespace, trunk: str, layers: int) -> dict[str, Any]:
    own = {"groups": asked.groups} if trunk == "reversible" else {}
    return {"trunk": trunk, "layers": layers, **own}


# ---- ranking -----------------------------------------------------------------------------------------------


def ranked(table: Labelled, n: int, settings: dict[str, Any], seeds: int) -> dict[str, Any]:
    """Kendall tau on cells not learned from, seed by seed."""
    first = np.sort(np.unique(table.groups, return_index=True)[1])
    y = table.column(TARGET)
    taus, times = [], []
    for seed in range(seeds):
        rows = np.random.default_rng(seed).permutation(first)
        seen, unseen = rows[:n], rows[n:]
        started = time.process_time()
        predictor = GCNPredictor(table.space, seed=seed, **settings).fit([table.members[i] for i in seen], y[seen])
        times.append(time.process_time() - started)
        mean, _ = predictor.predict([table.members[i] for i in unseen], sketches=[table.sketches[i] for i in unseen])
        taus.append(kendall_tau(y[unseen], mean))
    return {
        "taus": [round(tau, 4) for tau in taus],
        "tau_mean": round(float(np.mean(taus)), 4),
        "tau_sd": round(float(np.std(taus)), 4),
        "fit_cpu_s": round(float(np.median(times)), 1),
    }


def rankings(asked: argparse.Namespace, table: Labelled) -> list[dict[str, Any]]:
    """A row for the predictor as it is by default, and for each trunk and depth."""
    Reader.of(table.space).everything()  # read once, outside of the times
    rows = []
    for trunk, layers in _depths(asked.ranked):
        rows.append({"trunk": trunk, "layers": layers})
        rows[-1] |= ranked(table, asked.train, _settings(asked, trunk, layers), asked.seeds)
        print(rows[-1], flush=True)
    return rows


def _depths(layers: Sequence[int]) -> list[tuple[str, int]]:
    return [("plain", GCNPredictor.Settings().layers), *((trunk, depth) for depth in layers for trunk in TRUNKS)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", nargs="+", type=int, default=[4, 16, 64])
    parser.add_argument("--batch", type=int, default=8, help="graphs a network and step, of those memory is measured")
    parser.add_argument("--groups", type=int, default=2, help="of the reversible trunk")
    parser.add_argument("--repeats", type=int, default=2, help="steps that are timed")
    parser.add_argument("--table", type=Path, default=Path("../shared/data/nasbench201/nasbench201.parquet"))
    parser.add_argument("--train", type=int, default=100, help="cells learned from")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ranked", nargs="*", type=int, default=[4, 16], help="depths whose ranking is measured")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    settings = {name: getattr(asked, name) for name in ("batch", "groups", "train", "seeds")}
    figures = settings | {"memory": memories(asked), "ranking": []}
    if asked.table.exists():
        figures["ranking"] = rankings(asked, label(read(asked.table), "nasbench201", [TARGET], groups="unique_str"))
    else:
        print(f"no ranking: no file {asked.table}; give a table with --table")
    publish("predictor_memory", figures)


if __name__ == "__main__":
    main()

"""How fast graphs, costs, table rows and supernet steps are. Prints one JSON line last.

    python -m benchmarks.throughput [--rows 1000000] [--steps 20]

- graphs_per_s, costs_per_s: mobile space on one core; costs are all analytic ones together, graphs given.
- table_rows_per_s, table_peak_bytes: a table of the mobile space with predictions and all analytic costs, on all cores;
  the peak is over all processes together, shared pages counted once, looked at twice a second.
- supernet_step_ratio: CPU seconds of a supernet's step over those of standalone networks of the same paths
  (NAS-Bench-201, 16 channels, 5 cells, batch 64, 32x32, one thread).
- supernet_steps_per_cpu_s, supernet_plain_ratio: steps a CPU second; plain executor's seconds over ours, same paths.
- subnets_per_s: members of the mobile space extracted from a supernet.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.common import publish
from benchmarks.plain_nasbench201 import PlainSupernet
from predictors import make_predictor
from predictors.cost import make_cost_model
from search_spaces import Network, Supernet, make_space

ANALYTIC = ("params", "macs", "activation_bytes", "bytes_moved")


def graphs_and_costs(count: int = 20_000) -> dict[str, float]:
    """Graph building and costing of random mobile networks on one core."""
    space, rng = make_space("mobile"), np.random.default_rng(0)
    members = [space.sample(rng) for _ in range(count)]
    models = [make_cost_model(name) for name in ANALYTIC]
    for member in members[:2000]:  # blocks repeat; what is measured is the steady state
        for model in models:
            model.cost(space.graph(member))
    started = time.perf_counter()
    graphs = [space.graph(member) for member in members]
    built = time.perf_counter()
    for model in models:
        model.costs(graphs)
    costed = time.perf_counter()
    return {"graphs_per_s": count / (built - started), "costs_per_s": count / (costed - built)}


def step_seconds(module: nn.Module, forward: Callable[[], Tensor], labels: Tensor) -> float:
    """CPU seconds of one training step, the second of two."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    for _ in range(2):
        started = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(forward(), labels).backward()
        optimizer.step()
    return time.process_time() - started


def supernet_steps(paths: int, repeats: int = 3) -> dict[str, Any]:
    """The three executors on the same random paths, one after the other path by path, so that noise hits all alike."""
    torch.set_num_threads(1)
    space, rng = make_space("nasbench201"), np.random.default_rng(0)
    supernet = Supernet(space).to(memory_format=torch.channels_last).train()
    plain = PlainSupernet().train()
    images, labels = torch.randn(64, 3, 32, 32), torch.randint(0, 10, (64,))
    last = images.to(memory_format=torch.channels_last)
    ratios, against_plain, per_second = [], [], []
    for _ in range(repeats):
        ours = alone = written = 0.0
        for member in [space.sample(rng) for _ in range(paths)]:
            network = Network(space.graph(member)).to(memory_format=torch.channels_last).train()
            ours += step_seconds(supernet, lambda m=member: supernet(last, m), labels)
            alone += step_seconds(network, lambda n=network: n(last), labels)
            written += step_seconds(plain, lambda m=member: plain(images, list(m.indices)), labels)
        ratios.append(ours / alone)
        against_plain.append(written / ours)
        per_second.append(paths / ours)
    return {
        "supernet_step_ratio": statistics.median(ratios),
        "supernet_step_ratio_spread": [min(ratios), max(ratios)],
        "supernet_steps_per_cpu_s": statistics.median(per_second),
        "supernet_steps_per_cpu_s_spread": [min(per_second), max(per_second)],
        "supernet_plain_ratio": statistics.median(against_plain),
        "supernet_plain_ratio_spread": [min(against_plain), max(against_plain)],
    }


def extraction(count: int = 20) -> dict[str, float]:
    """Standalone networks taken from a mobile supernet, in one second."""
    space, rng = make_space("mobile"), np.random.default_rng(0)
    supernet = Supernet(space).eval()
    members = [space.sample(rng) for _ in range(count)]
    started = time.perf_counter()
    for member in members:
        supernet.extract(member)
    return {"subnets_per_s": count / (time.perf_counter() - started)}


class PeakMemory:
    """Largest memory of this process and its descendants while the block runs; pages they share count once."""

    def __enter__(self) -> PeakMemory:
        self.bytes = 0
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._watcher.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(0.5):
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    memory = process.memory_full_info()
                    total += getattr(memory, "pss", memory.rss)
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue
            self.bytes = max(self.bytes, total)


def table(rows: int) -> dict[str, Any]:
    """A table of the mobile space: the default predictor (fitted to made-up scores) and all analytic costs.

    What is timed is the whole build: workers start, draw members, predict, cost, write, merge.
    """
    from nas_engine.tuning import TableJob, build_table

    space, rng = make_space("mobile"), np.random.default_rng(0)
    members = [space.sample(rng) for _ in range(200)]
    scores = [np.log(space.graph(m).cost.macs) + rng.normal() / 10 for m in members]
    workers = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        make_predictor("gcn", space, seed=0).fit(members, scores).save(Path(folder) / "predict" / "model")
        job = TableJob("mobile", {}, Path(folder), ANALYTIC, seed=0, rows=rows, whole=False, workers=workers)
        with PeakMemory() as peak:
            started = time.perf_counter()
            written = build_table(job)
            seconds = time.perf_counter() - started
        size = job.path.stat().st_size
    return {
        "table_rows": written,
        "table_seconds": seconds,
        "table_rows_per_s": written / seconds,
        "table_peak_bytes": peak.bytes,
        "table_file_bytes": size,
        "table_workers": workers,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the table")
    parser.add_argument("--steps", type=int, default=20, help="paths of each of the three supernet rounds")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {**graphs_and_costs(), **supernet_steps(arguments.steps), **extraction()}
    figures |= table(arguments.rows)
    publish("throughput", {k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()})


if __name__ == "__main__":
    main()

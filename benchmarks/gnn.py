"""Deep graph networks of equal training memory: plain, residual, reversible, weight-tied, equilibrium, by depth.

`python -m benchmarks.gnn --data cora` measures what a step of reversible layers takes at each depth. Within that memory
plain and residual layers get either as many layers, as wide as fits, or as much width, as deep as fits; tied ones as
many layers, as wide as fits; an equilibrium, which has no depth, is as wide as fits at the least one. Rate and dropout
are chosen on the validation part, in the same way for all; the test part is read once for each training, with the
weights that were best on validation. The last line is JSON.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import torch

from nas_engine.config import Optimizer
from nas_engine.data import GraphSplits, load_graph
from nas_engine.evaluate import judge
from nas_engine.gnn import Model, Sizes, model_graph
from nas_engine.gnn.memory import StepMemory, measured_step
from nas_engine.train import NetworkProgram, train
from nas_engine.train.loop import DivergedError
from search_spaces import Network

from .common import publish_row

FOLDER = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
DATA: dict[str, dict[str, Any]] = {
    "cora": {"file": "planetoid/cora.npz", "conv": "gcn"},
    "citeseer": {"file": "planetoid/citeseer.npz", "conv": "gcn"},
    "yeast_string_mips": {"file": "yeast_string_mips/yeast_string_mips.npz", "target": "y_level1", "conv": "gen"},
}
RATES = (0.01, 0.003)
DROPOUTS = (0.2, 0.5)
KINDS = ("reversible", "tied", "equilibrium", "plain", "residual")
TUNED = 28  # layers: deeper ones take what was chosen at the deepest of at most so many
SHORT = 0.4  # of the epochs are trained to choose rate and dropout
ITERATIONS = 30  # of an equilibrium, at most
STEP = 2  # widths are multiples of it
WIDEST = 2  # times the width of reversible layers


@dataclass(frozen=True)
class Outcome:
    """One training: quality of the best weights, epochs that it took, processor seconds of an epoch."""

    validation: float
    test: float
    epochs: int
    seconds: float


@dataclass
class Bench:
    """What all trainings share.

    Attributes:
        patience: epochs without a better validation that end a training.
        choices: of rate and dropout, in pairs.
        kinds: of layers that are compared.
    """

    data: GraphSplits
    conv: str
    epochs: int
    patience: int
    weight_decay: float
    device: str
    choices: tuple[tuple[float, float], ...] = tuple(product(RATES, DROPOUTS))
    kinds: tuple[str, ...] = KINDS
    outcomes: dict[tuple[Any, ...], Outcome] = field(default_factory=dict)

    def network(self, model: Model, seed: int) -> Network:
        data = self.data
        nodes, features = data.input_shape
        torch.manual_seed(seed)
        sizes = Sizes(nodes, data.edges, features, data.edge_features, len(data.classes))
        network = Network(model_graph(model, sizes))
        network.memory = "reversible" if model.connection == "reversible" else "plain"
        return network

    def settings(self, rate: float) -> Optimizer:
        return Optimizer(
            name="adam",
            batch_size=1,
            learning_rate=rate,
            weight_decay=self.weight_decay,
            clip_norm=1.0,
            warmup_epochs=3.0,
            precision="float32",
        )

    def memory(self, model: Model) -> StepMemory:
        """Of a step on the largest batch of an epoch."""
        walk = self.data.epoch(1, seed=0, epoch=0, device=self.device)
        batch = max(walk, key=lambda b: b[0].edges.shape[-1])
        return measured_step(NetworkProgram(self.network(model, 0)), self.settings(1e-3), batch, self.device)

    def fitted(self, model: Model, rate: float, seed: int, epochs: int) -> Outcome:
        """A training, of which the epoch counts that is best on the validation part; chance where it diverges."""
        key = (model.model_dump_json(), rate, seed, epochs)
        if key not in self.outcomes:
            self.outcomes[key] = self._trained(self.network(model, seed), rate, seed, epochs)
        return self.outcomes[key]

    def _trained(self, network: Network, rate: float, seed: int, epochs: int) -> Outcome:
        data, started = self.data, time.process_time()
        best, state, done = (-math.inf, 0), network.state_dict(), 0
        walk = train(NetworkProgram(network), data, self.settings(rate), epochs=epochs, seed=seed, device=self.device)
        try:
            for epoch in walk:
                done = epoch.epoch
                found = judge(network, data, data.validation, device=self.device).accuracy
                if found > best[0]:
                    best, state = (found, done), {k: v.clone() for k, v in network.state_dict().items()}
                if done - best[1] >= self.patience:
                    break
        except DivergedError:
            pass  # what was best before counts
        seconds = (time.process_time() - started) / max(1, done)
        network.load_state_dict(state)
        test = judge(network, data, data.test, device=self.device).accuracy
        return Outcome(best[0], test, done, seconds)


# ---- equal memory ----------------------------------------------------------------------------------------


def largest(low: int, high: int, fits: Callable[[int], bool]) -> int | None:
    """The largest number from low to high that fits, if smaller ones fit as well; None where none does."""
    if not fits(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def rivals(
    bench: Bench, depth: int, width: int, first: bool
) -> Iterator[tuple[str, Model | None, StepMemory | None, int]]:
    """What is compared at a depth: name, model, its memory, and the memory of reversible layers.

    The model is None where no width fits.

    Args:
        first: it is the least depth, at which the equilibrium is compared.
    """
    reference = Model(conv=bench.conv, connection="reversible", depth=depth, width=width)
    memory = cache(bench.memory)
    budget = memory(reference).peak

    def widest(**settings: Any) -> Model | None:
        def made(size: int) -> Model:
            return Model(**{"conv": bench.conv, "depth": depth, "width": STEP * size, **settings})

        found = largest(1, WIDEST * width // STEP, lambda size: memory(made(size)).peak <= budget)
        return None if found is None else made(found)

    def deepest(**settings: Any) -> Model | None:
        def made(layers: int) -> Model:
            return Model(conv=bench.conv, depth=layers, width=width, **settings)

        found = largest(1, depth, lambda layers: memory(made(layers)).peak <= budget)
        return None if found is None else made(found)

    makers: dict[str, Callable[[], Model | None]] = {
        "reversible": lambda: reference,
        "tied": lambda: widest(connection="reversible", tied=True),
        **({"equilibrium": lambda: widest(connection="equilibrium", depth=ITERATIONS)} if first else {}),
        "plain, narrow": lambda: widest(connection="plain"),
        "residual, narrow": lambda: widest(connection="residual"),
        "plain, shallow": lambda: deepest(connection="plain"),
        "residual, shallow": lambda: deepest(connection="residual"),
    }
    for name, make in makers.items():
        if name.partition(",")[0] in bench.kinds:
            model = make()
            yield name, model, None if model is None else memory(model), budget


# ---- comparison ------------------------------------------------------------------------------------------


def compared(bench: Bench, depths: list[int], width: int, seeds: int) -> list[dict[str, Any]]:
    """A row for each depth and kind of layers."""
    rows: list[dict[str, Any]] = []
    chosen: dict[str, tuple[float, float]] = {}
    for depth in sorted(depths):
        for name, model, memory, budget in rivals(bench, depth, width, depth == min(depths)):
            row: dict[str, Any] = {"depth": depth, "layers": name, "budget_bytes": budget}
            if model is None or memory is None:
                rows.append({**row, "fits": False})
                print(f"{depth} {name}: no width fits into {budget / 1e6:.1f} MB", flush=True)
                continue
            if depth <= TUNED or name not in chosen:
                chosen[name] = tuned(bench, model)
            rows.append({**row, **figures(bench, model, memory, chosen[name], seeds)})
            print(line(rows[-1]), flush=True)
    return rows


def tuned(bench: Bench, model: Model) -> tuple[float, float]:
    """Rate and dropout of the best validation after fewer epochs, with one seed; no training where one pair is left."""

    def found(asked: tuple[float, float]) -> float:
        rate, dropout = asked
        return bench.fitted(_with(model, dropout), rate, 0, max(1, round(SHORT * bench.epochs))).validation

    return max(bench.choices, key=found) if len(bench.choices) > 1 else bench.choices[0]


def figures(bench: Bench, model: Model, memory: StepMemory, chosen: tuple[float, float], seeds: int) -> dict[str, Any]:
    """What a kind of layers reaches with several seeds."""
    rate, dropout = chosen
    outcomes = [bench.fitted(_with(model, dropout), rate, seed, bench.epochs) for seed in range(1, seeds + 1)]
    tests = [100 * outcome.test for outcome in outcomes]
    return {
        "fits": True,
        "layer_count": model.depth,
        "width": model.width,
        "params": sum(p.numel() for p in bench.network(model, 0).parameters()),
        "peak_bytes": memory.peak,
        "held_bytes": memory.held,
        "kept_bytes": memory.kept,
        "rate": rate,
        "dropout": dropout,
        "validation": [round(100 * outcome.validation, 2) for outcome in outcomes],
        "test": [round(test, 2) for test in tests],
        "test_mean": round(statistics.mean(tests), 2),
        "test_std": round(statistics.stdev(tests), 2) if seeds > 1 else None,
        "epochs": [outcome.epochs for outcome in outcomes],
        "epoch_cpu_s": round(statistics.median(outcome.seconds for outcome in outcomes), 3),
    }


def _with(model: Model, dropout: float) -> Model:
    return model.model_copy(update={"dropout": dropout})


def line(row: dict[str, Any]) -> str:
    spread = "" if row["test_std"] is None else f" +/- {row['test_std']}"
    return (
        f"{row['depth']} {row['layers']}: {row['layer_count']} layers x {row['width']}, {row['params']:,} parameters, "
        f"{row['peak_bytes'] / 1e6:.1f} MB, test {row['test_mean']}{spread}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=list(DATA), default="cora")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="folder of the data")
    parser.add_argument("--depths", type=int, nargs="+", default=[3, 7, 28, 112])
    parser.add_argument("--width", type=int, default=64, help="of reversible layers")
    parser.add_argument("--conv", help="convolution; by default gcn, and gen where edges have features")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--patience", type=int, default=30)
    parser.add_argument("--kinds", choices=KINDS, nargs="+", default=KINDS)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--dropouts", type=float, nargs="+", default=DROPOUTS)
    parser.add_argument("--parts", type=int, default=1, help="of a random partition in each epoch")
    parser.add_argument("--weight-decay", type=float, default=5e-3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    about = DATA[asked.data]
    asked.conv = asked.conv or about["conv"]
    started = time.process_time()
    file = asked.folder / about["file"]
    data = load_graph(f"graph:{file}", target=about.get("target"), parts=asked.parts)
    print(data.description, flush=True)
    bench = Bench(
        data.to(asked.device),
        asked.conv,
        asked.epochs,
        asked.patience,
        asked.weight_decay,
        asked.device,
        tuple(product(asked.rates, asked.dropouts)),
        tuple(asked.kinds),
    )
    rows = compared(bench, asked.depths, asked.width, asked.seeds)
    settings = {k: v for k, v in vars(asked).items() if k != "folder"}
    minutes = round((time.process_time() - started) / 60, 1)
    publish_row("gnn", settings, {"quality": data.quality.name, "rows": rows, "cpu_minutes": minutes})


if __name__ == "__main__":
    main()

"""A searched recurrent cell against a plain LSTM and a plain GRU of the same parameters, on words of a text.

`python -m benchmarks.recurrent --data ../shared/data/ptb --minutes 12` searches cells by real training, one thread, and
then trains the best cell and both plain layers equally long, each at the learning rate that suits it, with several
seeds. Validation chooses, the test text is read once; the last line is JSON.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nas_engine.config import Config, Optimizer, make_config
from nas_engine.data import TextSplits, load_text
from nas_engine.evaluate import judge
from nas_engine.train import NetworkProgram, train
from nas_engine.train.loop import DivergedError
from nas_engine.tuning.conductor import Conductor, SearchJob
from predictors.cost import make_cost_model
from search_spaces import Graph, Network, SearchSpace
from search_spaces.recurrent import Recurrent, plain

from .common import publish

RATES = (4.0, 8.0, 16.0)
SHORT = 0.6  # share of the time for the search and for finding rates; the rest is the comparison
JUDGED = 20_000  # validation tokens that short trainings are judged on
PLAIN = ("lstm", "gru")


@dataclass
class Bench:
    """What all trainings share.

    Attributes:
        short: the training text of a candidate and of a trial of a rate, a part of that of `data`.
        epochs: through either text.
    """

    data: TextSplits
    short: TextSplits
    epochs: int
    batch: int

    def fitted(self, graph: Graph, data: TextSplits, rate: float, seed: int) -> Network | None:
        """A network trained from random weights; None where the training diverged."""
        settings = Optimizer(
            batch_size=self.batch, learning_rate=rate, weight_decay=0, clip_norm=0.25, warmup_epochs=0.5
        )
        torch.manual_seed(seed)
        network = Network(graph)
        try:
            for _ in train(NetworkProgram(network), data, settings, epochs=self.epochs, seed=seed):
                pass
        except DivergedError:
            return None
        return network

    def loss(self, graph: Graph, data: TextSplits, rate: float, seed: int) -> float:
        """Loss in nats on the beginning of the validation text after training; infinite where it diverged."""
        network = self.fitted(graph, data, rate, seed)
        return float("inf") if network is None else judge(network, data, data.validation.first(JUDGED)).loss

    def rate(self, graph: Graph) -> float:
        """The rate of lowest validation loss after short trainings."""
        return min(RATES, key=lambda rate: self.loss(graph, self.short, rate, 0))

    def seconds(self, graph: Graph) -> float:
        """Processor seconds of training a token."""
        few = self.data.beginning(self.batch, 8)
        small = Bench(few, few, 1, self.batch)
        small.fitted(graph, few, 1.0, 0)
        started = time.process_time()
        small.fitted(graph, few, 1.0, 0)
        return (time.process_time() - started) / len(few.train)


def searched(bench: Bench, space: SearchSpace, sampler: str, trials: int, rate: float) -> list[tuple[float, str]]:
    """The engine's search with real trainings: validation loss and code of each trial, best first."""
    with tempfile.TemporaryDirectory() as folder:
        config = _config(space, sampler, trials, folder)
        conductor = Conductor(SearchJob(config, space, Path(folder), {"params": make_cost_model("params")}))
        found = []
        while (trial := conductor.next()) is not None:
            loss = bench.loss(space.graph(space.decode(trial.code)), bench.short, rate, 0)
            if math.isinf(loss):
                conductor.fail(trial.number, "diverged", diverged=True)
                continue
            found.append((loss, trial.code))
            figures = {"epoch": 1, "accuracy": math.exp(-loss), "loss": loss, "train_loss": loss, "seconds": 0.0}
            conductor.report(trial.number, figures)
            print(f"trial {trial.number} {trial.code}: validation perplexity {math.exp(loss):.1f}", flush=True)
    return sorted(found)


def _config(space: SearchSpace, sampler: str, trials: int, folder: str) -> Config:
    return make_config(
        {
            "results": folder,
            "data": {"source": "text:searched"},
            "space": {"name": space.name},
            "objectives": {"accuracy": "max"},
            "search": {"sampler": sampler, "trials": trials, "epochs": 1, "grace_epochs": 1},
        }
    )


def compared(bench: Bench, graph: Graph, rate: float, seeds: int) -> dict[str, Any]:
    """Perplexities of one network over seeds, validation and test."""
    rows = []
    for seed in range(1, seeds + 1):
        network = bench.fitted(graph, bench.data, rate, seed)
        if network is not None:
            parts = (bench.data.validation, bench.data.test)
            rows.append([1 / judge(network, bench.data, part).accuracy for part in parts])
            print(f"  seed {seed}: validation {rows[-1][0]:.1f}, test {rows[-1][1]:.1f}", flush=True)
    validation, test = zip(*rows, strict=True)
    return {
        "params": graph.cost.params,
        "rate": rate,
        "validation": [round(v, 2) for v in validation],
        "test": [round(v, 2) for v in test],
        "test_mean": round(statistics.mean(test), 2),
        "test_std": round(statistics.stdev(test), 2) if len(test) > 1 else None,
        "diverged": seeds - len(rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a text file, or a folder with train, valid and test")
    parser.add_argument("--minutes", type=float, default=8.0, help="of one core")
    parser.add_argument("--sampler", default="evolution")
    parser.add_argument("--trials", type=int, default=14, help="cells trained in the search")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--vocabulary", type=int, default=2000)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    publish("recurrent", benchmark(asked))


def benchmark(asked: argparse.Namespace) -> dict[str, Any]:
    """Search, tune the rates, compare."""
    started = time.process_time()
    source = f"text:{asked.data}"
    text = load_text(source, vocabulary=asked.vocabulary)
    space = Recurrent(
        input_shape=text.input_shape,
        classes=len(text.classes),
        hidden=asked.hidden,
        nodes=asked.nodes,
    )
    first = space.graph(space.from_cell([(j, "tanh") for j in range(asked.nodes)]))
    bench, tokens = sized(asked, text, first)
    print(
        f"{text.description} Candidates train on {tokens[0]:,} tokens, networks compared on {tokens[1]:,}", flush=True
    )
    rate = bench.rate(first)
    print(f"learning rate of the search {rate}", flush=True)
    cells = searched(bench, space, asked.sampler, asked.trials, rate)
    best = space.decode(cells[0][1])
    graphs = {"cell": space.graph(best), **{kind: plain(space, kind) for kind in PLAIN}}
    rates = {name: bench.rate(graph) for name, graph in graphs.items()}
    results = {}
    for name, graph in graphs.items():
        print(f"{name}, {graph.cost.params:,} parameters, rate {rates[name]}", flush=True)
        results[name] = compared(bench, graph, rates[name], asked.seeds)
    rival = min(PLAIN, key=lambda kind: results[kind]["test_mean"])
    return {
        **results,
        "cell_nodes": [list(node) for node in space.cell(best)],
        "better_than_plain": results["cell"]["test_mean"] < results[rival]["test_mean"],
        "difference": round(results["cell"]["test_mean"] - results[rival]["test_mean"], 2),
        "searched": len(cells),
        "search_perplexities": [round(math.exp(loss), 1) for loss, _ in cells],
        "tokens": {"candidate": tokens[0], "compared": tokens[1], "vocabulary": len(text.classes)},
        "epochs": asked.epochs,
        "sampler": asked.sampler,
        "minutes": round((time.process_time() - started) / 60, 1),
    }


def sized(asked: argparse.Namespace, text: TextSplits, graph: Graph) -> tuple[Bench, tuple[int, int]]:
    """Training texts as long as the minutes allow: of candidates, and of what is compared in the end."""
    second = Bench(text, text, asked.epochs, asked.batch).seconds(graph)
    judging = second / 3  # a forward pass is about a third of a step
    shorts = asked.trials + len(RATES) * (2 + len(PLAIN))
    longs = asked.seeds * (1 + len(PLAIN))
    short = SHORT * asked.minutes * 60 / shorts - judging * JUDGED
    long = (1 - SHORT) * asked.minutes * 60 / longs - judging * (len(text.validation) + len(text.test))
    window = asked.batch * text.train.steps
    some, more = (text.beginning(asked.batch, max(8, round(s / second / asked.epochs / window))) for s in (short, long))
    return Bench(more, some, asked.epochs, asked.batch), (len(some.train), len(more.train))


if __name__ == "__main__":
    main()

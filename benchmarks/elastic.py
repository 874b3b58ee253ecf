"""Do shared weights rank networks as training each of them alone does, and how does their training matter?

    python -m benchmarks.elastic --data FILE [--members 20] [--images 7000] [--epochs 20] [--seeds 2] [--processes 2]
                                [--longer 1] [--methods ...] [--finished] [--quick]

FILE is Fashion-MNIST as an npz. Random members of a small `mobile` space, and its largest one, are trained alone, with
two different seeds. The space's shared weights are trained in several ways, each with about as many passes of
members through batches as the others; then the members are judged with them, batch norms recalibrated, without any
training of their own; with `--longer` they were trained that many times as long, and the members alone as before.
All accuracies are on the 10,000 test images, of which nothing is chosen. Prints one JSON line
last; the table is in results/benchmarks/elastic.json:

- `tau`: Kendall tau of inherited accuracy and that alone (mean of the seeds), with a bootstrapped 95 % interval;
  `ceiling` is the tau between the first two seeds alone, which no shared weights can be asked to pass by much.
- `by_size`: tau of MACs and of parameters with accuracy alone: what there is to know without any training.
- `gap`: points of accuracy by which the largest member alone is better than inherited. `mean_gap`: over all members.
- `seconds` of training, of one processor core.

Each finished training is kept in results/elastic/, each unfinished one goes on from its last epoch, so a benchmark
that was stopped goes on where it was; other settings have folders of their own. `--finished` trains nothing and makes
the table of what is there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import common
from nas_engine.config import Optimizer
from nas_engine.config import Supernet as Settings
from nas_engine.data import DataSplits, load_data
from nas_engine.evaluate import MemberScorer, judge
from nas_engine.files import write_json
from nas_engine.train import NetworkProgram, Program, supernet_program, train
from predictors import bootstrap_interval, kendall_tau, spearman
from search_spaces import Architecture, Network, SearchSpace, Supernet, make_space

FOLDER = common.RESULTS.parent / "elastic"
SPACE: dict[str, Any] = {
    "resolutions": (12, 20, 28),
    "widths": (16, 24, 40),
    "strides": (2, 1, 2),
    "depths": (1, 2),
    "kernels": (3, 5, 7),
    "expansions": (1, 2, 4),
    "multipliers": (0.25, 0.5, 1.0),
    "squeeze_excite": (False,),
    "activations": ("relu",),
    "stem": 8,
    "stem_stride": 2,
    "head": 96,
}
SHRINKING = [{"share": 2}, {"open": ["kernel"]}, {"open": ["depth"]}, {"share": 4, "open": ["expansion", "width"]}]
METHODS: dict[str, dict[str, Any]] = {
    "uniform": {"strategy": "uniform"},
    "fair": {"strategy": "fair"},
    "sandwich": {"strategy": "sandwich", "distill": False},
    "sandwich, distilled": {"strategy": "sandwich"},
    "sandwich, distilled, kernel transform": {"strategy": "sandwich", "kernel_transform": True},
    "sandwich, distilled, shrinking": {"strategy": "sandwich", "shrinking": SHRINKING},
    "attentive to the best": {"strategy": "attentive", "attentive": {"toward": "best"}},
    "attentive to the worst": {"strategy": "attentive", "attentive": {"toward": "worst"}},
}
PASSES = {"uniform": 4.0, "fair": 4 / 3}  # epochs for one of the sandwich, which runs four members in each step


@dataclass(frozen=True)
class Study:
    """What is compared; plain values, so that it travels to processes and names the folder of its results.

    Attributes:
        images: that networks are trained on.
        epochs: of a network alone, and of the sandwich.
        tested: images on which all are judged; None for all.
        longer: how many times as long as members alone the shared weights are trained.
    """

    data: str
    members: int = 20
    images: int = 7000
    epochs: int = 20
    tested: int | None = None
    longer: float = 1.0
    optimizer: Optimizer = field(default_factory=lambda: Optimizer(batch_size=64, learning_rate=0.1))

    @property
    def folder(self) -> Path:
        alone = {k: v for k, v in asdict(replace(self, data="")).items() if k != "longer"}
        told = json.dumps([alone, self.optimizer.model_dump(), SPACE], default=str)
        return FOLDER / hashlib.sha256(told.encode()).hexdigest()[:12]

    def load(self) -> DataSplits:
        """Images to train on; what members are judged on is the test part throughout."""
        data = load_data(f"npz:{self.data}", limit=round(self.images / 0.95), validation=0.05)
        test = data.test if self.tested is None else data.test.take(torch.arange(self.tested))
        return replace(data, validation=test, test=test)

    def space(self) -> SearchSpace:
        return make_space("mobile", {**SPACE, "input_shape": (1, 28, 28), "classes": 10})

    def drawn(self, space: SearchSpace) -> list[Architecture]:
        """The largest member, then random ones, all different."""
        rng, found = np.random.default_rng(0), [next(space.envelope())]
        while len(found) <= self.members:
            member = space.sample(rng)
            found += [member] * (member not in found)
        return found


def alone(study: Study, number: int, seed: int) -> dict[str, Any]:
    """Train one member by itself; its accuracy."""
    path = _path(study, number, seed)
    if path.exists():
        return dict(json.loads(path.read_text()))
    torch.set_num_threads(1)
    data, space = study.load(), study.space()
    member = study.drawn(space)[number]
    torch.manual_seed(1000 * (seed + 1) + number)
    network = Network(space.graph(member))
    seconds = _train(study, NetworkProgram(network), data, study.optimizer, study.epochs, 1000 * seed + number, path)
    result = judge(network, data, data.test).accuracy
    return _kept(path, {"code": member.code, "seed": seed, "accuracy": result, "seconds": seconds})


def shared(study: Study, method: str) -> dict[str, Any]:
    """Train shared weights in one way; the accuracies of all members that inherit them."""
    path = _path(study, method)
    if path.exists():
        return dict(json.loads(path.read_text()))
    torch.set_num_threads(1)
    data, space = study.load(), study.space()
    epochs = round(study.longer * study.epochs * PASSES.get(method, 1.0))
    settings = Settings.model_validate({**METHODS[method], "epochs": epochs, "optimizer": study.optimizer})
    torch.manual_seed(0)
    net = Supernet(space, kernel_transform=settings.kernel_transform)
    seconds = _train(study, supernet_program(net, 0, settings), data, study.optimizer, epochs, 0, path)
    scorer = MemberScorer(net, data, recalibration_batches=8)
    scores = {m.code: scorer.score(m).accuracy for m in study.drawn(space)}
    return _kept(path, {"method": method, "epochs": epochs, "accuracy": scores, "seconds": seconds})


def _path(study: Study, what: str | int, seed: int = 0) -> Path:
    """Where the result of a method, or of a member alone, is kept."""
    if isinstance(what, int):
        return study.folder / f"alone-{what:02d}-{seed}.json"
    length = "" if study.longer == 1 else f"-x{study.longer:g}"
    return study.folder / f"shared-{what.replace(', ', '-').replace(' ', '_')}{length}.json"


def _train(
    study: Study, program: Program, data: DataSplits, optimizer: Optimizer, epochs: int, seed: int, path: Path
) -> float:
    """Train, going on from a checkpoint beside the result; the processor's seconds of all epochs."""
    checkpoint, times = path.with_suffix(".pt"), path.with_suffix(".times")
    walk = train(program, data, optimizer, epochs=epochs, seed=seed, augment=data.augment, checkpoint=checkpoint)
    before = time.process_time()
    for _ in walk:
        now = time.process_time()
        with times.open("a") as file:
            file.write(f"{now - before}\n")
        before = now
    return sum(map(float, times.read_text().split()))


def _kept(path: Path, result: dict[str, Any]) -> dict[str, Any]:
    write_json(path, result)
    for suffix in (".pt", ".times"):
        path.with_suffix(suffix).unlink()
    return result


Work = tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]


def work(study: Study, methods: Sequence[str], seeds: int) -> list[Work]:
    """All trainings in the order in which they are wanted: each member once, each method, then members again."""
    everyone = range(study.members + 1)
    first, *more = ([(alone, (study, number, seed)) for number in everyone] for seed in range(seeds))
    return [*first, *((shared, (study, method)) for method in methods), *(job for again in more for job in again)]


def gather(jobs: Sequence[Work], processes: int) -> list[dict[str, Any]]:
    """What came of all trainings, in several processes."""
    started = time.perf_counter()
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = [pool.submit(call, *arguments) for call, arguments in jobs]
        for done, job in enumerate(as_completed(running), 1):
            result, passed = job.result(), time.perf_counter() - started
            what = result.get("method") or f"{result['code']}, seed {result['seed']}"
            print(f"{done}/{len(jobs)} {passed:5.0f} s: {what}, {result['seconds']:.0f} s", flush=True)
    return [job.result() for job in running]


def compared(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The table: a row a method; of members alone those seeds count that all have."""
    by_seed: dict[int, dict[str, float]] = {}
    for result in results:
        if "seed" in result:
            by_seed.setdefault(result["seed"], {})[result["code"]] = result["accuracy"]
    codes = list(by_seed[0])
    runs = np.array([[run[code] for code in codes] for run in by_seed.values() if len(run) == len(codes)])
    truth, rng = runs.mean(0), np.random.default_rng(0)
    return {
        "members": len(codes) - 1,
        "seeds": len(runs),
        "ceiling": round(kendall_tau(runs[0, 1:], runs[1, 1:]), 3) if len(runs) > 1 else None,
        "alone": {
            "largest": round(float(truth[0]), 4),
            "lowest": round(float(truth[1:].min()), 4),
            "highest": round(float(truth[1:].max()), 4),
            "seed_sd": round(float(runs.std(0, ddof=1).mean()), 4) if len(runs) > 1 else None,
            "seconds": round(sum(r["seconds"] for r in results if "seed" in r)),
        },
        "methods": [_row(result, codes, truth, rng) for result in results if "method" in result],
    }


def by_size(study: Study, results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Kendall tau of the accuracy alone of random members and what they cost."""
    space = study.space()
    runs: dict[str, list[float]] = {}
    for result in results:
        if "seed" in result:
            runs.setdefault(result["code"], []).append(result["accuracy"])
    _, *codes = runs
    costs = [space.graph(space.decode(code)).cost for code in codes]
    truth = [float(np.mean(runs[code])) for code in codes]
    return {
        "macs": round(kendall_tau(truth, [cost.macs for cost in costs]), 3),
        "params": round(kendall_tau(truth, [cost.params for cost in costs]), 3),
    }


def _row(result: dict[str, Any], codes: Sequence[str], truth: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """One method; the largest member, which comes first, has no part in the order of the random ones."""
    inherited = np.array([result["accuracy"][code] for code in codes])
    low, high = bootstrap_interval(truth[1:], inherited[1:], rng)
    return {
        "method": result["method"],
        "epochs": result["epochs"],
        "tau": round(kendall_tau(truth[1:], inherited[1:]), 3),
        "interval": [round(low, 2), round(high, 2)],
        "spearman": round(spearman(truth[1:], inherited[1:]), 3),
        "largest": round(float(inherited[0]), 4),
        "gap": round(100 * float(truth[0] - inherited[0]), 2),
        "mean_gap": round(100 * float((truth - inherited)[1:].mean()), 2),
        "seconds": round(result["seconds"]),
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="Fashion-MNIST as an npz")
    parser.add_argument("--members", type=int, default=20)
    parser.add_argument("--images", type=int, default=7000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--longer", type=float, default=1.0, help="times as long as members alone")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument(
        "--quick", action="store_true", help="a test: few images, members and epochs; nothing published"
    )
    parser.add_argument("--finished", action="store_true", help="train nothing: the table of what is finished")
    asked = parser.parse_args(arguments)
    study = Study(str(Path(asked.data).resolve()), asked.members, asked.images, asked.epochs, longer=asked.longer)
    if asked.quick:
        study = replace(study, members=3, images=200, epochs=4, tested=400)
    study.folder.mkdir(parents=True, exist_ok=True)
    jobs = work(study, asked.methods, asked.seeds)
    if asked.finished:
        jobs = [(call, given) for call, given in jobs if _path(*given).exists()]
    results = gather(jobs, asked.processes)
    figures = {"by_size": by_size(study, results), **compared(results)}
    figures |= {
        "images": study.images,
        "epochs": study.epochs,
        "longer": study.longer,
        "optimizer": study.optimizer.model_dump(),
    }
    if asked.quick:
        print(json.dumps(figures))
    else:
        common.publish("elastic" if study.longer == 1 else f"elastic_x{study.longer:g}", figures)
    return figures


if __name__ == "__main__":
    main()

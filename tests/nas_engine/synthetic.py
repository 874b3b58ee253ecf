"""Synthetic yet complete run directories: every file a finished run leaves, made in a second, without training.

Networks, parameters and MACs are real; accuracies are a smooth function of the MACs with noise, latencies one of the
bytes moved. `until` names the last stage that ended, so interrupted runs can be had as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.stats import kendalltau

from nas_engine.baselines import compared
from nas_engine.config import COSTS, Config, make_config
from nas_engine.profile import BoundVerdict, Extent, SpaceProfile, costs_of, draw
from nas_engine.run import STAGES, Run, RunDirectory
from predictors.cost import cost_models, make_cost_model
from predictors.table import TableWriter, choice_columns, table_schema
from search_spaces import Architecture, SearchSpace, make_space

_MODEL, _DATE = "5f0c93b7aa10de42", "2025-01-02T03:04:05+00:00"  # of the predictor and of the table
_DATA: dict[str, dict[str, Any]] = {
    "nasbench201": {
        "input_shape": [1, 8, 8],
        "classes": 10,
        "class_names": [str(i) for i in range(10)],
        "data": "digits: 1,797 images of 8x8 pixels in 10 classes; 1,149 for training, 288 for validation, 360 for "
        "testing",
        "images": (1149, 288, 360),
        "space": {"channels": 8, "cells": 2},
        "bound": ("latency_ms", 0.62),
    },
    "mobile": {
        "input_shape": [1, 28, 28],
        "classes": 10,
        "class_names": [
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Boot",
        ],
        "data": "fashion_mnist: 70,000 grey images of 28x28 pixels in 10 classes; 54,000 for training, 6,000 for "
        "validation, 10,000 for testing",
        "images": (54000, 6000, 10000),
        "space": {},
        "bound": ("latency_ms", 3.2),
    },
}


def build_run(
    results: Path,
    space: str = "nasbench201",
    *,
    name: str = "synthetic",
    until: str = "baselines",
    trials: int = 14,
    seed: int = 0,
) -> Run:
    """Write a run under `results/name` whose stages up to `until` have ended, and open it.

    Args:
        results: directory that holds runs.
        space: `nasbench201` or `mobile`.
        name: name of the run.
        until: last stage that ended; when it is `sample`, the search below has not begun, and so on.
        trials: trained candidates; one of them fails and one diverges.
        seed: of everything random.
    """
    builder = _Builder(_config(results, space, name, trials, seed), _DATA[space], np.random.default_rng(seed))
    builder.directory.create(builder.config)
    for stage in STAGES[: STAGES.index(until) + 1]:
        if stage != "report":
            builder.write(stage)
    return Run.open(results / name)


def begin_stage(run: Run, stage: str) -> None:
    """Make a stage look begun but not ended, as a kill leaves it."""
    run.directory.begin(stage, {})


def _config(results: Path, space: str, name: str, trials: int, seed: int) -> Config:
    metric, value = _DATA[space]["bound"]
    return make_config(
        {
            "name": name,
            "seed": seed,
            "results": str(results),
            "data": {"source": _DATA[space]["data"].partition(":")[0]},
            "space": {"name": space, **_DATA[space]["space"]},
            "constraints": [f"{metric} <= {value}"],
            "search": {"trials": trials, "epochs": 12, "grace_epochs": 4},
            "baselines": ["timm:resnet10t", {"model": "mobilenetv2_050", "to": "latency"}, "timm:resnet18"],
        }
    )


@dataclass
class _Trial:
    number: int
    code: str
    state: str
    accuracies: list[float] = field(default_factory=list)
    error: str = ""


@dataclass
class _Builder:
    config: Config
    data: dict[str, Any]
    rng: np.random.Generator

    @cached_property
    def directory(self) -> RunDirectory:
        return RunDirectory(self.config.directory)

    @cached_property
    def space(self) -> SearchSpace:
        shape = {"input_shape": self.data["input_shape"], "classes": self.data["classes"]}
        return make_space(self.config.space.name, {**shape, **self.config.space.parameters})

    @cached_property
    def members(self) -> list[Architecture]:
        return draw(self.space, 1200, self.rng)

    @cached_property
    def costs(self) -> dict[str, np.ndarray]:
        """Costs of the members; latency grows with the bytes moved and the operators run."""
        models = {n: make_cost_model(n) for n in COSTS if n != "latency_ms"}
        costs = costs_of(models, self.space, self.members)
        nodes = np.array([len(self.space.graph(a).simplify()) for a in self.members])
        costs["latency_ms"] = 0.004 * nodes + costs["bytes_moved"] / 3.2e6 + costs["macs"] / 1.8e7
        return costs

    @cached_property
    def truth(self) -> np.ndarray:
        """Accuracy of each member when trained."""
        size = np.log(self.costs["macs"])
        place = (size - size.min()) / np.ptp(size)
        return 0.70 + 0.27 * (1 - np.exp(-3 * place)) + self.rng.normal(0, 0.006, len(place))

    @cached_property
    def predicted(self) -> np.ndarray:
        """What the predictor believes: the supernet's scale, lower than the truth, with errors."""
        return 0.35 + 0.55 * self.truth + self.rng.normal(0, 0.012, len(self.truth))

    @cached_property
    def trials(self) -> list[_Trial]:
        """Promising members, better ones later; then one that failed and one that diverged."""
        bound = self.config.bounds[0]
        promising = np.argsort(self.predicted - 0.25 * np.maximum(self.costs["latency_ms"] / bound.value - 1.05, 0))[
            ::-1
        ]
        wide = self.rng.choice(promising[: len(promising) // 2], self.config.search.trials // 2, replace=False)
        chosen = dict.fromkeys([*map(int, wide), *map(int, promising)])
        made = [self._trial(n, i) for n, i in zip(range(self.config.search.trials), chosen, strict=False)]
        made[3].state, made[3].accuracies, made[3].error = (
            "failed",
            [],
            "OutOfMemoryError: 1.2 GiB asked for, 0.9 GiB free",
        )
        made[5].state, made[5].error = (
            "diverged",
            "the loss was not finite in epoch 3; lower search.optimizer.learning_rate",
        )
        made[5].accuracies = made[5].accuracies[:2]
        return made

    def _trial(self, number: int, member: int) -> _Trial:
        stopped = number % 4 == 2
        epochs = self.config.search.grace_epochs if stopped else self.config.search.epochs
        rise = 1 - np.exp(-np.arange(1, epochs + 1) / 2.5)
        curve = 0.1 + (self.truth[member] - 0.1) * rise + self.rng.normal(0, 0.006, epochs)
        return _Trial(
            number, self.members[member].code, "stopped" if stopped else "finished", np.clip(curve, 0, 1).tolist()
        )

    # ---- stages ----------------------------------------------------------------------------------------------

    def write(self, stage: str) -> None:
        self.directory.begin(stage, {})
        summary = getattr(self, f"_{stage}")()
        seconds = {"device": 64.1, "supernet": 412.7, "sample": 93.0, "predict": 21.4, "table": 6.3, "search": 805.2}
        self.directory.end(stage, summary, seconds.get(stage, 11.8))

    def _file(self, *parts: str) -> Path:
        path = self.directory.path.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _json(self, data: Any, *parts: str) -> None:
        self._file(*parts).write_text(json.dumps(data))

    def _lines(self, rows: Iterable[Mapping[str, Any]], *parts: str) -> None:
        self._file(*parts).write_text("".join(json.dumps(row) + "\n" for row in rows))

    def _device(self) -> dict[str, Any]:
        self._json({"signatures": []}, "device", "latency.json")
        device = {
            "processor": "x86-64 family 6 model 106 avx512f",
            "cores": 2,
            "threads": 1,
            "runtime": "torch",
            "runtime_version": "2.15.0",
            "device": "cpu",
            "accelerator": "",
            "batch": 1,
            "channels_last": False,
        }
        picked = self.rng.choice(len(self.members), 12, replace=False)
        networks = [self._whole(int(i)) for i in picked]
        latency = {
            "device": "x86-64 family 6 model 106 avx512f (2 cores), 1 thread, torch 2.15.0, batch 1",
            "device_id": "5f2c0a9d1be47a30",
            "units": 61,
            "measured": 52,
            "measured_share": 52 / 61,
            "median_spread": 0.031,
            "overhead_ms": 0.0021,
            "interpolation": "roofline+trees",
            "correction": {"offset_ms": 0.021, "scale": 1.08},
            "error": {
                "units": {"median_ape": 0.118, "spearman": 0.97, "units": 52},
                "networks": {
                    "median_ape": 0.034,
                    "largest_ape": 0.081,
                    "uncorrected_ape": 0.141,
                    "spearman": 0.98,
                    "networks": len(networks),
                },
            },
            "networks": networks,
            "failed": {},
        }
        shown = ("input_shape", "classes", "class_names", "data")
        return {
            **{key: self.data[key] for key in shown},
            "device": device,
            "latency": latency,
            "profile": self._profile().to_dict(),
        }

    def _whole(self, member: int) -> dict[str, Any]:
        predicted = float(self.costs["latency_ms"][member])
        measured = predicted * float(self.rng.normal(1, 0.03))
        sums = (predicted - 0.021) / 1.08
        return {"id": self.members[member].id, "measured_ms": measured, "sum_ms": sums, "predicted_ms": predicted}

    def _profile(self) -> SpaceProfile:
        extents, units = [], {"params": "parameters", "macs": "MACs", "latency_ms": "ms"}
        for name, values in self.costs.items():
            spread = float(values.min()), float(np.median(values)), float(values.max())
            extents.append(Extent(name, units.get(name, "bytes"), *spread))
        verdicts = []
        for bound in self.config.bounds:
            share = float(np.mean([bound.holds(v) for v in self.costs[bound.metric]]))
            verdicts.append(
                BoundVerdict(str(bound), share, True, False, f"{bound} is met by {share:.1%} of the members")
            )
        return SpaceProfile(self.space.size, len(self.members), tuple(extents), tuple(verdicts), verdicts[0].share)

    def _supernet(self) -> dict[str, Any]:
        losses = 0.4 + 1.9 * np.exp(-np.arange(40) / 9) + self.rng.normal(0, 0.02, 40)
        self._lines(
            ({"epoch": i, "loss": float(loss), "seconds": 10.3} for i, loss in enumerate(losses, 1)),
            "supernet",
            "history.jsonl",
        )
        return {"epochs": 40, "loss": float(losses[-1]), "strategy": "fair", "parameters": 184_320}

    def _sample(self) -> dict[str, Any]:
        scores = self.predicted + self.rng.normal(0, 0.012, len(self.predicted))
        halves = self.rng.normal(0, 0.008, len(scores))
        self._lines(
            (
                {
                    "code": a.code,
                    "accuracy": float(s),
                    "loss": float(1.6 - s),
                    "first_half": float(s + h),
                    "second_half": float(s - h),
                }
                for a, s, h, _ in zip(self.members, scores, halves, range(200), strict=False)
            ),
            "sample",
            "scores.jsonl",
        )
        return {"architectures": 200}

    def _scores(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._file("sample", "scores.jsonl").read_text().splitlines()]

    def _predict(self) -> dict[str, Any]:
        rows = self._scores()
        held = [
            {"code": r["code"], "score": r["accuracy"], "predicted": float(p), "std": 0.011}
            for r, p in zip(rows[:50], self.predicted, strict=False)
        ]
        self._lines(held, "predict", "held_out.jsonl")
        believed = {
            "predictor": _trust([r["score"] for r in held], [r["predicted"] for r in held], "held-out supernet scores"),
            "supernet": _trust(
                [r["first_half"] for r in rows], [r["second_half"] for r in rows], "the scores on the other half"
            ),
        }
        self._json(believed, "predict", "trust.json")
        return {"tau": believed["predictor"]["tau"], "members": len(rows), "held_out": 50}

    def _table(self) -> dict[str, Any]:
        costs = dict.fromkeys(self.costs, "analytic") | {"latency_ms": "table"}
        schema = table_schema(self.space, costs)
        choices = choice_columns(self.space, costs)
        columns: dict[str, Any] = {
            "code": [a.code for a in self.members],
            "id": [a.id for a in self.members],
            **{column: [a[name] for a in self.members] for name, column in choices.items()},
            "accuracy": self.predicted,
            "accuracy_std": np.full(len(self.members), 0.011),
            **self.costs,
            **{f"{name}_source": [source] * len(self.members) for name, source in costs.items()},
            "model": [_MODEL] * len(self.members),
            "seed": [self.config.seed] * len(self.members),
            "date": [_DATE] * len(self.members),
        }
        with TableWriter(self._file("table", "table.parquet"), schema, self._metadata(costs)) as writer:
            arrays = [pa.array(columns[f.name], f.type) for f in schema]
            writer.write(pa.RecordBatch.from_arrays(arrays, schema=schema))
        return {"rows": len(self.members), "whole": False, "size": self.space.size}

    def _metadata(self, costs: Mapping[str, str]) -> dict[str, Any]:
        """As `table_metadata` gives it, of a predictor that was never fitted."""
        choices = choice_columns(self.space, costs)
        predicted = {"unit": "score", "source": "predicted"}
        return {
            "space": {
                "name": self.space.name,
                "parameters": dict(self.config.space.parameters),
                "input_shape": list(self.space.input_shape),
                "classes": self.space.classes,
            },
            "choices": {c.name: {"column": choices[c.name], "options": list(c.options)} for c in self.space.choices},
            "model": {"predictor": "gcn", "id": _MODEL, "held_out_tau": 0.7, "held_out": "ranks strongly: made up"},
            "seed": self.config.seed,
            "date": _DATE,
            "columns": {"accuracy": predicted, "accuracy_std": predicted}
            | {n: {"unit": cost_models[n].unit, "source": s} for n, s in costs.items()},
        }

    def _search(self) -> dict[str, Any]:
        self._lines(self._events(), "search", "trials.jsonl")
        epochs = ((t.number, epoch) for t in self.trials for epoch, _ in enumerate(t.accuracies, 1))
        self._lines(({"trial": t, "epoch": e, "seconds": 5.1} for t, e in epochs), "search", "seconds.jsonl")
        states = [t.state for t in self.trials]
        counts = {state: states.count(state) for state in ("finished", "stopped", "failed", "diverged")}
        return {"trials": len(states), "exhausted": False, **counts}

    def _events(self) -> Iterable[dict[str, Any]]:
        for t in self.trials:
            costs = {name: float(values[self._member(t)]) for name, values in self.costs.items()}
            yield {"event": "ask", "trial": t.number, "ask": t.number, "code": t.code, "costs": costs}
            for epoch, accuracy in enumerate(t.accuracies, 1):
                loss = 2.3 * (1 - accuracy)
                yield {"event": "epoch", "trial": t.number, "epoch": epoch, "accuracy": accuracy, "loss": loss}
            yield {"event": "end", "trial": t.number, "state": t.state, "error": t.error or None}

    def _member(self, trial: _Trial) -> int:
        return next(i for i, a in enumerate(self.members) if a.code == trial.code)

    def _choose(self) -> dict[str, Any]:
        rows = [self._network(t) for t in self.trials if t.state in ("finished", "stopped")]
        for row in rows:
            row["bounds_met"] = all(b.holds(row[b.metric]) for b in self.config.bounds)
        eligible = [r for r in rows if r["bounds_met"]]
        for row in rows:
            rival = next((o for o in eligible if _beats(o, row)), None)
            row["pareto"] = row["bounds_met"] and rival is None
            row["reason"] = _why(row, rival, self.config)
        n = len(self.trials)
        front = sorted((r for r in rows if r["pareto"]), key=lambda r: -r["accuracy"])
        for row in front[:: max(1, len(front) // 3)][: self.config.export.networks]:
            row["chosen"], row["test_accuracy"] = True, row["accuracy"] - 0.004
            row["reason"] = "on the front of measured accuracy and cost"
        self._json(
            {
                "networks": rows,
                "dropped": [
                    {"trial": t.number, "code": t.code, "state": t.state, "reason": t.error}
                    for t in self.trials
                    if t.state in ("failed", "diverged")
                ],
                "validation_images": self.data["images"][1],
                "test_images": self.data["images"][2],
                "objectives": self.config.objectives,
                "constraints": list(self.config.constraints),
                "warnings": [
                    f"1 of {n} trials failed; the report says why",
                    f"1 of {n} trials diverged; the report says why",
                ],
            },
            "choose",
            "chosen.json",
        )
        trained = [r for r in rows if r["state"] == "finished"]
        believed = _trust(
            [r["accuracy"] for r in trained], [r["accuracy_predicted"] for r in trained], "trained accuracies"
        )
        self._json({"predictor": believed}, "choose", "trust.json")
        return {"chosen": [r["trial"] for r in rows if r["chosen"]]}

    def _network(self, trial: _Trial) -> dict[str, Any]:
        member = self._member(trial)
        costs = {name: float(values[member]) for name, values in self.costs.items()}
        return {
            "trial": trial.number,
            "code": trial.code,
            "id": self.members[member].id,
            "state": trial.state,
            "epochs": len(trial.accuracies),
            "accuracy": trial.accuracies[-1],
            "loss": 2.3 * (1 - trial.accuracies[-1]),
            **costs,
            "latency_ms": costs["latency_ms"] * float(self.rng.normal(1.02, 0.05)),
            "latency_spread_ms": costs["latency_ms"] * 0.03,
            "latency_ms_predicted": costs["latency_ms"],
            "accuracy_predicted": float(self.predicted[member]),
            "accuracy_predicted_std": 0.011,
            "test_accuracy": None,
            "chosen": False,
        }

    def _export(self) -> dict[str, Any]:
        chosen = json.loads(self._file("choose", "chosen.json").read_text())["networks"]
        bundles = []
        for row in (r for r in chosen if r["chosen"]):
            folder = self._file("export", row["id"], "card.md").parent
            (folder / "architecture.json").write_text(self.space.decode(row["code"]).to_json())
            (folder / "card.md").write_text(f"# {row['id']}\n")
            differences = {"model.py": 0.0, "torch_export": 2.4e-7, "onnx": 1.9e-6}
            (folder / "verification.json").write_text(json.dumps(differences))
            for name in ("model.py", "weights.safetensors", "model.pt2", "model.onnx"):
                (folder / name).write_bytes(b"")
            bundles.append({"trial": row["trial"], "id": row["id"], "path": str(folder), "differences": differences})
        return {"bundles": bundles}

    def _baselines(self) -> dict[str, Any]:
        """One as slow as the chosen networks, one that was scaled, and one that failed."""
        chosen = json.loads(self._file("choose", "chosen.json").read_text())["networks"]
        networks = [row for row in chosen if row["chosen"]]
        best = max(networks, key=lambda row: row["accuracy"])
        rows = [self._baseline(i, best) for i in range(len(self.config.baselines))]
        rows[1] |= {"target_ms": 0.5, "target": "the bound of 0.500 ms", "scaling": {"width": 0.5}}
        rows[1] |= {"scaled_predicted_ms": 0.45, "scaled_measured_ms": 0.49}
        rows[2] |= {"state": "failed", "reason": "OutOfMemoryError: 9 GiB asked for", "test_accuracy": None}
        gone = ("accuracy", "latency_ms", "latency_spread_ms", "latency_ms_predicted", "bounds_met")
        rows[2] |= dict.fromkeys(gone)
        asked = [one.model_dump(mode="json") for one in self.config.baselines]
        images = self.data["images"]
        found = {
            "rows": rows,
            "networks": networks,
            "comparisons": [c.to_dict() for c in compared(networks, rows, images[2])],
            "validation_images": images[1],
            "test_images": images[2],
            "warnings": [f"baseline {rows[2]['name']} failed: {rows[2]['reason']}"],
        }
        self._json(found, "baselines", "baselines.json")
        return {"asked": asked}

    def _baseline(self, number: int, like: Mapping[str, Any]) -> dict[str, Any]:
        asked = self.config.baselines[number]
        costs = {name: 1.1 * like[name] for name in COSTS}
        return {
            "id": f"baseline-{number}",
            "model": asked.model,
            "name": str(asked),
            "state": "finished",
            "reason": None,
            "epochs": self.config.search.epochs,
            "accuracy": like["accuracy"] - 0.01 * (number + 1),
            "test_accuracy": like["test_accuracy"] - 0.012,
            **costs,
            "latency_ms": like["latency_ms"] * (1 + 0.1 * number),
            "latency_spread_ms": 0.01,
            "latency_ms_predicted": costs["latency_ms"],
            "bounds_met": number == 0,
            "seconds": 61.0,
            "target_ms": None,
        }


def _trust(scores: list[float], predicted: list[float], against: str) -> dict[str, Any]:
    tau = float(kendalltau(scores, predicted).statistic)
    margin = 1.2 / np.sqrt(len(scores))
    words = f"ranks {(tau + 1) / 2:.0%} of the pairs as {against} do"
    return {"tau": tau, "low": max(-1, tau - margin), "high": min(1, tau + margin), "n": len(scores), "words": words}


def _beats(a: dict[str, Any], b: dict[str, Any]) -> bool:
    better = a["accuracy"] > b["accuracy"] or a["latency_ms"] < b["latency_ms"]
    return better and a["accuracy"] >= b["accuracy"] and a["latency_ms"] <= b["latency_ms"]


def _why(row: dict[str, Any], rival: dict[str, Any] | None, config: Config) -> str:
    if row["pareto"]:
        return "on the front, but others were spread wider over it"
    if rival is None or not row["bounds_met"]:
        return f"measured latency_ms {row['latency_ms']:.3g} breaks {config.bounds[0]}"
    return f"trial {rival['trial']} is at least as good in accuracy, latency_ms and better in one"

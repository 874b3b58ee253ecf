"""What a run directory holds, read once for the report; whatever a stage has not left yet is None or empty.

Only files of stages that ended are trusted, since a stage that begins anew leaves the files of later ones behind. The
scores and the trials are records that grow, so they count from their first line.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import DataError, RunError

from ..config import METRICS, Bound, Config
from ..files import read_json
from ..quality import Quality
from ..run import Run

if TYPE_CHECKING:
    from predictors.cost import Roofline

    from ..tuning import Hypervolume, TrialSummary

Values = NDArray[np.float64]
CLOUD = 3000  # points of the lookup table that are drawn


@dataclass(frozen=True)
class Cloud:
    """The lookup table, thinned for drawing.

    Attributes:
        rows: rows of the whole table.
        columns: `accuracy` and costs of a random sample of at most `CLOUD` rows.
        fronts: for each cost, the rows of the whole table that no other beats in accuracy and that cost:
            costs and accuracies, by rising cost.
    """

    rows: int
    columns: dict[str, Values]
    fronts: dict[str, tuple[Values, Values]]

    @property
    def thinned(self) -> bool:
        return len(self.columns["accuracy"]) < self.rows


class Findings:
    """A run's files, read lazily."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.path = run.path

    def done(self, stage: str) -> dict[str, Any] | None:
        return self.run.directory.done(stage)

    @cached_property
    def unfinished(self) -> list[str]:
        """Stages before the report that have not ended."""
        return [r["stage"] for r in self.run.status if r["stage"] != "report" and r["state"] != "done"]

    @cached_property
    def made(self) -> dict[str, Any]:
        """When and with what the run was begun."""
        path = self.path / "run.json"
        return dict(read_json(path)) if path.exists() else {}

    @cached_property
    def device(self) -> dict[str, Any] | None:
        return self.done("device")

    @cached_property
    def resolved(self) -> Config:
        """What was asked for, relative bounds in units as soon as it is known what they are of."""
        config = self.run.config
        return config if self.device is None else config.resolved(self.device.get("reference") or {})

    @cached_property
    def judged(self) -> tuple[Bound, ...]:
        """The bounds as trained networks were held to them, relative ones by what was measured beside these."""
        return tuple(map(Bound.parse, (self.chosen or {}).get("constraints", self.resolved.constraints)))

    @cached_property
    def latency(self) -> dict[str, Any]:
        """The latency model's summary of itself, empty before the device is measured."""
        return dict((self.device or {}).get("latency", {}))

    @cached_property
    def roofline(self) -> Roofline | None:
        """Rates of the device, where the device stage left them."""
        from predictors.cost import Roofline

        path = self.path / "device" / "roofline.json"
        if self.device is None or not path.exists():
            return None
        try:
            return Roofline.from_json(path.read_text(encoding="utf-8"))
        except (DataError, ValueError) as e:
            raise RunError(f"{path} is damaged ({e}); delete it to have the report without it") from None

    @cached_property
    def training(self) -> list[dict[str, Any]]:
        """Epochs of the supernet."""
        return self._rows("supernet", "history.jsonl")

    @cached_property
    def scores(self) -> list[dict[str, Any]]:
        return self._rows("sample", "scores.jsonl")

    @cached_property
    def held_out(self) -> list[dict[str, Any]]:
        return self._rows("predict", "held_out.jsonl") if self.done("predict") else []

    @cached_property
    def trust(self) -> dict[str, dict[str, Any]]:
        """Predictor and supernet, judged before the search."""
        return self._trust("predict")

    @cached_property
    def trust_trained(self) -> dict[str, dict[str, Any]]:
        """The same, judged by candidates that were really trained."""
        return self._trust("choose")

    @cached_property
    def cloud(self) -> Cloud | None:
        path = self.path / "table" / "table.parquet"
        return read_cloud(path) if self.done("table") and path.exists() else None

    @cached_property
    def trials(self) -> list[TrialSummary]:
        from ..tuning import read_trials

        return read_trials(self.path) if (self.path / "search" / "trials.jsonl").exists() else []

    @cached_property
    def hypervolume(self) -> Hypervolume:
        """How the trained trials came to dominate more of what the objectives allow."""
        from ..tuning import read_hypervolume

        return read_hypervolume(self.path, self.resolved, self.device)

    @cached_property
    def curves(self) -> dict[int, list[tuple[int, float]]]:
        """Validation accuracy by epoch of each trial; of an epoch that was repeated, the last."""
        curves: dict[int, dict[int, float]] = {}
        for row in self._rows("search", "trials.jsonl"):
            if row.get("event") == "epoch" and row.get("accuracy") is not None:
                curves.setdefault(row["trial"], {})[row["epoch"]] = row["accuracy"]
        return {trial: sorted(points.items()) for trial, points in curves.items()}

    @cached_property
    def chosen(self) -> dict[str, Any] | None:
        return self.run.chosen if self.done("choose") else None

    @cached_property
    def networks(self) -> list[dict[str, Any]]:
        """Trained and measured candidates."""
        return list(self.chosen["networks"]) if self.chosen else []

    @cached_property
    def beside(self) -> dict[str, Any] | None:
        """Baselines, and the chosen networks measured beside them; None where none were asked for."""
        return self.run.baselines if self.chosen else None

    @cached_property
    def rivals(self) -> list[dict[str, Any]]:
        """Baselines that were trained and measured."""
        return [row for row in (self.beside or {}).get("rows", ()) if row["test_accuracy"] is not None]

    @cached_property
    def timed(self) -> list[dict[str, Any]]:
        """Trained candidates whose latency was predicted as well as measured."""
        return [n for n in self.networks if n.get("latency_ms_predicted") is not None]

    @property
    def quality(self) -> Quality:
        """What the quality of the run's networks is called, and how it is shown."""
        return self.run.config.data.quality

    @cached_property
    def winners(self) -> list[dict[str, Any]]:
        """Chosen networks, best validation accuracy first."""
        return sorted((n for n in self.networks if n["chosen"]), key=lambda n: -n["accuracy"])

    @cached_property
    def bundles(self) -> dict[int, dict[str, Any]]:
        """Exported bundles by trial."""
        return {b["trial"]: b for b in (self.done("export") or {}).get("bundles", [])}

    def _trust(self, stage: str) -> dict[str, dict[str, Any]]:
        path = self.path / stage / "trust.json"
        return dict(read_json(path)) if self.done(stage) and path.exists() else {}

    def _rows(self, *parts: str) -> list[dict[str, Any]]:
        return read_rows(self.path.joinpath(*parts))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a record that another process may be writing; a torn last line is left out, and left alone."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return [row for row in rows if isinstance(row, dict)]


def read_cloud(path: Path, count: int = CLOUD) -> Cloud:
    """A random sample of a table and its predicted fronts; the same sample each time."""
    import pyarrow.parquet as pq

    names = [n for n in ("accuracy", *METRICS) if n in pq.read_schema(path).names]
    read = pq.read_table(path, columns=names)
    columns = {name: read[name].to_numpy().astype(np.float64) for name in names}
    rows = read.num_rows
    picked = np.sort(np.random.default_rng(0).choice(rows, min(count, rows), replace=False))
    fronts = {name: front(columns[name], columns["accuracy"]) for name in names if name != "accuracy"}
    return Cloud(rows, {name: values[picked] for name, values in columns.items()}, fronts)


def front(costs: Values, accuracies: Values) -> tuple[Values, Values]:
    """Pairs that no other beats: sorted by rising cost, accuracies rising too."""
    order = np.lexsort((-accuracies, costs))
    sorted_accuracies = accuracies[order]
    best_before = np.concatenate([[-np.inf], np.maximum.accumulate(sorted_accuracies)[:-1]])
    kept = order[sorted_accuracies > best_before]
    return costs[kept], accuracies[kept]

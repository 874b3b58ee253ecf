"""What the tests of searching share: a small space, jobs over it, known accuracies, and Ray started once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from nas_engine.config import Config, make_config
from nas_engine.tuning import SearchJob
from predictors.cost import make_cost_model
from predictors.table import TableWriter, table_schema
from search_spaces import SearchSpace, make_space

SPACE = {"channels": 4, "cells": 1, "stages": 2}
EPOCHS = 6


def make_small_config(search: dict[str, Any] | None = None, **sections: Any) -> Config:
    """A configuration of a search that takes seconds."""
    settings = {"sampler": "random", "trials": 6, "epochs": EPOCHS, "grace_epochs": 2, "reduction": 2, "threads": 1}
    objectives = {"accuracy": "max", "params": "min"}
    space = {"name": "nasbench201", **SPACE}
    return make_config({"objectives": objectives, "space": space, **sections, "search": {**settings, **(search or {})}})


@pytest.fixture(scope="session")
def space() -> SearchSpace:
    return make_space("nasbench201", {**SPACE, "input_shape": (1, 8, 8), "classes": 10})


@pytest.fixture(scope="session")
def tiny() -> SearchSpace:
    """64 members, all different, with plain costs."""
    one = {"kernels": (3,), "expansions": (3, 4), "squeeze_excite": (False,), "activations": ("relu",)}
    sizes = {
        "widths": (8, 16),
        "strides": (1, 2),
        "depths": (1,),
        "multipliers": (0.5, 1.0),
        "resolutions": (4, 5, 6, 8),
    }
    return make_space("mobile", {"input_shape": (1, 8, 8), "classes": 10, **one, **sizes})


@pytest.fixture
def write_table(accuracies: Callable[[str], list[float]]) -> Callable[..., Path]:
    """Writes the lookup table of a run: every member of a space with its final accuracy, or other figures."""

    def write(job: SearchJob, std: float = 0.0, accuracy: Callable[[str], float] | None = None) -> Path:
        members = list(dict.fromkeys(job.space.canonical(a) for a in job.space.enumerate()))
        kept = {"code", "id", "accuracy", "accuracy_std", *job.costs}
        schema = pa.schema([field for field in table_schema(job.space, job.costs) if field.name in kept])
        path = job.directory / "table" / "table.parquet"
        figures = [accuracy(a.code) if accuracy else accuracies(a.code)[-1] for a in members]
        costs = [list(column) for column in zip(*(job.costs_of(a).values() for a in members), strict=True)]
        columns = [[a.code for a in members], [a.id for a in members], figures, [std] * len(members), *costs]
        with TableWriter(path, schema, {}) as writer:
            arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
            writer.write(pa.record_batch(arrays, schema=schema))
        return path

    return write


@pytest.fixture(scope="session")
def accuracies() -> Callable[[str], list[float]]:
    """Made-up learning curves: more convolutions are better, with noise that follows from the code."""

    def curve(code: str) -> list[float]:
        noise = int(hashlib.sha256(code.encode()).hexdigest()[:8], 16) / 2**32
        top = 0.4 + 0.02 * sum(map(int, code)) + 0.1 * noise
        return [top * (1 - 0.5**epoch) for epoch in range(1, EPOCHS + 1)]

    return curve


@pytest.fixture
def job(space: SearchSpace, tmp_path: Path) -> Callable[..., SearchJob]:
    """Makes jobs: `job(sampler="tpe", constraints=[...], directory=..., stop=...)`; section `search` by keyword."""
    costs = {name: make_cost_model(name) for name in ("params", "macs")}

    def make(*, over: SearchSpace | None = None, directory: Path | None = None, **given: Any) -> SearchJob:
        own = {key: given.pop(key) for key in ("stop", "progress", "storage") if key in given}
        sections = {
            key: given.pop(key) for key in ("constraints", "objectives", "seed", "data", "device") if key in given
        }
        if "storage_url" in given:
            given["storage"] = given.pop("storage_url")
        config = make_small_config(given, **sections)
        return SearchJob(config, over or space, directory or tmp_path / "run", costs, **own)

    return make


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Ray for the whole session: starting it takes longer than most tests."""
    from nas_engine.tuning import cluster

    cluster.start(2)
    yield
    cluster.shutdown()


@pytest.fixture
def events() -> Callable[[Path], list[dict[str, Any]]]:
    """Reads the events of a run's search."""

    def read(directory: Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (directory / "search" / "trials.jsonl").read_text().splitlines()]

    return read

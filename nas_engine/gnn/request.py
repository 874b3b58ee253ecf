"""What a training of a graph network is asked for: one model, as the sections of a run's configuration are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from search_spaces.errors import ExportError
from search_spaces.network import MEMORY

from ..config import Data, Optimizer
from ..config.base import Section
from ..config.reading import mapping_of, text_of, validated
from ..export import exporters
from ..quality import data_kind
from .model import Model

_FORMS = ("model.py", "torch_export")
_DEEPEST = 32  # layers that further forms are written for unless asked


class GraphOptimizer(Optimizer):
    """The optimiser of graph networks. batch_size: training nodes of a batch where `data.neighbours` are drawn; it says
    nothing where a batch is a graph or a part of one.
    """

    name: Literal["sgd", "adam"] = "adam"
    batch_size: int = Field(512, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float | None = Field(1.0, gt=0)


class Request(Section):
    """A training.

    results: folder of runs; this one is `results/name`. threads: by default all cores. memory: how stacks keep what
    their gradient needs, `reversible`, `checkpoint` or `plain`; by default reversible where the connection is, else
    plain. judge_every: epochs between judgements on the validation part, of which the best decides which weights are
    kept. patience: epochs without a better one that end the training; None for no such end. formats: of the bundle
    beside weights and graph; by default model.py and torch_export where they can hold the network and it has up to 32
    layers, none for deeper ones.
    """

    name: str = Field("gnn", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(0, ge=0)
    results: Path = Path("results")
    threads: int | None = Field(None, ge=1)
    device: Literal["cpu", "cuda"] = "cpu"
    data: Data = Data(source="digits-knn")
    model: Model = Model()
    memory: Literal["reversible", "checkpoint", "plain"] | None = None
    epochs: int = Field(200, ge=1)
    judge_every: int = Field(1, ge=1)
    patience: int | None = Field(50, ge=1)
    optimizer: GraphOptimizer = GraphOptimizer()
    formats: tuple[str, ...] | None = None

    @field_validator("formats")
    @classmethod
    def _known(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        try:
            for form in value or ():
                _ = exporters[form]
        except ExportError as e:
            raise ValueError(str(e)) from None
        return value

    @model_validator(mode="before")
    @classmethod
    def _source(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("data"), dict):
            return {**data, "data": {"source": "digits-knn", **data["data"]}}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Request:
        if data_kind(self.data.source) != "graph":
            raise ValueError(
                f"data.source {self.data.source!r} is no graph; write digits-knn, planetoid:cora or graph:FILE.npz, say"
            )
        if self.memory == MEMORY[0] and self.model.connection != MEMORY[0]:
            raise ValueError(
                f"memory reversible undoes reversible layers, but model.connection is {self.model.connection!r}; "
                "take memory checkpoint or plain"
            )
        if self.memory == "checkpoint" and self.model.connection == "equilibrium":
            raise ValueError(
                "memory checkpoint is for layers, and an equilibrium keeps one call of its own; leave it out"
            )
        if self.optimizer.accumulate > 1:
            raise ValueError("optimizer.accumulate is for batches of many, and a graph is one; give data.parts instead")
        if self.optimizer.label_smoothing and self.data.labels == "several":
            raise ValueError("optimizer.label_smoothing is for one class a node, and these have several labels")
        if self.device == "cpu" and self.optimizer.precision == "bfloat16":
            raise ValueError(
                "optimizer.precision bfloat16 is for GPUs; on a CPU it is slower than float32, by far: take auto or "
                "float32"
            )
        return self

    @property
    def directory(self) -> Path:
        return self.results / self.name

    @property
    def mode(self) -> str:
        """How the stack keeps its values: as asked, or as its connection can."""
        return self.memory or (MEMORY[0] if self.model.connection == MEMORY[0] else "plain")

    @property
    def forms(self) -> tuple[str, ...]:
        """Formats of the bundle, whether or not they can hold the network."""
        return (_FORMS if self.model.depth <= _DEEPEST else ()) if self.formats is None else self.formats

    @property
    def training_threads(self) -> int:
        return self.threads or os.cpu_count() or 1


def make_request(data: Mapping[str, Any], overrides: Iterable[str] = ()) -> Request:
    """Validate what is asked for, `a.b=value` overrides applied.

    Raises:
        ConfigError: one line that names what is wrong.
    """
    return validated(Request, data, overrides)


def load_request(path: str | Path, overrides: Iterable[str] = ()) -> Request:
    """Read a YAML file, apply overrides, validate; the file's name is the run's, where the file gives none.

    Raises:
        ConfigError: one line that names the key, what came, and what is allowed.
    """
    text = text_of(path, "give the path of a YAML file; 'model: {conv: gcn, depth: 28}' is one")
    return validated(Request, mapping_of(text, path, overrides))

"""What a run may be asked for: one model a section, with its defaults and what goes together."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from search_spaces.errors import ConfigError, did_you_mean

from ..quality import data_kind
from ..remote import working_copy
from ..store import checked, is_uri, join
from .base import Section
from .baselines import Baseline, check_baselines
from .data import Data
from .elastic import Attentive, Phase
from .optimizer import Optimizer

COSTS = ("params", "macs", "activation_bytes", "bytes_moved", "latency_ms")
GRAPH_COSTS = ("train_memory_bytes",)
"""Of networks of graphs alone, whose steps take a whole graph or a part of one."""
METRICS = (*COSTS, *GRAPH_COSTS)
_BOUND = re.compile(r"^\s*([a-z_]+)\s*(<=|<|>=|>)\s*([0-9.eE+_-]+)\s*(x?)\s*(?:\(\s*([0-9.eE+_-]+)\s*x\s*\)\s*)?$")


@dataclass(frozen=True)
class Bound:
    """A limit on a cost or on accuracy, as written: `latency_ms <= 2.0`, or `latency_ms <= 0.5x`.

    A relative one is a share of what the space's reference costs, the network before anything is cut from it. Once
    that is known it is `resolved` and reads `latency_ms <= 1.3 (0.5x)`; before, its value is not a number, which
    nothing meets.

    Attributes:
        value: in the unit of the metric.
        share: of the reference, where the bound is relative.
    """

    metric: str
    operator: str
    value: float
    share: float | None = None

    @classmethod
    def parse(cls, text: str) -> Bound:
        match = _BOUND.match(text)
        if match is None:
            raise ValueError(f"constraint {text!r} is not of the form 'latency_ms <= 2.0' or 'latency_ms <= 0.5x'")
        metric, operator, number, relative, share = match.groups()
        if metric not in (*METRICS, "accuracy"):
            known = (*METRICS, "accuracy")
            raise ValueError(f"unknown metric {metric!r} in a constraint: {did_you_mean(metric, known)}")
        if metric == "accuracy" and (relative or share):
            raise ValueError(f"constraint {text!r}: only costs can be relative; give accuracy as a number")
        try:
            value = float(number.replace("_", ""))
            part = value if relative else None if share is None else float(share.replace("_", ""))
        except ValueError:
            raise ValueError(f"constraint {text!r} does not end with a number") from None
        return cls(metric, operator, math.nan if relative else value, part)

    @property
    def is_open(self) -> bool:
        """Whether it is relative to a reference that is not known yet."""
        return self.share is not None and math.isnan(self.value)

    def resolved(self, reference: Mapping[str, float]) -> Bound:
        """The bound in the metric's own unit, by the costs of the reference; others stay as they are.

        Raises:
            ConfigError: it is relative, and the reference has no such cost.
        """
        if self.share is None:
            return self
        if self.metric not in reference:
            raise ConfigError(f"constraint '{self}' is relative to a network that the space does not have; {_ABSOLUTE}")
        return replace(self, value=_rounded(self.share * reference[self.metric], self.operator.startswith("<")))

    def holds(self, value: float) -> bool:
        match self.operator:
            case "<=":
                return value <= self.value
            case "<":
                return value < self.value
            case ">=":
                return value >= self.value
            case _:
                return value > self.value

    def excess(self, value: float) -> float:
        """How far a value is from meeting the bound, relative to it; zero or less where it is met."""
        gap = value - self.value if self.operator.startswith("<") else self.value - value
        return gap / max(abs(self.value), 1e-12)

    @property
    def plain(self) -> str:
        """The condition in the metric's own unit, without what it is relative to."""
        return f"{self.metric} {self.operator} {self.value:g}"

    def __str__(self) -> str:
        if self.is_open:
            return f"{self.metric} {self.operator} {self.share:g}x"
        return self.plain if self.share is None else f"{self.plain} ({self.share:g}x)"


def _rounded(value: float, up: bool) -> float:
    """To the six figures that a bound is written with, outwards, so that 1x is met by the reference itself."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 5) if value > 0 else 1.0
    near = value / unit
    return float(f"{(math.ceil(near - 1e-6) if up else math.floor(near + 1e-6)) * unit:.6g}")


_ABSOLUTE = "only spaces cut from a given network (space pruned) have one: write a number with its unit"


class Device(Section):
    """The device whose latency counts, and how it is measured."""

    name: Literal["cpu", "cuda"] = "cpu"
    threads: int = Field(1, ge=1)
    runtime: Literal["torch", "onnxruntime"] = "torch"
    batch: int = Field(1, ge=1)
    measure_seconds: float = Field(120.0, gt=0)


class Space(BaseModel):
    """The search space: its name, and further keys that its constructor takes."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = "nasbench201"

    @property
    def parameters(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


def whole_or_part(gpus: float | None) -> float | None:
    """A number of GPUs that Ray can give: a part of one, or whole ones."""
    if gpus is not None and gpus > 1 and gpus != int(gpus):
        raise ValueError(f"a part of a GPU or whole GPUs can be had, such as 0.25, 1 or 2, not {gpus:g}")
    return gpus


class Supernet(Section):
    """Training of the shared weights.

    strategy: `uniform` (one random member a step), `fair` (every option of every choice once an optimiser step,
    FairNAS), `sandwich` (largest, smallest and random members, BigNAS), `attentive` (the same, the random ones chosen
    by a predictor). epochs: 0 where the space is cut from a trained network, whose weights are shared as they are.
    processes: that train together on this machine, each a share of every batch.
    random_members: of `sandwich` and `attentive`. distill: the largest member is trained by the labels in every step,
    the others by what it says; by default with `sandwich` and `attentive`. kernel_transform: smaller kernels are
    learned maps of larger ones. shrinking: phases of progressive shrinking, in which smaller options open one after the
    other; what no phase names is open all the time. sort_channels: when widths open, the channels that weigh most come
    first.
    """

    strategy: Literal["uniform", "fair", "sandwich", "attentive"] = "uniform"
    epochs: int = Field(40, ge=0)
    processes: int = Field(1, ge=1)
    random_members: int = Field(2, ge=1)
    distill: bool | None = None
    kernel_transform: bool = False
    shrinking: tuple[Phase, ...] = ()
    sort_channels: bool = True
    attentive: Attentive = Attentive()
    optimizer: Optimizer = Optimizer()


class Segments(Section):
    """Segment-wise search, used with `sample.strategy: segments`.

    count: segments; None for as few as `limit` allows. keep: super-cells of a segment. check: share of the members
    that check what the fit puts first. limit: sub-architectures of a segment. cost: the super-cells kept are the
    best of several ranges of it, so that bounds can be set after the search; None for the best of all.
    """

    count: int | None = Field(None, ge=1)
    keep: int = Field(6, ge=1)
    check: float = Field(0.2, ge=0, lt=1)
    limit: int = Field(300_000, ge=100)
    cost: str | None = "macs"

    @field_validator("cost")
    @classmethod
    def _known_cost(cls, value: str | None) -> str | None:
        if value is not None and value not in METRICS:
            raise ValueError(f"unknown cost {value!r}: {did_you_mean(value, METRICS)}")
        return value


class Rounds(Section):
    """Members chosen in rounds by NAO, used with `sample.strategy: nao`.

    count: rounds, the first of them random. first: share of the members in the first round. seeds: share of the
    scored members, the best of them, that the moves of a round start from.
    """

    count: int = Field(4, ge=1)
    first: float = Field(0.5, gt=0, lt=1)
    seeds: float = Field(0.2, gt=0, le=1)


class Sample(Section):
    """Scoring of members by the supernet.

    architectures: members scored, in all. strategy: `uniform` (random members of the space), `nao` (in rounds: random
    ones, then those that NAO decodes from the best so far) or `segments` (for spaces too large for one table: segment
    by segment, keeping the best sub-architectures, as GCN-NAS does).
    workers: processes that score. gpus: of each of them, such as 0.25; by default the cluster's are shared out.
    """

    architectures: int = Field(200, ge=10)
    strategy: Literal["uniform", "nao", "segments"] = "uniform"
    segments: Segments = Segments()
    rounds: Rounds = Rounds()
    images: int | None = Field(None, ge=1)
    recalibration_batches: int = Field(4, ge=1)
    batch_size: int = Field(256, ge=1)
    workers: int = Field(2, ge=1)
    gpus: float | None = Field(None, gt=0)
    held_out: float = Field(0.25, gt=0, lt=1)

    @model_validator(mode="after")
    def _enough_for_rounds(self) -> Sample:
        left, later = int(self.architectures * (1 - self.rounds.first)), self.rounds.count - 1
        if self.strategy == "nao" and left < later:
            raise ValueError(
                f"{self.architectures} architectures leave {left} for the {later} rounds after the first; "
                "ask for more architectures, fewer rounds, or a smaller rounds.first"
            )
        return self

    @field_validator("gpus")
    @classmethod
    def _shares(cls, value: float | None) -> float | None:
        return whole_or_part(value)


class Predictor(BaseModel):
    """The predictor: its name, and further keys that its settings take."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = "ensemble"

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Table(Section):
    """The lookup table: the whole space where it has at most `whole_up_to` members, else `rows` of them."""

    rows: int = Field(100_000, ge=10)
    whole_up_to: int = Field(2_000_000, ge=0)
    workers: int = Field(2, ge=1)


class Search(Section):
    """Ray Tune trials that train candidates.

    distill: candidates learn from the network that the space is cut from too, not from the labels alone.
    concurrency: trials at a time. threads, gpus: of each; by default this machine's cores and the cluster's GPUs are
    shared out. storage: URL of the database that keeps the Optuna study, such as
    `postgresql+psycopg://user@host/database`; by default a file of the run. max_failures: repetitions of a trial
    whose process died or that raised an error. stopping: `front` stops a trial that can no longer enter the Pareto
    front, `asha` those that lag behind the others. margin: how much more accurate, relatively, a finished trial must be
    than a hopeful extrapolation of one that `front` stops. reduction: of `asha`.
    """

    sampler: str = "gcn"
    trials: int = Field(12, ge=1)
    epochs: int = Field(20, ge=1)
    concurrency: int = Field(1, ge=1)
    inherit: bool = True
    distill: bool = False
    stopping: Literal["front", "asha", "none"] = "front"
    grace_epochs: int = Field(4, ge=1)
    margin: float = Field(0.01, ge=0)
    reduction: int = Field(3, ge=2)
    max_failures: int = Field(2, ge=0)
    threads: int | None = Field(None, ge=1)
    gpus: float | None = Field(None, gt=0)
    storage: str | None = None
    optimizer: Optimizer = Optimizer()

    @field_validator("storage")
    @classmethod
    def _no_password(cls, value: str | None) -> str | None:
        if value is not None and re.search(r"//[^/@]*:[^/@]*@", value):
            raise ValueError(
                "the URL is written into the run and must not hold a password; give it by PGPASSWORD or in ~/.pgpass"
            )
        return value

    @field_validator("gpus")
    @classmethod
    def _shares(cls, value: float | None) -> float | None:
        return whole_or_part(value)

    @property
    def training_threads(self) -> int:
        """Threads of one candidate's training; by default the cores are shared out."""
        return self.threads or max(1, (os.cpu_count() or 1) // self.concurrency)


class Export(Section):
    """What is handed back."""

    networks: int = Field(3, ge=1)
    formats: tuple[str, ...] = ("model.py", "torch_export", "onnx")


class Config(Section):
    """Everything a run is asked for. Defaults are a small search on the embedded digits.

    results: where runs lie: a directory, or a URI that pyarrow knows, such as `s3://bucket/prefix`.
    threads: of the supernet's training; None for all cores.
    baselines: networks of others that are trained like the candidates, for comparison.
    """

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(0, ge=0)
    results: Path | str = Path("results")
    threads: int | None = Field(None, ge=1)
    data: Data = Data()
    device: Device = Device()
    space: Space = Space()
    objectives: dict[str, Literal["max", "min"]] = {"accuracy": "max", "latency_ms": "min"}
    constraints: tuple[str, ...] = ()
    supernet: Supernet = Supernet()
    sample: Sample = Sample()
    predictor: Predictor = Predictor()
    table: Table = Table()
    search: Search = Search()
    baselines: tuple[Baseline, ...] = ()
    export: Export = Export()

    @field_validator("results", mode="plain")
    @classmethod
    def _place(cls, value: Any) -> Path | str:
        if not isinstance(value, str | Path) or not str(value):
            raise ValueError(f"results is a directory or a URI such as s3://bucket/prefix, got {value!r}")
        return checked(str(value)) if is_uri(value) else Path(value)

    @field_validator("objectives")
    @classmethod
    def _known_objectives(cls, value: dict[str, str]) -> dict[str, str]:
        if value.get("accuracy") != "max":
            raise ValueError("objectives need 'accuracy: max'; costs beside it are 'min'")
        for metric, direction in value.items():
            if metric != "accuracy" and metric not in METRICS:
                raise ValueError(f"unknown objective {metric!r}: {did_you_mean(metric, ('accuracy', *METRICS))}")
            if metric != "accuracy" and direction != "min":
                raise ValueError(f"objective {metric!r} is a cost and can only be 'min'")
        return value

    @field_validator("baselines", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | dict) else value or []

    @field_validator("constraints", mode="before")
    @classmethod
    def _bounds(cls, value: Any) -> Any:
        value = [value] if isinstance(value, str) else value or []
        if not isinstance(value, list | tuple):
            raise ValueError(f"constraints are a list such as ['latency_ms <= 2.0'], got {value!r}")
        for text in value:
            Bound.parse(str(text))
        return tuple(str(v) for v in value)

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.search.grace_epochs > self.search.epochs:
            raise ValueError(
                f"search.grace_epochs {self.search.grace_epochs} exceeds search.epochs {self.search.epochs}"
            )
        return self

    @model_validator(mode="after")
    def _comparable(self) -> Config:
        bounded = any(b.metric == "latency_ms" and b.operator.startswith("<") for b in self.bounds)
        check_baselines(self.baselines, self.data.source, bounded)
        supernet, parts = self.supernet, self.supernet.processes * self.supernet.optimizer.accumulate
        if parts > supernet.optimizer.batch_size:
            raise ValueError(
                f"supernet.optimizer.batch_size {supernet.optimizer.batch_size} does not make {parts} parts, for "
                "supernet.processes times supernet.optimizer.accumulate; raise it or lower these"
            )
        for name, optimizer in (("supernet", supernet.optimizer), ("search", self.search.optimizer)):
            if self.device.name == "cpu" and optimizer.precision == "bfloat16":
                raise ValueError(
                    f"{name}.optimizer.precision bfloat16 is for GPUs; on a CPU it is slower than float32, by far: "
                    "take auto or float32"
                )
        return self

    @model_validator(mode="after")
    def _counted(self) -> Config:
        for metric in (*self.objectives, *(b.metric for b in self.bounds), self.sample.segments.cost):
            if metric in GRAPH_COSTS and metric not in self.costs:
                raise ValueError(
                    f"{metric} is counted for graphs, and {self.data.source!r} is none; bound activation_bytes instead"
                )
        return self

    @model_validator(mode="after")
    def _whole_graphs(self) -> Config:
        """A graph is one batch, or comes in pieces that the data section speaks of."""
        if data_kind(self.data.source) != "graph":
            return self
        if self.supernet.processes > 1:
            raise ValueError("supernet.processes share out batches, and a graph is one; leave it out")
        for name, optimizer in (("supernet", self.supernet.optimizer), ("search", self.search.optimizer)):
            if optimizer.accumulate > 1:
                raise ValueError(
                    f"{name}.optimizer.accumulate is for batches of many, and a graph is one; give data.parts instead"
                )
            if optimizer.label_smoothing and self.data.labels == "several":
                raise ValueError(
                    f"{name}.optimizer.label_smoothing is for one class a node, and these have several labels; "
                    "leave it out"
                )
        return self

    @property
    def bounds(self) -> tuple[Bound, ...]:
        return tuple(Bound.parse(c) for c in self.constraints)

    def resolved(self, reference: Mapping[str, float]) -> Config:
        """The same with relative constraints in the units of their metrics; see `Bound.resolved`."""
        return self.model_copy(update={"constraints": tuple(str(b.resolved(reference)) for b in self.bounds)})

    @property
    def costs(self) -> tuple[str, ...]:
        """All costs the run reports; latency is always among them."""
        return METRICS if data_kind(self.data.source) == "graph" else COSTS

    @property
    def training_threads(self) -> int:
        """Threads of the supernet's training; by default all cores."""
        return self.threads or os.cpu_count() or 1

    @property
    def directory(self) -> Path:
        """Where the run is on this machine: its directory, or the working copy of what lies under its URI."""
        return self.results / self.name if isinstance(self.results, Path) else working_copy(self.results, self.name)

    @property
    def uri(self) -> str | None:
        """Where the run lies if that is no directory."""
        return None if isinstance(self.results, Path) else join(self.results, self.name)

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

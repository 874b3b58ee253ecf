"""What every stage of a run is given: the configuration, the directory, and who listens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from search_spaces import SearchSpace
from search_spaces.errors import ConfigError

from .config import Config
from .files import Progress
from .interrupt import never
from .progress import silent
from .run import RunDirectory
from .shapes import shapes_of, space_for

if TYPE_CHECKING:
    from predictors.cost import CostModel
    from predictors.cost.latency import LatencyModel
    from predictors.table import LookupTable

    from .data import Splits


@dataclass
class Context:
    """A run under way. Data, space and cost models are made when first asked for."""

    config: Config
    progress: Progress = silent
    stop: Callable[[], bool] = never
    warnings: list[str] = field(default_factory=list)

    @cached_property
    def directory(self) -> RunDirectory:
        return RunDirectory(self.config.directory, self.config.uri)

    def path(self, stage: str, *parts: str) -> Path:
        return self.directory.stage(stage).joinpath(*parts)

    @cached_property
    def data(self) -> Splits:
        from .train.candidate import shared_data

        return shared_data(self.config.data, self.config.seed, self.config.device.name)

    @cached_property
    def space(self) -> SearchSpace:
        return space_for(self.config, shapes_of(self.data))

    @property
    def resolved(self) -> Config:
        """The configuration with relative bounds in units, once the device stage knows what they are relative to."""
        return self.config.resolved((self.directory.done("device") or {}).get("reference") or {})

    @cached_property
    def latency(self) -> LatencyModel:
        """The run's latency model, once the device stage has written it."""
        from predictors.cost.latency import LatencyModel

        return LatencyModel.from_json(self.path("device", "latency.json").read_text())

    @cached_property
    def costs(self) -> dict[str, CostModel]:
        """Every cost model of the run by name."""
        from predictors.cost import make_cost_model

        analytic = [name for name in self.config.costs if name != "latency_ms"]
        return {**{name: make_cost_model(name) for name in analytic}, "latency_ms": self.latency}

    @cached_property
    def table(self) -> LookupTable:
        """The run's lookup table, once the table stage has written it."""
        from predictors.table import LookupTable

        return LookupTable.open(self.path("table", "table.parquet"))

    def check_names(self) -> None:
        """Make what later stages look up by name, so that a typing mistake costs seconds and not a trained supernet.

        Raises:
            EngineError: an unknown space, predictor, sampler or export format, or a setting that one does not take; a
                bound relative to nothing; weights that do not fit.
        """
        from predictors import make_predictor

        from .export import exporters
        from .tuning import samplers

        if self.space.reference is None:
            self.config.resolved({})
        if self.space.pretrained:
            from .stages.inheriting import check_inheritance

            check_inheritance(self)
        else:
            self._check_untrained()
        self._check_training()
        predictor = self.config.predictor
        make_predictor(predictor.name, self.space, **{"seed": self.config.seed, **predictor.settings})
        if self.config.sample.strategy == "segments" and self.config.sample.segments.cost != "latency_ms":
            from .stages.segmenting import segment_search

            segment_search(self)
        _ = samplers[self.config.search.sampler]
        for name in self.config.export.formats:
            _ = exporters[name]
        if self.config.baselines:
            from .stages.baselines import check_baselines

            check_baselines(self)

    def _check_training(self) -> None:
        """What the training of the shared weights looks up in the space: choices that open, channels, a predictor."""
        settings = self.config.supernet
        if settings.shrinking or settings.strategy == "attentive":
            from search_spaces import Supernet

            from .train import supernet_program

            supernet_program(Supernet(self.space), self.config.seed, settings)

    def _check_untrained(self) -> None:
        """What makes sense only for a space that brings trained weights."""
        space, config = self.config.space.name, self.config
        if config.supernet.epochs == 0:
            raise ConfigError(f"space {space!r} has no weights to begin with; give supernet.epochs 1 or more")
        if config.search.distill:
            raise ConfigError(f"space {space!r} has no trained network to learn from; leave search.distill out")

    def trial_path(self, trial: int) -> Path:
        """The checkpoint of one candidate."""
        return self.directory.fetch("search", "trials", f"{trial:04d}.pt")

    def rng(self, stage: str) -> np.random.Generator:
        """The generator of a stage: from the run's seed and the stage's name."""
        return np.random.default_rng([self.config.seed, *stage.encode()])

    def note(self, text: str) -> None:
        self.progress("note", {"text": text})

    def warn(self, text: str) -> None:
        self.warnings.append(text)
        self.progress("warning", {"text": text})

    def step(self, text: str, done: int, total: int | None = None) -> None:
        self.progress("step", {"text": text, "done": done, "total": total})


Summary = dict[str, Any]

"""What a compression is asked for: one model, as the sections of a run's configuration are."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from search_spaces.errors import ConfigError, did_you_mean

from ..config import Data, Optimizer
from ..config.base import Section
from ..config.reading import validated
from ..config.sections import Device
from ..export import FORMATS
from ..quality import data_kind
from .targets import Target

T = TypeVar("T")


class Named(BaseModel):
    """A registered thing: its name, and further keys that its constructor takes."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class ScheduleSection(Named):
    """The schedule. epochs: of training while units go; `one_shot` cuts before any training and takes none."""

    name: str = "one_shot"
    epochs: int = Field(5, ge=1)


class Request(Section):
    """A compression.

    model, weights: see `search_spaces.models.load_model`; a run's network is RUN or RUN:TRIAL. targets: see `Target`.
    allocation: `global`, `per_cost`, `uniform` or `blocks`; None for `blocks` where the criterion scores nothing else,
    `per_cost` where its scores are losses (taylor, oracle), and `global` elsewhere. multiple: channels that widths are
    rounded to; None for what fills a vector of the device. images: training images that the criterion judges on,
    batch_size of them at a time.
    finetune: epochs of training after the cut, with optimizer; distill: with the uncut network as a teacher.
    threads: of trainings, by default all cores; device: where latency counts.
    """

    model: str
    weights: str | None = None
    data: Data = Data()
    criterion: Named = Named(name="taylor")
    schedule: ScheduleSection = ScheduleSection()
    allocation: str | None = None
    targets: tuple[str, ...]
    max_ratio: float = Field(0.9, ge=0, lt=1)
    min_keep: int = Field(1, ge=1)
    multiple: int | None = Field(None, ge=1)
    images: int = Field(1024, ge=1)
    batch_size: int = Field(64, ge=1)
    finetune: int = Field(0, ge=0)
    distill: bool = False
    optimizer: Optimizer = Optimizer(batch_size=128, learning_rate=0.01, warmup_epochs=0.0)
    device: Device = Device(measure_seconds=60.0)
    formats: tuple[str, ...] = FORMATS
    seed: int = Field(0, ge=0)
    threads: int | None = Field(None, ge=1)

    @field_validator("targets", mode="before")
    @classmethod
    def _readable(cls, value: Any) -> Any:
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list | tuple) or not value:
            raise ValueError("targets are a list such as ['macs=0.5x']")
        try:
            return tuple(str(Target.parse(str(text))) for text in value)
        except ConfigError as e:
            raise ValueError(str(e)) from None

    @model_validator(mode="after")
    def _consistent(self) -> Request:
        kind = data_kind(self.data.source)
        if kind != "images":
            raise ValueError(f"networks of images are compressed, but {self.data.source!r} is a {kind}")
        if self.distill and not self.finetune and self.schedule.name == "one_shot":
            raise ValueError("distill needs epochs to learn in: give --finetune 1 or more")
        if self.allocation == "blocks" and self.schedule.name != "one_shot":
            raise ValueError("schedules mask channels; allocation 'blocks' goes with schedule one_shot")
        return self

    @property
    def training_threads(self) -> int:
        return self.threads or os.cpu_count() or 1

    @property
    def goals(self) -> tuple[Target, ...]:
        return tuple(Target.parse(text) for text in self.targets)


def make_request(data: Mapping[str, Any], overrides: Iterable[str] = ()) -> Request:
    """Validate what is asked for, `a.b=value` overrides applied.

    Raises:
        ConfigError: one line that names what is wrong.
    """
    return validated(Request, data, overrides)


def made(kind: str, cls: type[T], name: str, settings: Mapping[str, Any], seed: int) -> T:
    """An instance with its settings; one that draws takes the seed, where the settings do not give one.

    Raises:
        ConfigError: a setting that it does not take, or takes otherwise.
    """
    allowed = [p for c in cls.__mro__ for p in _parameters(c)]
    for key in settings:
        if key not in allowed:
            raise ConfigError(f"{kind} {name!r} takes no setting {key!r}: {did_you_mean(key, dict.fromkeys(allowed))}")
    try:
        return cls(**({"seed": seed} if "seed" in allowed else {}) | dict(settings))
    except TypeError as e:
        raise ConfigError(f"the settings of {kind} {name!r} do not fit: {e}") from None


def _parameters(cls: type) -> list[str]:
    """Names that a class's own constructor takes."""
    if "__init__" not in vars(cls) or cls is object:
        return []
    kinds = inspect.Parameter
    parameters = list(inspect.signature(cls).parameters.values())
    return [p.name for p in parameters if p.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)]

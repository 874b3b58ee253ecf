"""What a scaling is asked for: one network, a rule, and either steps of phi or targets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from search_spaces.errors import ConfigError, SpaceError, did_you_mean
from search_spaces.scaling import Compound, FastCompound, Rounding, Rule
from search_spaces.scaling.forms import RULES, make_rule

from ..compress.targets import Target
from ..config.base import Section
from ..config.reading import validated
from ..config.sections import Device

_INPUT = re.compile(r"^\s*(\d+)\s*[x,]\s*(\d+)\s*[x,]\s*(\d+)\s*$")
_STEPS = 12  # of phi; arithmetic is 4,096 times as much then


class RoundingSection(Section):
    """How scaled numbers become whole ones, see `search_spaces.scaling.Rounding`; None is as the network's family."""

    divisor: int | None = Field(None, ge=1)
    limit: float | None = Field(None, gt=0, le=1)
    repeats: Literal["ceil", "round"] | None = None

    def over(self, own: Rounding) -> Rounding:
        """A network's own rounding with what is given in its place."""
        return replace(own, **self.given)

    @property
    def given(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)


class Request(Section):
    """A scaling.

    model: a published network (`efficientnet_b0`), what `search_spaces.models.load_model` takes, or a run's network as
    RUN or RUN:TRIAL. rule: whose members are exported; the others are costed beside it. alpha, beta, gamma: of compound
    scaling; a: share of the width in `dwr`. phi: the last step; members are those of 0 to phi. to: targets that the
    largest member is to meet, in the place of phi. input: `(C, H, W)` of the unscaled network; classes: of its outputs.
    grid: points along each axis of the planes of equal cost. formats: of the exported members.
    """

    model: str
    rule: str = "compound"
    alpha: float = 1.2
    beta: float = 1.1
    gamma: float = 1.15
    a: float = 0.8
    phi: int | None = None
    to: tuple[str, ...] = ()
    input: tuple[int, int, int] | None = None
    classes: int | None = Field(None, ge=1)
    rounding: RoundingSection = RoundingSection()
    grid: int = Field(7, ge=3, le=25)
    device: Device = Device()
    formats: tuple[str, ...] = ("model.py",)
    seed: int = Field(0, ge=0)

    @field_validator("input", mode="before")
    @classmethod
    def _shape(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        match = _INPUT.match(value)
        if match is None:
            raise ValueError(f"an input is channels, height and width such as 3x224x224; got {value!r}")
        return tuple(map(int, match.groups()))

    @field_validator("to", mode="before")
    @classmethod
    def _readable(cls, value: Any) -> Any:
        value = [value] if isinstance(value, str) else value
        try:
            return tuple(str(Target.parse(str(text), grows=True)) for text in value)
        except ConfigError as e:
            raise ValueError(str(e)) from None

    @model_validator(mode="after")
    def _consistent(self) -> Request:
        if self.input is not None and min(self.input) < 1:
            raise ValueError(f"an input has at least one channel and pixel; got {'x'.join(map(str, self.input))}")
        if bool(self.to) == (self.phi is not None):
            raise ValueError("give either --to, such as --to latency_ms=4 or --to macs=2x, or --phi, such as --phi 3")
        if self.phi is not None and not 1 <= abs(self.phi) <= _STEPS:
            raise ValueError(f"phi is from 1 to {_STEPS}, or below 0 for smaller networks; got {self.phi}")
        if self.rule not in RULES:
            raise ValueError(f"unknown rule {self.rule!r}: {did_you_mean(self.rule, RULES)}")
        try:
            _ = self.rules
        except SpaceError as e:
            raise ValueError(str(e)) from None
        return self

    @property
    def goals(self) -> tuple[Target, ...]:
        return tuple(Target.parse(text, grows=True) for text in self.to)

    @property
    def phis(self) -> tuple[int, ...]:
        """The steps asked for but 0, which is the network itself."""
        end = self.phi or 0
        return tuple(range(1, end + 1)) if end > 0 else tuple(range(-1, end - 1, -1))

    @cached_property
    def exponents(self) -> Compound:
        return Compound(self.alpha, self.beta, self.gamma)

    @cached_property
    def rules(self) -> dict[str, Rule]:
        """All rules by name, the one asked for first."""
        _ = FastCompound(self.a)
        names = sorted(RULES, key=lambda name: name != self.rule)
        return {name: make_rule(name, self.exponents, self.a) for name in names}

    def factor(self, phi: float) -> float:
        """By what the arithmetic is multiplied at a step, by whatever rule: `(alpha beta^2 gamma^2)^phi`."""
        return self.exponents.product**phi


def make_request(data: Mapping[str, Any], overrides: Iterable[str] = ()) -> Request:
    """Validate what is asked for, `a.b=value` overrides applied.

    Raises:
        ConfigError: one line that names what is wrong.
    """
    return validated(Request, data, overrides)


def directory(request: Request, out: Path | None) -> Path:
    """Where a scaling goes on its own: by model, rule and what is asked, so that the same command goes on there."""
    if out is not None:
        return out
    from ..compress.subject import name_of

    asked = request.to or (f"phi={request.phi}",)
    parts = [name_of(request.model), request.rule, *asked]
    return Path("results") / "scaled" / re.sub(r"[^A-Za-z0-9._=-]+", "-", "-".join(parts)).strip("-.")

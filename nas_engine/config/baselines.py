"""Which networks of others a run is compared with: names, or mappings that say how each is scaled first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from ..quality import data_kind
from .base import Section


class Baseline(Section):
    """A network that is trained like the candidates, for comparison; a text alone is its `model`.

    model: `timm:NAME`, `torchvision:NAME`, a member of a family, `file.py:function`, or what else names a model.
    resolution: pixels of a side that the network itself brings images to. stride: of the whole network, at most; of
    members of families. width, depth: multipliers. to: the network is scaled until it is as slow as the run's bound on
    latency allows (`latency`), or as the most accurate chosen network is (`chosen`). rule: what grows or shrinks for
    that: `width`, `depth`, `resolution`, or all three as `compound` or `dwr` (fast compound scaling) share it out.
    """

    model: str = Field(min_length=1)
    width: float = Field(1.0, gt=0)
    depth: float = Field(1.0, gt=0)
    resolution: int | None = Field(None, ge=4)
    stride: int | None = Field(None, ge=1)
    to: Literal["latency", "chosen"] | None = None
    rule: Literal["width", "depth", "resolution", "compound", "dwr"] = "width"

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        return {"model": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _of_use(self) -> Baseline:
        if self.to is None and "rule" in self.model_fields_set and self.rule != "width":
            raise ValueError(f"rule {self.rule!r} says how {self.model!r} is scaled to a latency; give to: latency too")
        return self

    def __str__(self) -> str:
        return ", ".join([self.model, *self.changes])

    @property
    def changes(self) -> list[str]:
        """What is asked of the network as it comes, in words."""
        told = [f"{n} x{getattr(self, n):g}" for n in ("width", "depth") if getattr(self, n) != 1]
        told += [f"at {self.resolution} pixels"] * (self.resolution is not None)
        told += [f"stride {self.stride}"] * (self.stride is not None)
        return told + [f"to {self.to} by {self.rule}"] * (self.to is not None)


def check_baselines(asked: Sequence[Baseline], source: str, bounded: bool) -> None:
    """Refuse baselines that are asked for twice, make no sense for the data, or have nothing to be scaled to.

    Args:
        bounded: whether the run has an upper bound on latency.
    """
    if asked and (kind := data_kind(source)) != "images":
        raise ValueError(f"baselines are networks for images, but {source!r} is a {kind}; leave them out")
    for i, one in enumerate(asked):
        if one in asked[:i]:
            raise ValueError(f"baseline {str(one)!r} is given twice")
        if one.to == "latency" and not bounded:
            raise ValueError(
                f"baseline {one.model!r} is to be scaled to the bound on latency, and there is none; add a constraint "
                "such as 'latency_ms <= 2.0', or give to: chosen"
            )

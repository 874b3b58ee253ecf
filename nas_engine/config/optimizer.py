"""What every training may be asked for."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from .base import Section

_ADAM_RATE = 1e-3


class Optimizer(Section):
    """An optimiser with a cosine schedule after a warm-up.

    name: `sgd`, with Nesterov momentum, or `adam`, whose first moment decays by `momentum` and whose second by 0.999;
    either adds weight decay to the gradient, which is not the decoupled one of AdamW. learning_rate: by default 0.1,
    and 0.001 for adam.
    precision: of forward passes: `auto` is bfloat16 on GPUs that have it and float32 elsewhere; weights and gradients
    are float32. accumulate: parts that a batch is gone through in, one after the other, where it does not fit into
    memory as a whole.
    """

    name: Literal["sgd", "adam"] = "sgd"
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    warmup_epochs: float = Field(1.0, ge=0)
    clip_norm: float | None = Field(5.0, gt=0)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    accumulate: int = Field(1, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _rate_of_its_own(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("name") == "adam":
            return {"learning_rate": _ADAM_RATE, **data}
        return data

    @model_validator(mode="after")
    def _parts_of_a_batch(self) -> Optimizer:
        if self.accumulate > self.batch_size:
            raise ValueError(f"a batch of {self.batch_size} does not make {self.accumulate} parts; lower accumulate")
        return self

"""What the training of shared weights may be asked for beyond how members are drawn: phases, and attention."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .base import Section


class Phase(Section):
    """A phase of progressive shrinking.

    share: of the epochs, relative to the other phases. open: choices whose smaller options members may take from now
    on, as names or patterns of whole names or of what follows the last dot: `kernel`, `stage1.*`, `*.depth`. options:
    how many options of these are open, the largest ones; None for all. A name, or a list of them, is short for a phase
    that opens these.
    """

    share: float = Field(1.0, gt=0)
    open: tuple[str, ...] = ()
    options: int | None = Field(None, ge=2)

    @model_validator(mode="before")
    @classmethod
    def _short(cls, data: Any) -> Any:
        if isinstance(data, str):
            return {"open": [data]}
        return {"open": data} if isinstance(data, list | tuple) else data


class Attentive(BaseModel):
    """What `strategy: attentive` trains, with further keys that the predictor's settings take.

    toward: the `best` or the `worst` predicted of some members that cost about as much (AttentiveNAS). of: how many
    these are. predictor: fitted to the losses seen in training.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    toward: Literal["best", "worst"] = "best"
    of: int = Field(3, ge=2)
    predictor: str = "ridge"

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

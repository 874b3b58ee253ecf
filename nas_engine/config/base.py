"""What all sections of the configuration have in common: unknown keys are errors, empty sections mean defaults."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, model_validator

_NUMBERS = (int, float, int | None, float | None)


class Section(BaseModel):
    """A part of the configuration; unknown keys are errors, an empty section means its defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _plain_yaml(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        for key, value in data.items():
            if isinstance(value, bool) and key in cls.model_fields and cls.model_fields[key].annotation in _NUMBERS:
                raise ValueError(f"{key} is a number, got {str(value).lower()}")
        return {k: v for k, v in data.items() if v is not None or not is_section(cls, k)}


def is_section(model: type[BaseModel], key: str) -> bool:
    annotation = model.model_fields[key].annotation if key in model.model_fields else None
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def section_of(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    """The section that a key holds, alone or in a list; None where it holds values."""
    annotation = model.model_fields[key].annotation if key in model.model_fields else None
    kinds = [annotation, *get_args(annotation)]
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)

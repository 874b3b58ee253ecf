"""Public tables as spaces with labels, for the benchmarks of predictors and cost models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from search_spaces import Architecture, Graph, SearchSpace, make_space
from search_spaces.errors import DataError, did_you_mean


@dataclass(frozen=True)
class Labelled:
    """Rows of a table as members of a space.

    Attributes:
        space: the space.
        members: one a row.
        sketches: of the members.
        frame: the rows.
        groups: number of the group of each row, int64 `(n,)`; rows of a group are the same network.
    """

    space: SearchSpace
    members: list[Architecture]
    sketches: list[Graph]
    frame: pd.DataFrame
    groups: np.ndarray

    def column(self, name: str) -> np.ndarray:
        """A column of numbers, float64 `(n,)`."""
        return _column(self.frame, name).to_numpy(dtype=float)


def read(path: Path) -> pd.DataFrame:
    """A table in Parquet or CSV; texts stay texts."""
    if not path.exists():
        raise DataError(f"no file {path}; give a table in Parquet or CSV")
    return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype={"arch": str})


def label(
    frame: pd.DataFrame,
    space: str,
    needed: Sequence[str],
    choices: Sequence[str] = (),
    groups: str | None = None,
    *,
    digits: str | None = None,
) -> Labelled:
    """The rows as members of a space.

    Args:
        space: `table` makes a space of the table itself, one column a choice; any other is a registered space whose
            members the column `arch_str` names, or columns that are called like its choices.
        needed: columns of numbers; rows where one is missing are left out.
        choices: columns that are the choices, for the space `table`.
        digits: column of texts whose digits are the choices, instead of `choices`.
        groups: column whose equal values mean the same network; by default every row is its own.
    """
    frame = frame.dropna(subset=[_column(frame, name).name for name in (*needed, *choices)]).reset_index(drop=True)
    if space == "table" and digits is not None:
        made = make_space("table", {"path": frame, "digits": digits, "target": needed[0]})
        names = [choice.name for choice in made.choices]
        members = [made.architecture(dict(zip(names, text, strict=True))) for text in _column(frame, digits)]
    elif space == "table":
        made = make_space("table", {"path": frame, "choices": list(choices), "target": needed[0]})
        rows = frame[list(choices)].itertuples(index=False)
        members = [made.architecture(dict(zip(choices, row, strict=True))) for row in rows]
    else:
        made = make_space(space)
        members = _members(made, frame)
    numbers = np.arange(len(frame)) if groups is None else pd.factorize(_column(frame, groups))[0]
    return Labelled(made, members, [made.sketch(a) for a in members], frame, numbers)


def _members(space: Any, frame: pd.DataFrame) -> list[Architecture]:
    """The members that rows name, by their choices where all are columns, else by the space's own notation."""
    names = [choice.name for choice in space.choices]
    if not set(names) <= set(frame):
        return [space.from_text(text) for text in _column(frame, "arch_str")]
    return [space.architecture(dict(zip(names, row, strict=True))) for row in frame[names].itertuples(index=False)]


def _column(frame: pd.DataFrame, name: str) -> pd.Series:
    if name not in frame:
        raise DataError(f"the table has no column {name!r}: {did_you_mean(name, frame.columns)}")
    return frame[name]

"""Reading the rows of a user's table: a Parquet or CSV file, or a pandas frame, as options of choices and a score.

Apart from `tabular` so that naming a space does not import pandas; only the columns that are asked for are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .errors import DataError, SpaceError, did_you_mean
from .space import _DIGITS, Architecture, Choice, Option

MOST_OPTIONS = len(_DIGITS)
_TEXTS = (".csv", ".csv.gz")


class Source:
    """A table of which single columns are read; a file, or a frame in memory.

    Args:
        table: path of a `.parquet`, `.csv` or `.csv.gz` file, or a `pandas.DataFrame`.

    Raises:
        DataError: no such file, or one of another kind.
    """

    def __init__(self, table: str | Path | pd.DataFrame) -> None:
        self._frame = (
            table.set_axis([str(c) for c in table.columns], axis=1) if isinstance(table, pd.DataFrame) else None
        )
        self._path = Path() if isinstance(table, pd.DataFrame) else Path(table)
        self.name = "the frame" if isinstance(table, pd.DataFrame) else repr(str(table))
        if self._frame is None:
            self._check()

    def _check(self) -> None:
        folder = self._path.parent
        if not self._path.is_file():
            near = [p.name for p in folder.iterdir() if p.is_file()] if folder.is_dir() else []
            hint = did_you_mean(self._path.name, near) if near else f"{str(folder)!r} holds no file"
            raise DataError(f"there is no table {self.name}: {hint}")
        if not self._path.name.endswith((".parquet", *_TEXTS)):
            raise DataError(f"{self.name} is not a table; give a .parquet, .csv or .csv.gz file")

    @cached_property
    def columns(self) -> list[str]:
        """Names of the columns, without reading a row where the table is a file."""
        if self._frame is not None:
            return list(self._frame.columns)
        if self._path.name.endswith(_TEXTS):
            return [str(name) for name in self._attempt(lambda: pd.read_csv(self._path, nrows=0)).columns]
        import pyarrow.parquet as pq

        return list(self._attempt(lambda: pq.read_schema(self._path)).names)

    def need(self, names: Iterable[str]) -> None:
        """Raise `DataError` for a column that the table lacks, with the nearest one."""
        for name in names:
            if name not in self.columns:
                raise DataError(f"{self.name} has no column {name!r}: {did_you_mean(name, self.columns)}")

    def read(self, names: Sequence[str] | None = None, text: Sequence[str] = ()) -> pd.DataFrame:
        """Some columns, or all; those of `text` keep leading zeros where the file is text itself."""
        if self._frame is not None:
            return self._frame if names is None else self._frame[list(dict.fromkeys(names))]
        wanted = None if names is None else list(dict.fromkeys(names))
        if self._path.name.endswith(_TEXTS):
            return self._attempt(lambda: pd.read_csv(self._path, usecols=wanted, dtype=dict.fromkeys(text, str)))
        return self._attempt(lambda: pd.read_parquet(self._path, columns=wanted))

    def _attempt(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except (OSError, EOFError, ValueError, KeyError) as e:  # pyarrow's and pandas' errors are ValueErrors
            told = str(e).splitlines()[0] if str(e) else type(e).__name__
            raise DataError(f"{self.name} cannot be read as a table ({told}); write it again") from None

    # ---- columns of one kind -----------------------------------------------------------------------------

    def numbers(self, name: str) -> np.ndarray:
        """A column as float64 `(R,)`; what is missing is NaN."""
        self.need([name])
        column = self.read([name])[name]
        if not _is_numeric(column):
            example = next(iter(column.dropna()), None)
            numeric = [name for name, other in self.read().items() if _is_numeric(other)]
            raise DataError(
                f"column {name!r} of {self.name} holds no numbers, but {example!r} for one; columns of numbers: "
                f"{', '.join(map(str, numeric)) or 'none'}"
            )
        return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))

    def texts(self, name: str) -> list[str]:
        """A column of texts, leading zeros kept.

        Raises:
            DataError: the column was stored as numbers, which have none, or lacks values.
        """
        self.need([name])
        column = self.read([name], text=[name])[name]
        if pd.api.types.is_numeric_dtype(column):
            raise DataError(
                f"column {name!r} of {self.name} is stored as numbers, so leading zeros are lost; store it as text "
                f"(pandas: dtype={{{name!r}: str}})"
            )
        self.complete(name, column)
        return [str(value) for value in column]

    def options(self, name: str) -> tuple[list[Option], np.ndarray]:
        """Distinct values of a column, numbers rising and texts sorted, and their positions row by row, int64 `(R,)`.

        Raises:
            DataError: missing values, or more options than a choice may have.
        """
        column = self.read([name])[name]
        self.complete(name, column)
        places, found = pd.factorize(column)
        values = [_plain(value) for value in found]
        order = sorted(range(len(values)), key=lambda i: _rank(values[i]))
        check_count(name, len(values))
        position = np.empty(len(values), dtype=np.int64)
        position[order] = np.arange(len(values))
        return [values[i] for i in order], position[places]

    def complete(self, name: str, column: pd.Series[Any]) -> None:
        """Raise `DataError` where values of a column are missing."""
        if missing := int(column.isna().sum()):
            raise DataError(
                f"column {name!r} of {self.name} lacks {missing} of {len(column)} values; fill them or drop these rows"
            )


def check_count(name: str, count: int) -> None:
    """Raise `DataError` where a column has more distinct values than a choice may have options."""
    if count > MOST_OPTIONS:
        raise DataError(
            f"column {name!r} has {count:,} distinct values, but a choice allows at most {MOST_OPTIONS} options; "
            "name columns of few values as choices, and a score as the target"
        )


def _is_numeric(column: pd.Series[Any]) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _plain(value: Any) -> Option:
    """A value of a column as Python has it; whole floating-point numbers as integers."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, bool | int | float | str) else str(value)


def _rank(value: Option) -> tuple[bool, float, str]:
    number = not isinstance(value, str)
    return (not number, float(value) if number else 0.0, str(value))


# ---- from columns to choices -------------------------------------------------------------------------------


def columns_as_choices(source: Source, names: Sequence[str]) -> tuple[list[Choice], np.ndarray]:
    """A choice a column, and the options of each row as positions, int64 `(R, C)`."""
    source.need(names)
    read = [source.options(name) for name in names]
    return [Choice(n, tuple(o)) for n, (o, _) in zip(names, read, strict=True)], np.stack([p for _, p in read], axis=1)


def digits_as_choices(source: Source, column: str) -> tuple[list[Choice], np.ndarray]:
    """A choice a character of a column of texts of one length: `arch[0]`, `arch[1]`, ..."""
    texts = source.texts(column)
    lengths = sorted({len(t) for t in texts})
    if len(lengths) != 1 or lengths[0] == 0:
        raise DataError(
            f"texts of column {column!r} of {source.name} have {' and '.join(map(str, lengths[:4])) or 'no'} "
            "characters; each row needs as many as every other"
        )
    letters = np.array(texts).view("U1").reshape(len(texts), lengths[0])
    choices, places = [], []
    for i, letter in enumerate(letters.T):
        found, place = np.unique(letter, return_inverse=True)
        check_count(f"{column}[{i}]", len(found))
        choices.append(Choice(f"{column}[{i}]", tuple(map(str, found))))
        places.append(place)
    return choices, np.stack(places, axis=1)


def keys_as_members(source: Source, column: str, read: Callable[[str], Architecture]) -> np.ndarray:
    """Options of each row as positions, int64 `(R, C)`, from a column that names members as `read` knows them."""
    texts = source.texts(column)
    try:
        members = {text: read(text).indices for text in dict.fromkeys(texts)}
    except SpaceError as e:
        raise DataError(f"column {column!r} of {source.name}: {e}") from None
    return np.array([members[text] for text in texts], dtype=np.int64)


def columns_as_members(source: Source, choices: Sequence[Choice]) -> np.ndarray:
    """Options of each row as positions, int64 `(R, C)`, from columns that are called like a space's choices.

    A choice that may rest may also be missing, which is its first option.
    """
    source.need([c.name for c in choices])
    places = []
    for choice in choices:
        column = source.read([choice.name])[choice.name]
        if choice.when is None:
            source.complete(choice.name, column)
        codes, values = pd.factorize(column)
        known = np.array([*(choice.index(_plain(v)) for v in values), 0], dtype=np.int64)  # missing is -1: the last
        places.append(known[codes])
    return np.stack(places, axis=1)


# ---- distinct rows -----------------------------------------------------------------------------------------


class Rows:
    """The distinct members of a table in the order of their codes, with the mean score of the rows of each.

    Shapes: N members, C choices, R rows of the source.

    Args:
        indices: options of each row as positions, `(R, C)`.
        scores: `(R,)`; rows whose score is not finite are left out.
        source: where they come from.
        texts: columns to be shown as texts.

    Attributes:
        indices: uint8 `(N, C)`; scores: float64 `(N,)`; left_out: rows without a score; repeated: rows beyond the first
            of their member.
    """

    def __init__(self, indices: np.ndarray, scores: np.ndarray, source: Source, texts: Sequence[str] = ()) -> None:
        finite = np.isfinite(scores)
        if not finite.any():
            raise DataError(f"{source.name} has no row with a score; give another target")
        self.source, self._texts = source, tuple(texts)
        self._kept = np.flatnonzero(finite)
        self.indices, self._member = np.unique(indices[finite].astype(np.uint8), axis=0, return_inverse=True)
        self._member = self._member.reshape(-1)
        counts = np.bincount(self._member)
        self.scores = np.bincount(self._member, weights=scores[finite]) / counts
        self.left_out, self.repeated = int((~finite).sum()), int((counts - 1).sum())
        self._keys = _as_keys(self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def find(self, indices: Sequence[int]) -> int | None:
        """Number of a member, None where the table has it not."""
        if not len(indices) or not 0 <= min(indices) <= max(indices) < MOST_OPTIONS:
            return None
        key = _as_keys(np.array([indices], dtype=np.uint8))[0]
        place = int(np.searchsorted(self._keys, key))
        return place if place < len(self) and self._keys[place] == key else None

    def record(self, place: int) -> dict[str, Any]:
        """The source's columns for a member: means of numbers over its rows, all else as in the first of them."""
        found = self._frame.iloc[self._kept[np.flatnonzero(self._member == place)]]
        row = {str(name): value for name, value in found.iloc[:1].to_dict("records")[0].items()}
        if len(found) > 1:
            row.update({str(name): float(value) for name, value in found.select_dtypes("number").mean().items()})
        return {k: None if pd.isna(v) else v for k, v in row.items()}

    @cached_property
    def _frame(self) -> pd.DataFrame:
        return self.source.read(text=self._texts)


def _as_keys(indices: np.ndarray) -> np.ndarray:
    """Rows of positions as byte strings that sort as the rows do; none holds a zero byte, which would be cut off."""
    shifted = np.ascontiguousarray(indices + np.uint8(1))
    return shifted.view(f"S{shifted.shape[1]}").reshape(-1)

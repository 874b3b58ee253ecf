"""Reading lookup tables: conditions, order and Pareto fronts, asked of the file itself.

DuckDB reads the columns and row groups that a question needs, straight from the Parquet file, so a table may be larger
than memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from search_spaces.errors import ConfigError, EngineError, did_you_mean
from search_spaces.space import Architecture

from ..condition import quoted, to_sql
from .columns import METADATA, NAMES, PREDICTED, PROVENANCE, Direction, source_column
from .front import pareto

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

_BATCH = 65_536
_VECTORS = 128  # of 2,048 rows: what of a front's candidates is in memory at once


class LookupTable:
    """A table on disk, asked with conditions, sorted, and reduced to its Pareto front.

    >>> table = LookupTable.open("table.parquet")  # doctest: +SKIP
    >>> table.query("latency_ms < 2 and params < 5e5", sort="accuracy", top=10)  # doctest: +SKIP

    Attributes:
        path: of the Parquet file.
        schema: the columns and their types, in the order of the file.
        columns: their names.
        metadata: what `table_metadata` gave when it was written; empty for files from elsewhere.
    """

    def __init__(self, path: Path, schema: pa.Schema, rows: int) -> None:
        self.path = path
        self.schema = schema
        self.columns: tuple[str, ...] = tuple(schema.names)
        self.metadata: dict[str, Any] = json.loads((schema.metadata or {}).get(METADATA, b"{}"))
        self._numeric = {f.name for f in schema if pa.types.is_integer(f.type) or pa.types.is_floating(f.type)}
        self._rows = rows

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """The table in a Parquet file; reads its footer only.

        Raises:
            EngineError: no file, not Parquet, or no column `code`.
        """
        path = Path(path).absolute()
        try:
            with pq.ParquetFile(path) as file:
                table = cls(path, file.schema_arrow, file.metadata.num_rows)
        except FileNotFoundError:
            raise EngineError(f"no table at {path}; build it first") from None
        except (pa.ArrowException, OSError, ValueError) as e:
            raise EngineError(f"{path} is not a table ({str(e).splitlines()[0]}); build it again") from None
        if "code" not in table.columns:
            raise EngineError(
                f"{path} has no column 'code', so it is no lookup table; its columns: {', '.join(table.columns)}"
            )
        return table

    def __len__(self) -> int:
        return self._rows

    @property
    def choices(self) -> dict[str, str]:
        """The column of each choice of the space; empty for files from elsewhere."""
        return {name: choice["column"] for name, choice in self.metadata.get("choices", {}).items()}

    @property
    def costs(self) -> tuple[str, ...]:
        """The cost columns; in files from elsewhere, all further columns of numbers."""
        figures = self.metadata.get("columns", self._numeric)
        return tuple(name for name in self.columns if name in figures and name not in (*NAMES, *PREDICTED))

    @property
    def useful(self) -> tuple[str, ...]:
        """All columns but those that say where figures and rows come from."""
        if not self.metadata:
            return self.columns
        hidden = {*PROVENANCE, *map(source_column, self.costs)} - set(self.choices.values())
        return tuple(name for name in self.columns if name not in hidden)

    def query(
        self,
        where: str | None = None,
        sort: str | None = None,
        top: int | None = None,
        columns: Sequence[str] | None = None,
        descending: bool | None = None,
    ) -> pd.DataFrame:
        """Rows that satisfy a condition.

        Args:
            where: such as `latency_ms < 2 and params < 5e5`; see `condition.to_sql` for what it may hold.
            sort: a column; ties in the order of codes. Rows come in the order of the file without it.
            top: so many rows at most.
            columns: those to return; by default the `useful` ones, all are in `columns` of the table.
            descending: by default True for `accuracy`, False for anything else.

        Raises:
            ConfigError: an unknown column, with the nearest one, or a condition that makes no sense.
        """
        names = ", ".join(map(self._quoted, self.useful if columns is None else columns))
        source = "read_parquet($path, file_row_number = true)"
        sql = f"SELECT {names} FROM {source}{self._where(where)}"  # names and condition are checked and quoted
        if sort is not None:
            falling = sort == "accuracy" if descending is None else descending
            first = f"isnan({self._quoted(sort)}::DOUBLE), " if sort in self._numeric else ""
            sql += f' ORDER BY {first}{self._quoted(sort)} {"DESC" if falling else "ASC"} NULLS LAST, "code"'
        elif where is not None:  # `in (...)` may become a join, which forgets the order of the file
            sql += " ORDER BY file_row_number"
        if top is not None:
            if top < 1:
                raise ConfigError(f"the top {top} rows were asked for; at least 1 is needed")
            sql += f" LIMIT {int(top)}"
        return self._ask(sql).df()

    def count(self, where: str | None = None) -> int:
        """Number of rows that satisfy a condition."""
        return int(self._ask(f"SELECT count(*) FROM read_parquet($path){self._where(where)}").fetchone()[0])

    def lookup(self, architecture: Architecture | str) -> dict[str, Any]:
        """The row of an architecture (or of a code) by column; empty where the table has none.

        Tables hold canonical members, so ask for `space.canonical(architecture)`.
        """
        code = architecture if isinstance(architecture, str) else architecture.code
        names = ", ".join(map(self._quoted, self.columns))
        found = self._ask(f'SELECT {names} FROM read_parquet($path) WHERE "code" = $code LIMIT 1', code=code).fetchone()
        return dict(zip(self.columns, found, strict=True)) if found else {}

    def pareto(
        self, objectives: Mapping[str, Direction], where: str | None = None, columns: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Rows that no other row beats in one objective without losing in another, sorted by the first objective.

        The front is found piece by piece, so no more than a piece and the front so far is in memory.

        Args:
            objectives: columns to `max` or `min`, such as `{"accuracy": "max", "latency_ms": "min"}`. Rows without a
                number in one of them are left out.
            where: a condition; rows that fail it beat nobody.
            columns: those to return, as in `query`.
        """
        if not objectives:
            raise ConfigError('a Pareto front needs objectives, such as {"accuracy": "max", "latency_ms": "min"}')
        for name, direction in objectives.items():
            self._quoted(name)
            if name not in self._numeric or direction not in ("max", "min"):
                raise ConfigError(f"objective {name!r}: {direction!r}; give a column of numbers and 'max' or 'min'")
        wanted = list(self.useful if columns is None else columns)
        best, direction = next(iter(objectives.items()))
        read = list(dict.fromkeys([*map(self._known, wanted), best, "code"]))
        frame = self._rows_at(self._front(objectives, where), read)
        frame = frame.sort_values([best, "code"], ascending=[direction == "min", True], ignore_index=True)
        return frame[wanted]

    def _front(self, objectives: Mapping[str, Direction], where: str | None) -> np.ndarray:
        """Places of the non-dominated rows in the file."""
        signs = np.array([-1.0 if d == "max" else 1.0 for d in objectives.values()])
        values = ", ".join(f"{self._quoted(name)}::DOUBLE AS c{i}" for i, name in enumerate(objectives))
        source = "read_parquet($path, file_row_number = true)"
        found = self._ask(f"SELECT file_row_number AS place, {values} FROM {source}{self._where(where)}")
        places, losses = np.zeros(0, dtype=np.int64), np.zeros((0, len(signs)))
        while len(piece := found.fetch_df_chunk(_VECTORS)):
            places = np.concatenate([places, piece.pop("place").to_numpy(dtype=np.int64)])
            losses = np.concatenate([losses, signs * piece.to_numpy(dtype=np.float64, na_value=np.nan)])
            front = pareto(losses)
            places, losses = places[front], losses[front]
        return places

    def iter_batches(self, batch: int = _BATCH, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """All rows in the order of the file, at most `batch` at a time."""
        for name in columns or ():
            self._quoted(name)
        with pq.ParquetFile(self.path) as file:
            yield from file.iter_batches(batch, columns=None if columns is None else list(columns))

    def about(self) -> dict[str, Any]:
        """What the table says of itself and what its footer tells; no row is read.

        Returns:
            path, rows, bytes, row_groups, largest_row_group, space, model, seed, date (None where a file from elsewhere
            does not say), and `columns`: name, kind (name, choice, predicted, cost, source, provenance, other), unit,
            source, smallest, largest, options.
        """
        with pq.ParquetFile(self.path) as file:
            groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
        return {
            "path": str(self.path),
            "rows": len(self),
            "bytes": self.path.stat().st_size,
            "row_groups": len(groups),
            "largest_row_group": max((g.num_rows for g in groups), default=0),
            **{key: self.metadata.get(key) for key in ("space", "model", "seed", "date")},
            "columns": [self._about(i, name, groups) for i, name in enumerate(self.columns)],
        }

    def _about(self, place: int, name: str, groups: Sequence[Any]) -> dict[str, Any]:
        facts = self.metadata.get("columns", {}).get(name, {})
        smallest, largest = _extent([g.column(place).statistics for g in groups])
        options = {choice["column"]: choice["options"] for choice in self.metadata.get("choices", {}).values()}
        return {
            "name": name,
            "kind": self._kind(name),
            "unit": facts.get("unit"),
            "source": facts.get("source"),
            "smallest": smallest,
            "largest": largest,
            "options": options.get(name),
        }

    def _kind(self, name: str) -> str:
        kinds = {
            **dict.fromkeys(self.choices.values(), "choice"),
            **(dict.fromkeys(PROVENANCE, "provenance") if self.metadata else {}),
            **dict.fromkeys(map(source_column, self.costs), "source"),
            **dict.fromkeys(self.costs, "cost"),
            **dict.fromkeys(PREDICTED, "predicted"),
            **dict.fromkeys(NAMES, "name"),
        }
        return kinds.get(name, "other")

    # ---- asking the database -----------------------------------------------------------------------------

    def _rows_at(self, places: np.ndarray, columns: list[str]) -> pd.DataFrame:
        """Columns of the rows at these places of the file, in its order; only row groups that hold some are read."""
        places, start = np.sort(places), 0
        with pq.ParquetFile(self.path) as file:
            schema = pa.schema([_plain(self.schema.field(name)) for name in columns])
            parts = [schema.empty_table()]
            for group in range(file.num_row_groups):
                stop = start + file.metadata.row_group(group).num_rows
                inside = places[np.searchsorted(places, start) : np.searchsorted(places, stop)] - start
                if len(inside):
                    rows = file.read_row_group(group, columns=columns).select(columns)
                    parts.append(rows.take(pa.array(inside)).cast(schema))
                start = stop
        return pa.concat_tables(parts).to_pandas()

    def _where(self, condition: str | None) -> str:
        return "" if condition is None else f" WHERE ({to_sql(condition, self.columns)})"

    def _known(self, column: str) -> str:
        if column not in self.columns:
            raise ConfigError(f"the table has no column {column!r}: {did_you_mean(column, self.columns)}")
        return column

    def _quoted(self, column: str) -> str:
        return quoted(self._known(column))

    def _ask(self, sql: str, **values: Any) -> duckdb.DuckDBPyConnection:
        import duckdb

        try:
            return self._connection.cursor().execute(sql, {"path": str(self.path), **values})
        except duckdb.Error as e:
            if not self.path.exists():
                raise EngineError(f"no table at {self.path} any more; build it again") from None
            raise ConfigError(f"the table cannot answer that ({str(e).splitlines()[0]}); check the condition") from None

    @cached_property
    def _connection(self) -> duckdb.DuckDBPyConnection:
        """A database in memory that may read this one file and nothing else, and cannot be talked out of it."""
        import duckdb

        connection = duckdb.connect(":memory:")
        path = str(self.path).replace("'", "''")
        for setting in (
            f"allowed_paths = ['{path}']",
            "enable_external_access = false",
            "lock_configuration = true",
        ):
            connection.execute(f"SET {setting}")
        return connection

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_connection"}


def _plain(field: pa.Field) -> pa.Field:
    """A column of texts of few values as one of texts."""
    return field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field


def _extent(statistics: Sequence[Any]) -> tuple[Any, Any]:
    """Smallest and largest value of a column by what the footer says of its row groups; None where it does not."""
    told = [s for s in statistics if s is not None and s.has_min_max]
    if not told:
        return None, None
    return min(s.min for s in told), max(s.max for s in told)

"""The lookup table: predictions and costs of a whole space, one row an architecture, as one Parquet file.

Rows are written as they come and read by DuckDB straight from the file, so neither side holds the table in memory.
What made the table, and where each column comes from, stands in the file's own metadata.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from search_spaces.errors import ConfigError, EngineError, did_you_mean
from search_spaces.space import Architecture, SearchSpace

from .condition import to_sql

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

    from .base import Predictor
    from .cost import CostModel

PREDICTED = ("accuracy", "accuracy_std")
_KEY = b"nas_engine"
_ROW_GROUP = 65_536
_DOMINATORS = 256  # rows that rule out most others, and are asked first

Direction = Literal["max", "min"]


# ---- writing -----------------------------------------------------------------------------------------------


def table_metadata(
    space: SearchSpace,
    predictor: Predictor,
    cost_models: Mapping[str, CostModel],
    *,
    seed: int,
    parameters: Mapping[str, Any] | None = None,
    date: str | None = None,
) -> dict[str, Any]:
    """What a table should tell about itself.

    Args:
        seed: of the sampled rows, or of the search they belong to.
        parameters: what the space was made with.
        date: ISO 8601; now, by default.

    Returns:
        `space` (name, parameters, input_shape, classes), `model` (predictor, id, held_out_tau), `seed`, `date`, and for
        each column its `unit` and `source`: analytic, table, measured or predicted.
    """
    predicted = {"unit": "that of the scores learned from", "source": "predicted"}
    return {
        "space": {
            "name": space.name,
            "parameters": dict(parameters or {}),
            "input_shape": list(space.input_shape),
            "classes": space.classes,
        },
        "model": {
            "predictor": predictor.name,
            "id": predictor.id,
            "held_out_tau": None if predictor.held_out is None else predictor.held_out.tau,
        },
        "seed": seed,
        "date": date or datetime.now(UTC).isoformat(timespec="seconds"),
        "columns": {
            **dict.fromkeys(PREDICTED, predicted),
            **{name: {"unit": model.unit, "source": model.source} for name, model in cost_models.items()},
        },
    }


def table_schema(costs: Iterable[str]) -> pa.Schema:
    """Columns of a table: `code`, `id`, `accuracy`, `accuracy_std`, then the costs as float64."""
    texts = [pa.field(name, pa.string(), nullable=False) for name in ("code", "id")]
    return pa.schema([*texts, *(pa.field(name, pa.float64()) for name in (*PREDICTED, *costs))])


def build_rows(
    space: SearchSpace,
    predictor: Predictor,
    cost_models: Mapping[str, CostModel],
    architectures: Iterable[Architecture],
    batch: int = 4096,
) -> Iterator[pa.RecordBatch]:
    """Predict and cost architectures as they come, `batch` at a time.

    Pure: a worker can call it on its share of a space and write the batches to a part of its own.
    """
    schema = table_schema(cost_models)
    sketched = type(space).sketch is SearchSpace.sketch  # then the sketch is the graph, and is not built twice
    remaining = iter(architectures)
    while members := list(islice(remaining, batch)):
        graphs = [space.graph(a) for a in members]
        mean, std = predictor.predict(members, sketches=graphs if sketched else None)
        costs = [np.asarray(model.costs(graphs), dtype=np.float64) for model in cost_models.values()]
        columns = [[a.code for a in members], [a.id for a in members], mean, std, *costs]
        yield pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)


class TableWriter:
    """Writes a table row group by row group; the file appears whole when the writer is closed.

    Leaving the `with` block by an exception removes what was written.

    Args:
        path: of the file; an existing one is replaced on `close`.
        costs: names of the cost columns.
        metadata: JSON-able; see `table_metadata`.
    """

    def __init__(self, path: str | Path, costs: Iterable[str], metadata: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.schema = table_schema(costs).with_metadata({_KEY: json.dumps(metadata)})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.tmp")
        self._writer = pq.ParquetWriter(self._temporary, self.schema, compression="zstd")
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows, with the columns of `schema` in their order."""
        if not batch.schema.equals(self.schema):
            raise EngineError(f"rows with columns {batch.schema.names}; this table has {self.schema.names}")
        self._waiting.append(batch)
        self._rows += len(batch)
        if self._rows >= _ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_batches(self._waiting, self.schema), row_group_size=_ROW_GROUP)
        self._waiting, self._rows = [], 0

    def close(self) -> None:
        """Write what is left and put the file in its place."""
        if self._waiting:
            self._flush()
        self._writer.close()
        self._temporary.replace(self.path)

    def discard(self) -> None:
        """Leave no trace instead."""
        self._writer.close()
        self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


def merge_parts(parts: Sequence[str | Path], path: str | Path) -> int:
    """Concatenate the tables that workers wrote, in this order, into one; returns its number of rows.

    The metadata are those of the first part; parts must agree on columns and on everything but the date.

    Raises:
        EngineError: no parts, or parts that do not belong together.
    """
    tables = [LookupTable.open(part) for part in parts]
    if not tables:
        raise EngineError("there are no parts to merge; build at least one")
    first = tables[0]
    for table in tables[1:]:
        if table.columns != first.columns or {**table.metadata, "date": ""} != {**first.metadata, "date": ""}:
            raise EngineError(f"{table.path} and {first.path} were made by different runs; build all parts again")
    with TableWriter(path, first.costs, first.metadata) as writer:
        for table in tables:
            for batch in table.iter_batches():
                writer.write(pa.RecordBatch.from_arrays(batch.columns, schema=writer.schema))
    return sum(map(len, tables))


# ---- reading -----------------------------------------------------------------------------------------------


class LookupTable:
    """A table on disk, asked with conditions, sorted, and reduced to its Pareto front.

    >>> table = LookupTable.open("table.parquet")  # doctest: +SKIP
    >>> table.query("latency_ms < 2 and params < 5e5", sort="accuracy", top=10)  # doctest: +SKIP

    Attributes:
        path: of the Parquet file.
        columns: names, in the order of the file.
        metadata: what `table_metadata` gave when it was written; empty for files from elsewhere.
    """

    def __init__(self, path: Path, schema: pa.Schema, rows: int) -> None:
        self.path = path
        self.columns = tuple(schema.names)
        self.metadata: dict[str, Any] = json.loads((schema.metadata or {}).get(_KEY, b"{}"))
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
    def costs(self) -> tuple[str, ...]:
        """The cost columns."""
        return tuple(name for name in self.columns if name not in ("code", "id", *PREDICTED))

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
            columns: those to return; all by default.
            descending: by default True for `accuracy`, False for anything else.

        Raises:
            ConfigError: an unknown column, with the nearest one, or a condition that makes no sense.
        """
        names = ", ".join(map(self._quoted, self.columns if columns is None else columns))
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

    def pareto(self, objectives: Mapping[str, Direction], where: str | None = None) -> pd.DataFrame:
        """Rows that no other row beats in one objective without losing in another, sorted by the first objective.

        Args:
            objectives: columns to `max` or `min`, such as `{"accuracy": "max", "latency_ms": "min"}`. Rows without a
                number in one of them are left out.
            where: a condition; rows that fail it beat nobody.
        """
        if not objectives:
            raise ConfigError('a Pareto front needs objectives, such as {"accuracy": "max", "latency_ms": "min"}')
        for name, direction in objectives.items():
            self._quoted(name)
            if name not in self._numeric or direction not in ("max", "min"):
                raise ConfigError(f"objective {name!r}: {direction!r}; give a column of numbers and 'max' or 'min'")
        values = ", ".join(f"{self._quoted(name)}::DOUBLE AS c{i}" for i, name in enumerate(objectives))
        source = "read_parquet($path, file_row_number = true)"
        found = self._ask(f"SELECT file_row_number AS place, {values} FROM {source}{self._where(where)}").fetchnumpy()
        signs = [-1.0 if d == "max" else 1.0 for d in objectives.values()]
        losses = [sign * np.ma.filled(found[f"c{i}"].astype(np.float64), np.nan) for i, sign in enumerate(signs)]
        frame = self._rows_at(np.asarray(found["place"])[pareto(np.stack(losses, axis=1))])
        best, direction = next(iter(objectives.items()))
        return frame.sort_values([best, "code"], ascending=[direction == "min", True], ignore_index=True)

    def iter_batches(self, batch: int = _ROW_GROUP, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """All rows in the order of the file, at most `batch` at a time."""
        for name in columns or ():
            self._quoted(name)
        with pq.ParquetFile(self.path) as file:
            yield from file.iter_batches(batch, columns=None if columns is None else list(columns))

    # ---- asking the database -----------------------------------------------------------------------------

    def _rows_at(self, places: np.ndarray) -> pd.DataFrame:
        """The rows at these places of the file, in its order; only the row groups that hold them are read."""
        places, start = np.sort(places), 0
        with pq.ParquetFile(self.path) as file:
            parts = [file.schema_arrow.empty_table()]
            for group in range(file.num_row_groups):
                stop = start + file.metadata.row_group(group).num_rows
                inside = places[np.searchsorted(places, start) : np.searchsorted(places, stop)] - start
                if len(inside):
                    parts.append(file.read_row_group(group).take(pa.array(inside)))
                start = stop
        return pa.concat_tables(parts).to_pandas()

    def _where(self, condition: str | None) -> str:
        return "" if condition is None else f" WHERE ({to_sql(condition, self.columns)})"

    def _quoted(self, column: str) -> str:
        if column not in self.columns:
            raise ConfigError(f"the table has no column {column!r}: {did_you_mean(column, self.columns)}")
        return '"' + column.replace('"', '""') + '"'

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


def pareto(losses: np.ndarray) -> np.ndarray:
    """Indices of the non-dominated rows, rising; all objectives are minimised.

    A row is dominated if another is nowhere larger and somewhere smaller, so equal rows stay together. Rows with NaN
    are left out.

    Shapes: losses `(n, k)`; a million rows of two or three objectives take seconds.
    """
    losses = np.asarray(losses, dtype=np.float64)
    finite = np.flatnonzero(~np.isnan(losses).any(1))
    if not len(finite):
        return finite
    # ranks instead of values: comparisons stay exact when objectives are added up
    ranks = np.stack([np.unique(column, return_inverse=True)[1] for column in losses[finite].T], axis=1).astype(
        np.int64
    )
    order = np.lexsort((*ranks.T[::-1], ranks.sum(1)))  # a row is never dominated by a later one
    ordered = ranks[order]
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = (ordered[1:] != ordered[:-1]).any(1)
    unique = ordered[fresh]
    keep = _front_of_two(unique) if unique.shape[1] == 2 else _front(unique)
    return np.sort(finite[order[keep[np.cumsum(fresh) - 1]]])


def _front_of_two(points: np.ndarray) -> np.ndarray:
    """Mask of the non-dominated among distinct points of two objectives, by one pass over the sorted first."""
    order = np.lexsort((points[:, 1], points[:, 0]))
    second = points[order, 1]
    best = np.concatenate([[np.iinfo(np.int64).max], np.minimum.accumulate(second)[:-1]])
    keep = np.zeros(len(points), dtype=bool)
    keep[order] = second < best
    return keep


def _front(points: np.ndarray) -> np.ndarray:
    """Mask of the non-dominated among distinct points, of which none is dominated by a later one."""
    keep = np.zeros(len(points), dtype=bool)
    front = points[:0]
    for start in range(0, len(points), 1024):
        block = np.arange(start, min(start + 1024, len(points)))
        for rivals in (front[:_DOMINATORS], front[_DOMINATORS:]):
            block = block[~_dominated(points[block], rivals)]
        block = block[~_dominated(points[block], points[block])]
        keep[block] = True
        front = np.concatenate([front, points[block]])
    return keep


def _dominated(points: np.ndarray, rivals: np.ndarray) -> np.ndarray:
    """Mask of the points to which some other rival is nowhere larger; points and rivals are distinct or the same."""
    result = np.zeros(len(points), dtype=bool)
    for part in np.array_split(np.arange(len(rivals)), max(1, len(rivals) // _DOMINATORS)):
        no_larger = np.ones((len(points), len(part)), dtype=bool)
        same = no_larger.copy()
        for column in range(points.shape[1]):
            no_larger &= rivals[part, column] <= points[:, column, None]
            same &= rivals[part, column] == points[:, column, None]
        result |= (no_larger & ~same).any(1)
    return result

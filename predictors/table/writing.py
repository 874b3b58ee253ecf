"""Writing lookup tables: rows are predicted and costed as they come, and leave memory a row group at a time."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from search_spaces.errors import EngineError
from search_spaces.graph import Graph, Signature
from search_spaces.space import Architecture, Choice, SearchSpace

from .columns import METADATA, Text, few, now, option_type, repeated, table_schema
from .reading import LookupTable

if TYPE_CHECKING:
    from ..base import Predictor
    from ..cost import CostModel

ROW_GROUP = 65_536
_KINDS = ("table", "predicted")


# ---- rows --------------------------------------------------------------------------------------------------


def build_rows(
    space: SearchSpace,
    predictor: Predictor,
    cost_models: Mapping[str, CostModel],
    architectures: Iterable[Architecture],
    batch: int = 4096,
    *,
    seed: int = 0,
    date: str | None = None,
) -> Iterator[pa.RecordBatch]:
    """Predict and cost architectures as they come, `batch` at a time; columns as in `table_schema`.

    Pure: a worker can call it on its share of a space and write the batches to a part of its own.

    Args:
        seed, date: stated in each row; the date is now by default.
    """
    schema = table_schema(space, cost_models)
    sketched = type(space).sketch is SearchSpace.sketch  # then the sketch is the graph, and is not built twice
    options = [_Options(choice) for choice in space.choices]
    sources = [CostSources(model) for model in cost_models.values()]
    model, date = predictor.id, date or now()
    remaining = iter(architectures)
    while members := list(islice(remaining, batch)):
        graphs = [space.graph(a) for a in members]
        mean, std = predictor.predict(members, sketches=graphs if sketched else None)
        places = np.array([a.indices for a in members], dtype=np.int8).T
        columns = [
            *(pa.array(names, pa.string()) for names in ([a.code for a in members], [a.id for a in members])),
            *(column(of) for column, of in zip(options, places, strict=True)),
            *(pa.array(figures, pa.float64()) for figures in (mean, std)),
            *(pa.array(np.asarray(m.costs(graphs), dtype=np.float64)) for m in cost_models.values()),
            *(source(graphs) for source in sources),
            repeated(model, len(members)),
            pa.array(np.full(len(members), seed, dtype=np.int64)),
            repeated(date, len(members)),
        ]
        yield pa.record_batch(columns, schema=schema)


class _Options:
    """The column of a choice, from the positions of options."""

    def __init__(self, choice: Choice) -> None:
        self._type = option_type(choice)
        self._texts = [str(option) for option in choice.options]
        self._values = np.array(choice.options)

    def __call__(self, places: np.ndarray) -> pa.Array:
        return few(places, self._texts) if self._type == Text else pa.array(self._values[places], self._type)


@runtime_checkable
class _KnowsParts(Protocol):
    """A cost model that tells of each part of a network whether it was `measured`."""

    def source_of(self, signature: Signature) -> str: ...


class CostSources:
    """The column that says how a cost is known, for graphs.

    A sum of measured parts is of the table; where a part was interpolated, the sum is a prediction.
    """

    def __init__(self, model: CostModel) -> None:
        self._source = model.source
        self._parts = model if model.source == "table" and isinstance(model, _KnowsParts) else None
        self._measured: dict[Signature, bool] = {}

    def __call__(self, graphs: Sequence[Graph]) -> pa.DictionaryArray:
        if self._parts is None:
            return repeated(self._source, len(graphs))
        self._look_up(self._parts, graphs)
        known = self._measured
        return few([0 if all(known[n.signature] for n in graph.nodes) else 1 for graph in graphs], _KINDS)

    def _look_up(self, parts: _KnowsParts, graphs: Sequence[Graph]) -> None:
        for signature in {node.signature for graph in graphs for node in graph.nodes} - self._measured.keys():
            self._measured[signature] = parts.source_of(signature) == "measured"


# ---- files -------------------------------------------------------------------------------------------------


class TableWriter:
    """Writes a table row group by row group; the file appears whole when the writer is closed.

    What waits to be written is never more than a row group. Leaving the `with` block by an exception removes what was
    written.

    Args:
        path: of the file; an existing one is replaced on `close`.
        schema: the columns, see `table_schema`.
        metadata: JSON-able; see `table_metadata`.
    """

    def __init__(self, path: str | Path, schema: pa.Schema, metadata: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.schema = schema.with_metadata({METADATA: json.dumps(metadata)})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.tmp")
        self._writer = pq.ParquetWriter(self._temporary, self.schema, compression="zstd")
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows, with the columns of `schema` in their order."""
        if not batch.schema.equals(self.schema):
            raise EngineError(f"rows with columns {batch.schema.names}; this table has {self.schema.names}")
        while self._rows + len(batch) >= ROW_GROUP:
            fitting = ROW_GROUP - self._rows
            self._waiting.append(batch.slice(0, fitting))
            self._flush()
            batch = batch.slice(fitting)
        if len(batch):
            self._waiting.append(batch)
            self._rows += len(batch)

    def _flush(self) -> None:
        rows = pa.Table.from_batches(self._waiting, self.schema).unify_dictionaries()
        self._writer.write_table(rows, row_group_size=ROW_GROUP)
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
        if not table.schema.equals(first.schema) or {**table.metadata, "date": ""} != {**first.metadata, "date": ""}:
            raise EngineError(f"{table.path} and {first.path} were made by different runs; build all parts again")
    with TableWriter(path, first.schema, first.metadata) as writer:
        for table in tables:
            for batch in table.iter_batches():
                writer.write(pa.RecordBatch.from_arrays(batch.columns, schema=writer.schema))
    return sum(map(len, tables))

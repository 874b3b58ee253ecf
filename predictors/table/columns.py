"""What stands in a lookup table: its columns, and what the file says of itself.

A row is an architecture (code, id, a column a choice), what it is believed to score, what it costs and how each cost
is known, and where the row comes from. Columns of one value take no space in Parquet, so every row can stand alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from search_spaces.space import Choice, SearchSpace

if TYPE_CHECKING:
    from ..base import Predictor
    from ..cost import CostModel

NAMES = ("code", "id")
PREDICTED = ("accuracy", "accuracy_std")
PROVENANCE = ("model", "seed", "date")
METADATA = b"nas_engine"
"""Key of the file's metadata, JSON."""

Direction = Literal["max", "min"]
Text = pa.dictionary(pa.int8(), pa.string())
"""A text column of few values."""


def source_column(cost: str) -> str:
    """Name of the column that says how a cost is known: analytic, table, measured or predicted."""
    return f"{cost}_source"


def choice_columns(space: SearchSpace, costs: Iterable[str]) -> dict[str, str]:
    """Choice name to column; `choice_` goes before a name that another column has.

    Databases do not tell `Depth` from `depth`, so neither does this.
    """
    costs = list(costs)
    taken = {name.lower() for name in (*NAMES, *PREDICTED, *PROVENANCE, *costs, *map(source_column, costs))}
    columns = {}
    for choice in space.choices:
        column = choice.name
        while column.lower() in taken:
            column = f"choice_{column}"
        taken.add(column.lower())
        columns[choice.name] = column
    return columns


def option_type(choice: Choice) -> pa.DataType:
    """Type of a choice's column: truth values, whole numbers, numbers, or text where options are of several kinds."""
    kinds = {type(option) for option in choice.options}
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return pa.int64()
    return pa.float64() if kinds <= {int, float} else Text


def table_schema(space: SearchSpace, costs: Iterable[str]) -> pa.Schema:
    """Columns of a table in their order.

    `code`, `id`, a column a choice, `accuracy`, `accuracy_std`, the costs, `<cost>_source` of each, and `model` (id of
    the predictor), `seed`, `date` (when the row was predicted, ISO 8601).
    """
    costs = list(costs)
    names = choice_columns(space, costs)
    fields = [
        *(pa.field(name, pa.string(), nullable=False) for name in NAMES),
        *(pa.field(names[choice.name], option_type(choice), nullable=False) for choice in space.choices),
        *(pa.field(name, pa.float64()) for name in (*PREDICTED, *costs)),
        *(pa.field(source_column(name), Text, nullable=False) for name in costs),
        *(pa.field(n, t, nullable=False) for n, t in zip(PROVENANCE, (Text, pa.int64(), Text), strict=True)),
    ]
    return pa.schema(fields)


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
        `space` (name, parameters, input_shape, classes), `choices` (of each its `column` and `options`), `model`
        (predictor, id, held_out_tau, held_out: the verdict in words), `seed`, `date`, and `columns`: of each column of
        figures its `unit` and `source` (analytic, table, measured or predicted).
    """
    predicted = {"unit": "that of the scores learned from", "source": "predicted"}
    held = predictor.held_out
    columns = choice_columns(space, cost_models)
    return {
        "space": {
            "name": space.name,
            "parameters": dict(parameters or {}),
            "input_shape": list(space.input_shape),
            "classes": space.classes,
        },
        "choices": {c.name: {"column": columns[c.name], "options": list(c.options)} for c in space.choices},
        "model": {
            "predictor": predictor.name,
            "id": predictor.id,
            "held_out_tau": None if held is None else held.tau,
            "held_out": None if held is None else held.words,
        },
        "seed": seed,
        "date": date or now(),
        "columns": {
            **dict.fromkeys(PREDICTED, predicted),
            **{name: {"unit": model.unit, "source": model.source} for name, model in cost_models.items()},
        },
    }


def now() -> str:
    """The time in ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def repeated(value: str, count: int) -> pa.DictionaryArray:
    """A text column of one value."""
    return few([0] * count, [value])


def few(places: Sequence[int] | Any, values: Sequence[str]) -> pa.DictionaryArray:
    """A text column of few values, from each row's place among them."""
    return pa.DictionaryArray.from_arrays(pa.array(places, pa.int8()), pa.array(values, pa.string()))

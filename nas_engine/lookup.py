"""What is asked of lookup tables and of the models behind them: rows, fronts, what a table is, single architectures.

The command line's `table` and `predict` are thin over these functions; they give plain rows and change nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces import Architecture, SearchSpace
from search_spaces.errors import ConfigError, RunError

from .context import Context
from .quality import ACCURACY, Quality
from .run import Run, config_at
from .store import is_uri

if TYPE_CHECKING:
    import pandas as pd

    from predictors.table import Direction, LookupTable

    from .config import Config

Row = dict[str, Any]
TOP = 10
"""Rows of an answer where no number is given."""


# ---- tables ------------------------------------------------------------------------------------------------


def config_of(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration in a file, in the directory or under the URI of a run, or of the run of this name."""
    if is_uri(path):
        return config_at(path, overrides)
    path = Path(path)
    named = Path("results") / path
    return config_at(named if not path.exists() and (named / "config.yaml").is_file() else path, overrides)


def open_table(path: str | Path) -> LookupTable:
    """The table in a Parquet file, or of a run.

    Raises:
        EngineError: no such file or no lookup table in it.
        RunError: no such run, or it has no table yet.
    """
    file = Path(path)
    if not is_uri(path) and (file.is_file() or file.suffix == ".parquet"):
        from predictors.table import LookupTable

        return LookupTable.open(file)
    return Run.open(path).table


def quality_at(path: str | Path) -> Quality:
    """What the accuracies of a table are shown as: that of its run's data; accuracy, where a table lies alone."""
    file = Path(path)
    if is_uri(path) or not (file.is_file() or file.suffix == ".parquet"):
        return Run.open(path).config.data.quality
    config = file.parent.parent / "config.yaml"
    return config_at(config).data.quality if config.is_file() else ACCURACY


def ask(
    table: LookupTable,
    where: str | None = None,
    sort: str | None = None,
    top: int | None = None,
    columns: str | None = None,
    pareto: str | None = None,
) -> pd.DataFrame:
    """Rows of a table as the command line is asked for them.

    Args:
        where: a condition.
        sort: a column; by default `accuracy` where the table has it, or the first objective of a front.
        top: so many rows at most; by default 10, and all of a front.
        columns: names with commas between them, or `all`; by default the useful ones.
        pareto: objectives with commas between them: only rows that no other beats in all of them. `accuracy` is better
            when it is larger, all else when it is smaller.
    """
    chosen = table.columns if columns == "all" else None if columns is None else _names("--columns", columns)
    if top is not None and top < 1:
        raise ConfigError(f"the top {top} rows were asked for; at least 1 is needed")
    if pareto is None:
        first = "accuracy" if "accuracy" in table.columns else None
        return table.query(where, sort or first, top or TOP, chosen)
    objectives: dict[str, Direction] = {n: "max" if n == "accuracy" else "min" for n in _names("--pareto", pareto)}
    wanted = list(chosen or table.useful)
    if sort is None:
        front = table.pareto(objectives, where, wanted)
    else:
        front = table.pareto(objectives, where, list(dict.fromkeys([*wanted, sort, "code"])))
        front = front.sort_values([sort, "code"], ascending=[sort != "accuracy", True], ignore_index=True)[wanted]
    return front if top is None else front.head(top)


def _names(option: str, text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names) or len(set(names)) != len(names):
        raise ConfigError(f"{option} {text!r} is not a list of different columns such as accuracy,latency_ms")
    return names


# ---- architectures -----------------------------------------------------------------------------------------


def read_architectures(given: str, space: SearchSpace) -> list[Architecture]:
    """Architectures in a file, or the one that a code names.

    A file holds an architecture as `Architecture.to_json` writes it or as the `architecture.json` of a bundle has it, a
    list of them, or one or a code a line.

    Raises:
        ConfigError: no such file and no code, or a file with nothing in it.
        SpaceError: an architecture that is none of this space.
    """
    path = Path(given)
    if not path.is_file():
        if len(given) == len(space.choices) and re.fullmatch("[0-9A-Za-z]+", given):
            return [space.decode(given)]
        raise ConfigError(
            f"there is no file {given!r}, and it is no code of space {space.name!r}, which has {len(space.choices)} "
            "characters; give a file as Architecture.to_json writes it, or copy a code from a table"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"cannot read {given!r}: {e}") from None
    found = [_architecture(item, space) for item in _items(text)]
    if not found:
        raise ConfigError(f"{given!r} holds no architecture; write one with Architecture.to_json")
    return found


def _items(text: str) -> Iterator[Any]:
    """What a file holds: the members of a JSON list, a JSON object, or something a line."""
    try:
        whole = json.loads(text)
    except ValueError:
        yield from (_line(line.strip()) for line in text.splitlines() if line.strip())
        return
    if isinstance(whole, list):
        yield from whole
    else:
        yield whole if isinstance(whole, Mapping) else text.strip()  # a code may be all digits: JSON reads a number


def _line(line: str) -> Any:
    try:
        read = json.loads(line)
    except ValueError:
        return line
    return read if isinstance(read, Mapping) else line


def _architecture(item: Any, space: SearchSpace) -> Architecture:
    if isinstance(item, Mapping) and isinstance(item.get("architecture"), Mapping):  # as bundles hold it
        item = item["architecture"]
    if isinstance(item, Mapping):
        return space.from_json(json.dumps(item))
    if isinstance(item, str):
        return space.decode(item.strip('"'))
    raise ConfigError(f"{item!r} is no architecture; give what Architecture.to_json writes, or codes as texts")


# ---- predictions -------------------------------------------------------------------------------------------


def predict(run: Run, architectures: Sequence[Architecture]) -> list[Row]:
    """What a run believes of architectures of its space, whether its table has them or not.

    Returns:
        A row each: architecture (id, code, choices), canonical (id and code of the representative of all that are the
        same network, same: whether that is the architecture itself), accuracy (value, std), costs (name to value, unit
        and source), model (predictor, id, held_out), seed, date, and table: the representative's row, None without one.

    Raises:
        RunError: the run has no predictor yet.
    """
    from predictors.base import load_predictor
    from predictors.table import CostSources, now

    if run.directory.done("predict") is None:
        raise RunError(f"run {run.path.name!r} has no predictor yet; make it with: {run.command_until('table')}")
    space, costs = run.space, Context(run.config).costs
    sources = {name: CostSources(cost) for name, cost in costs.items()}
    predictor = load_predictor(run.path / "predict" / "model", space)
    held = predictor.held_out
    model = {"predictor": predictor.name, "id": predictor.id, "held_out": None if held is None else held.words}
    stated = {"model": model, "seed": run.config.seed, "date": now()}
    table = run.table if run.directory.done("table") is not None else None
    rows = []
    for architecture, mean, std in zip(architectures, *predictor.predict(architectures), strict=True):
        graph, canonical = space.graph(architecture), space.canonical(architecture)
        figures = {
            name: {"value": cost.cost(graph), "unit": cost.unit, "source": sources[name]([graph])[0].as_py()}
            for name, cost in costs.items()
        }
        rows.append(
            {
                "architecture": {**_names_of(architecture), "choices": architecture.values},
                "canonical": {**_names_of(canonical), "same": canonical == architecture},
                "accuracy": {"value": float(mean), "std": float(std)},
                "costs": figures,
                **stated,
                "table": (table.lookup(canonical) or None) if table is not None else None,
            }
        )
    return rows


def _names_of(architecture: Architecture) -> Row:
    return {"id": architecture.id, "code": architecture.code}


# ---- trained networks --------------------------------------------------------------------------------------


def meeting(rows: list[dict[str, Any]], where: str) -> list[dict[str, Any]]:
    """The rows for which a condition holds, read as the lookup table reads it."""
    import duckdb
    import pyarrow as pa

    from predictors.condition import to_sql

    networks = pa.Table.from_pylist([{**row, "position": i} for i, row in enumerate(rows)])
    condition = to_sql(where, [name for name in networks.column_names if name != "position"])
    with duckdb.connect(":memory:") as connection:
        connection.register("networks", networks)
        try:
            found = connection.execute(f"SELECT position FROM networks WHERE ({condition})").fetchall()
        except duckdb.Error as e:
            raise ConfigError(f"{where!r} cannot be answered ({str(e).splitlines()[0]}); check the condition") from None
    return [rows[position] for (position,) in sorted(found)]

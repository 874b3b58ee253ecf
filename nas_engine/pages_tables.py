"""What the command line shows of lookup tables and of predictions: texts and tables for `show.show`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from .quality import ACCURACY, Quality
from .shapes import OF_DATA
from .show import MISSING, TITLES, count, figure, is_number, table, whole

Row = Mapping[str, Any]
FEW_CHOICES = 8
"""Columns of choices that are shown unasked; more make lines that nobody can read, and the code says the same."""


def query(rows: Sequence[Row], choices: Collection[str] = (), quality: Quality = ACCURACY) -> Iterator[Any]:
    """Rows of a lookup table; those in `choices`, where there are many, are left out and said to be."""
    if not rows:
        yield "no member of the table meets the condition"
        return
    hidden = set(choices) if len(choices) > FEW_CHOICES else set()
    heads = {"accuracy": quality.name, "accuracy_std": "accuracy +/-"}
    yield table(rows, [name for name in rows[0] if name not in hidden], quality=quality, **heads)
    if hidden:
        yield f"{len(hidden)} columns of choices are left out, the code says the same; --columns all shows everything"
    if "accuracy" in rows[0]:
        scale = "on the scale of what was learned from: good for ranking, not what training gives"
        yield f"{quality.name} is predicted {scale}"


def info(about: Row) -> Iterator[Any]:
    """What a table is: its size, where it comes from, and its columns."""
    groups = f"{about['row_groups']} row group{'' if about['row_groups'] == 1 else 's'}"
    yield f"table   {about['path']}"
    yield (
        f"size    {whole(about['rows'])} rows, {len(about['columns'])} columns, {groups} of up to "
        f"{whole(about['largest_row_group'])} rows, {count(about['bytes'], 'B')} on disk"
    )
    yield from _origin(about)
    yield ""
    yield table([_column(c) for c in about["columns"]], ("column", "what", "unit", "source", "range"))


def _origin(about: Row) -> Iterator[str]:
    if about["model"] is None:
        yield "origin  not told: the file was not written by nas-engine"
        return
    space, model = about["space"], about["model"]
    given = {k: v for k, v in space["parameters"].items() if k not in OF_DATA}
    told = "".join(f", {name} {value}" for name, value in given.items())
    shape = " x ".join(map(str, space["input_shape"]))
    yield f"space   {space['name']}, input {shape}, {space['classes']} classes{told}"
    yield f"model   {model['predictor']} {model['id']}"
    yield f"        {_verdict(model)}"
    yield f"made    {about['date']}, seed {about['seed']}"


def _verdict(model: Row) -> str:
    if model.get("held_out"):
        return f"on members held out of the fit: {model['held_out']}"
    return "how well it ranks members that were held out of the fit is not known"


def _column(column: Row) -> dict[str, str]:
    name, options = column["name"], column["options"]
    if options is not None:
        extent = ", ".join(map(str, options))
    elif column["smallest"] is None:
        extent = MISSING
    elif column["smallest"] == column["largest"]:
        extent = _value(column, column["smallest"])
    else:
        extent = f"{_value(column, column['smallest'])} to {_value(column, column['largest'])}"
    known = {key: column[key] or "" for key in ("unit", "source")}
    return {"column": name, "what": column["kind"], **known, "range": extent}


def _value(column: Row, value: Any) -> str:
    return figure(column["name"], value) if is_number(value) and column["kind"] in ("predicted", "cost") else str(value)


def predict(rows: Sequence[Row]) -> Iterator[Any]:
    """What a run believes of single architectures."""
    for row in rows:
        yield from _prediction(row)
        yield ""
    model = rows[0]["model"]
    yield f"model {model['predictor']} {model['id']}, seed {rows[0]['seed']}, {rows[0]['date']}"
    yield _verdict(model)


def _prediction(row: Row) -> Iterator[Any]:
    own, canonical, accuracy = row["architecture"], row["canonical"], row["accuracy"]
    yield f"architecture {own['id']}, code {own['code']}"
    yield "  " + ", ".join(f"{name} {option}" for name, option in own["choices"].items())
    if canonical["same"]:
        yield "  is its own canonical form"
    else:
        yield f"  is the same network as its canonical form {canonical['id']}, code {canonical['code']}"
    value, std = figure("accuracy", accuracy["value"]), figure("accuracy", accuracy["std"])
    figures = [{"figure": "accuracy", "value": f"{value} +/- {std}", "unit": "", "source": "predicted"}]
    figures += [
        {"figure": TITLES.get(n, n), "value": figure(n, c["value"]), "unit": c["unit"], "source": c["source"]}
        for n, c in row["costs"].items()
    ]
    yield table(figures, ("figure", "value", "unit", "source"), right=("value",))
    yield _in_table(row["table"])


def _in_table(found: Row | None) -> str:
    if found is None:
        return "  the table has no row of the canonical form"
    shown = {k: v for k, v in found.items() if k in TITLES}
    listed = ", ".join(f"{TITLES[k]} {figure(k, v)}" for k, v in shown.items())
    return f"  its row in the table, made {found.get('date', 'at a time not told')}: {listed}"

"""What the command line shows of a trained graph network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .quality import QUALITIES
from .show import count, duration, table

Row = Mapping[str, Any]


def trained(found: Row) -> Iterator[Any]:
    """The result of a training."""
    memory, model, quality = found["memory"], found["model"], QUALITIES[found["quality"]]
    yield ""
    yield f"{_layers(model)}; best of {found['epochs']} epochs: {found['best_epoch']}"
    rows = [
        {"figure": f"{quality.name}, {part}", "value": quality.words(found[part], 2)} for part in ("validation", "test")
    ]
    rows += [
        {"figure": "parameters", "value": count(found["params"])},
        {"figure": "peak memory of a step", "value": count(memory["peak"], "B")},
        {"figure": "  weights and optimiser", "value": count(memory["kept"], "B")},
        {"figure": "  held after the forward pass", "value": count(memory["held"], "B")},
        {"figure": "time of a step", "value": f"{found['step_seconds']:.3g} s"},
    ]
    yield table(rows, ("figure", "value"), right=("value",), figure="", value="")
    way = "" if model["connection"] == "equilibrium" else f", memory {memory['memory']}"
    yield (
        f"memory measured on a step of {memory['nodes']:,} nodes and {memory['edges']:,} edges{way}; "
        "the data are not counted"
    )
    yield ""
    yield f"weights: {found['weights']}"
    yield f"graph:   {found['graph']}"
    yield f"bundle:  {found['bundle']}"
    yield f"took {duration(found['seconds'])}"


def _layers(model: Row) -> str:
    kind = model["conv"] if isinstance(model["conv"], str) else f"{len(set(model['conv']))} kinds of"
    if model["connection"] == "equilibrium":
        return f"the equilibrium of one layer of a {kind} convolution, {model['width']} wide"
    tied = ", weights tied" if model["tied"] else ""
    return f"{model['depth']} layers of {kind} convolutions, {model['width']} wide, {model['connection']}{tied}"

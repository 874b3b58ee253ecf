"""The contract of cost models and their registry.

A cost model gives one number for a graph, smaller is better, with its unit in its name. Most costs are sums over a
graph's nodes, and nodes share interned signatures: such a model is one number a signature and a look-up a node.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import ConfigError
from search_spaces.graph import Graph, Signature
from search_spaces.registry import Registry

Source = Literal["analytic", "table", "measured", "predicted"]


class CostModel(ABC):
    """What a network costs. Deterministic: equal graphs cost the same as long as the model lives.

    Class attributes:
        name: registered name, with the unit where it is not obvious (`latency_ms`, `bytes_moved`).
        unit: unit of the numbers, for axes and tables.
        source: `analytic` (counted from the graph), `table` (summed from measured parts), `measured` (each network
            itself), `predicted` (a fitted model of whole networks).
    """

    name: ClassVar[str] = ""
    unit: ClassVar[str] = ""
    source: ClassVar[Source] = "analytic"

    @abstractmethod
    def cost(self, graph: Graph) -> float:
        """Cost of one example (or of the model's batch, where it has one) of one network."""

    def costs(self, graphs: Iterable[Graph]) -> NDArray[np.float64]:
        """Costs of many networks, in order; `graphs` is read once and need not fit into memory."""
        return np.fromiter(map(self.cost, graphs), np.float64)


class SignatureCosts(dict[Signature, float]):
    """Numbers by signature, computed by `compute` when first asked for."""

    def __init__(self, compute: Callable[[Signature], float]) -> None:
        super().__init__()
        self._compute = compute

    def __missing__(self, signature: Signature) -> float:
        value = self[signature] = self._compute(signature)
        return value


cost_models: Registry[type[CostModel]] = Registry("cost model", ConfigError)
register_cost_model = cost_models.named
"""Class decorator: files a `CostModel` under `name`."""


def make_cost_model(name: str) -> CostModel:
    """The analytic cost model called `name`; the others are built for a space and a device by their own `build`.

    Raises:
        ConfigError: an unknown name, or a model that has to be measured first.
    """
    cls = cost_models[name]
    if cls.source != "analytic":
        ready = ", ".join(n for n, c in cost_models.items() if c.source == "analytic")
        made = next(f"{cls.__name__}.{how}" for how in ("build", "measure", "fit", "from_json") if hasattr(cls, how))
        raise ConfigError(f"cost model {name!r} is made from measurements: use {made}; ready ones: {ready}")
    return cls()

"""The cost of a whole network, learned from N measurements of a device that is not at hand.

A network is counted in what a device may execute, and a Gaussian process adds the counts up and learns what a sum does
not explain. Measurements of other devices may be given: a few of their patterns then say most of what a new device
does, and some twenty measurements are enough.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import DataError, did_you_mean
from search_spaces.graph import Graph

from .base import CostModel, Source, register_cost_model
from .blocks import BlockCounts
from .process import Process
from .transfer import OtherDevices

if TYPE_CHECKING:
    from search_spaces.space import Architecture, SearchSpace

Floats = NDArray[np.float64]
_FORMAT = 1
_AT_ONCE = 4096
_LEAST = 5  # measurements


@dataclass(frozen=True)
class RegressionSettings:
    """What is the same for all devices and spaces.

    Attributes:
        offset: added to a cost before its logarithm is taken, in medians of the measurements: relative errors count
            for networks far above it, absolute ones below.
        spread: standard deviation of the logarithmic length scales under their prior.
        spread_beside: the same where other devices are known, which leave less to find out.
        steps: of the optimiser, for the scales.
        most: measurements, at most, that the model rests on; a random choice of more.
        folds: parts of the measurements, each left out once, that show the errors; 0 leaves the errors out.
    """

    offset: float = 1.0
    spread: float = 2.0
    spread_beside: float = 0.5
    steps: int = 40
    most: int = 1500
    folds: int = 5


SETTINGS = RegressionSettings()


@dataclass(frozen=True)
class HeldOut:
    """Errors of measured networks that the model was not fitted to.

    Attributes:
        spearman: rank correlation of predicted and measured costs.
        kendall_tau: the same by pairs.
        within_10_percent: share of the networks that are predicted within 10 % of their measurement.
        median_error: median of |predicted / measured - 1|.
        networks: number of networks.
    """

    spearman: float
    kendall_tau: float
    within_10_percent: float
    median_error: float
    networks: int

    @classmethod
    def of(cls, measured: Floats, predicted: Floats) -> HeldOut:
        """Errors of predictions."""
        from scipy.stats import kendalltau, spearmanr

        off = np.abs(predicted / measured - 1)
        varied = np.ptp(predicted) > 0 and np.ptp(measured) > 0
        return cls(
            float(spearmanr(measured, predicted).statistic) if varied else 0.0,
            float(kendalltau(measured, predicted).statistic) if varied else 0.0,
            float((off <= 0.1).mean()),
            float(np.median(off)),
            len(measured),
        )


@register_cost_model("regression")
class Regression(CostModel):
    """A cost that was measured for some networks and is predicted for all of their space.

    `Regression.fit` makes one, `from_json` reads one. `log(cost + offset)` is modelled.

    Attributes:
        space: the space whose graphs are told apart.
        quantity: name of the cost, `latency_ms` say.
        held_out: errors on measurements left out of fitting; None where that was not asked for.
        measurements: number of networks the model rests on.
    """

    unit = "that of the measurements"
    source: ClassVar[Source] = "predicted"

    def __init__(
        self,
        space: SearchSpace,
        counts: BlockCounts,
        process: Process,
        *,
        quantity: str,
        unit: str,
        offset: float,
        least: float,
        others: OtherDevices | None = None,
        held_out: HeldOut | None = None,
    ) -> None:
        self.space, self.counts, self.process = space, counts, process
        self.quantity, self.unit = quantity, unit  # type: ignore[misc]
        self.offset, self.least = offset, least
        self.others, self.held_out = others, held_out

    # ---- fitting -----------------------------------------------------------------------------------------

    @classmethod
    def fit(
        cls,
        space: SearchSpace,
        architectures: Sequence[Architecture],
        values: Sequence[float] | NDArray[Any],
        *,
        name: str = "latency_ms",
        unit: str = "ms",
        priors: OtherDevices | None = None,
        seed: int = 0,
        settings: RegressionSettings = SETTINGS,
        counter: BlockCounts | None = None,
        counts: Floats | None = None,
    ) -> Regression:
        """The model of a device from measurements of some networks.

        Args:
            space: of the networks.
            architectures: the measured networks, 5 or more.
            values: their costs in `unit`, above 0.
            name: of the cost.
            priors: what other devices do in this space, from `OtherDevices.learn`.
            seed: of the folds, and of the choice where there are more than `settings.most`.
            settings: the same for all devices, as a rule.
            counter: how the networks of the space are counted, where that is known already.
            counts: `counter.of` the graphs of the architectures, where they are known already.

        Raises:
            DataError: too few measurements, or values that are no costs.
        """
        cost = _checked(architectures, values)
        counter = priors.counts if priors is not None else counter or BlockCounts(space)
        points = counter.of(map(space.graph, architectures)) if counts is None else counts
        if priors is not None:
            priors.check(space)
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(cost))[: settings.most]
        points, cost = points[order], cost[order]
        beside = None if priors is None else priors.of(points)
        made = cls._made(space, counter, points, cost, beside, settings, name, unit, priors)
        if settings.folds:
            made.held_out = made._left_out(points, cost, beside, settings)
        return made

    @classmethod
    def _made(
        cls,
        space: SearchSpace,
        counter: BlockCounts,
        points: Floats,
        cost: Floats,
        beside: Floats | None,
        settings: RegressionSettings,
        name: str,
        unit: str,
        priors: OtherDevices | None,
    ) -> Regression:
        offset = settings.offset * float(np.median(cost))
        spread = settings.spread if priors is None else settings.spread_beside
        process = Process.fit(points, np.log(cost + offset), beside, spread=spread, steps=settings.steps)
        least = float(cost.min()) / 2
        return cls(space, counter, process, quantity=name, unit=unit, offset=offset, least=least, others=priors)

    def _left_out(self, points: Floats, cost: Floats, beside: Floats | None, settings: RegressionSettings) -> HeldOut:
        """Cross-validation, with everything found anew without the fold."""
        folds = np.arange(len(cost)) % min(settings.folds, len(cost))
        predicted = np.empty(len(cost))
        for fold in np.unique(folds):
            rest, out = folds != fold, folds == fold
            known = None if beside is None else beside[rest]
            part = self._made(
                self.space,
                self.counts,
                points[rest],
                cost[rest],
                known,
                settings,
                self.quantity,
                self.unit,
                self.others,
            )
            predicted[out] = part.of_counts(points[out])[0]
        return HeldOut.of(cost, predicted)

    # ---- predicting --------------------------------------------------------------------------------------

    def cost(self, graph: Graph) -> float:
        return float(self.costs([graph])[0])

    def costs(self, graphs: Iterable[Graph]) -> Floats:
        return self._read(iter(graphs))[0]

    def predict(self, architectures: Iterable[Architecture]) -> tuple[Floats, Floats]:
        """Cost of members and its standard deviation (of a single measurement, noise included), both `(m,)`."""
        return self._read(map(self.space.graph, architectures))

    def _read(self, graphs: Iterable[Graph]) -> tuple[Floats, Floats]:
        graphs = iter(graphs)
        means, stds = [np.zeros(0)], [np.zeros(0)]
        while part := list(islice(graphs, _AT_ONCE)):
            mean, std = self.of_counts(self.counts.of(part))
            means.append(mean)
            stds.append(std)
        return np.concatenate(means), np.concatenate(stds)

    def of_counts(self, counts: Floats) -> tuple[Floats, Floats]:
        """Cost and standard deviation of networks that are counted already, `(m, F)`."""
        mean, std = self.process.predict(counts, None if self.others is None else self.others.of(counts))
        shifted = np.exp(mean)
        return np.maximum(shifted - self.offset, self.least), shifted * std

    @cached_property
    def measurements(self) -> int:
        return len(self.process.target)

    def summary(self) -> dict[str, Any]:
        """For reports: what was learned from, and the errors on what was left out."""
        return {
            "quantity": self.quantity,
            "unit": self.unit,
            "measurements": self.measurements,
            "other_devices": [] if self.others is None else list(self.others.names),
            "held_out": self.held_out and asdict(self.held_out),
        }

    # ---- storing -----------------------------------------------------------------------------------------

    def to_json(self) -> str:
        """Everything the model knows but the space; `from_json` gives a model with the same costs."""
        data = {
            "format": _FORMAT,
            "space": self.space.name,
            "quantity": self.quantity,
            "unit": self.unit,
            "offset": self.offset,
            "least": self.least,
            "columns": self.counts.columns,
            "points": self.process.points.tolist(),
            "beside": self.process.others.tolist(),
            "process": self.process.to_dict(),
            "others": self.others and self.others.to_dict(),
            "held_out": self.held_out and asdict(self.held_out),
        }
        return json.dumps(data)

    @classmethod
    def from_json(cls, text: str, space: SearchSpace) -> Regression:
        """Inverse of `to_json`; raises `DataError` for anything else, and for a model of another space."""
        try:
            data = json.loads(text)
            if data["format"] != _FORMAT:
                raise ValueError(f"format {data['format']}, expected {_FORMAT}")
            if data["space"] != space.name:
                raise ValueError(f"it is of space {data['space']!r}, not of {space.name!r}")
            counts = BlockCounts(space, data["columns"])
            points = np.asarray(data["points"], dtype=np.float64).reshape(-1, len(counts))
            beside = np.asarray(data["beside"], dtype=np.float64).reshape(len(points), -1)
            return cls(
                space,
                counts,
                Process.from_dict(data["process"], points, beside),
                quantity=data["quantity"],
                unit=data["unit"],
                offset=data["offset"],
                least=data["least"],
                others=data["others"] and OtherDevices.from_dict(data["others"], counts),
                held_out=data["held_out"] and HeldOut(**data["held_out"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as e:
            told = f"{type(e).__name__}: {e}"
            raise DataError(f"not a regression of costs ({told}); expected what Regression.to_json writes") from None


def read_measurements(space: SearchSpace, path: Path, column: str) -> tuple[list[Architecture], Floats]:
    """Measured networks of a table in CSV or Parquet, for `Regression.fit`.

    A column `code` (`Architecture.code`) or `arch_str` (the space's own notation) names the networks. Rows without a
    measurement (missing, or not above 0) are left out.

    Raises:
        DataError: no such file or column.
        SpaceError: a name that is not of the space.
    """
    import pandas as pd

    if not path.is_file():
        raise DataError(f"no file {path}; give a CSV or Parquet table with columns code (or arch_str) and {column}")
    frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype={"code": str})
    if column not in frame:
        raise DataError(f"{path.name} has no column {column!r}: {did_you_mean(column, map(str, frame.columns))}")
    read: dict[str, Any] = {"code": space.decode, "arch_str": getattr(space, "from_text", None)}
    naming = next((name for name, reader in read.items() if name in frame and reader is not None), None)
    if naming is None:
        raise DataError(f"{path.name} does not name its networks; add a column 'code' with codes of {space.name!r}")
    values = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=np.float64)
    measured = np.flatnonzero(np.isfinite(values) & (values > 0))
    return [read[naming](str(frame[naming].iloc[i])) for i in measured], values[measured]


def _checked(architectures: Sequence[Architecture], values: Sequence[float] | NDArray[Any]) -> Floats:
    cost = np.asarray(values, dtype=np.float64)
    if cost.shape != (len(architectures),):
        raise DataError(f"{len(architectures)} architectures with values of shape {cost.shape}; give one value each")
    if len(cost) < _LEAST:
        raise DataError(f"{len(cost)} measurements; a cost model needs {_LEAST} or more")
    if not (np.isfinite(cost).all() and (cost > 0).all()):
        wrong = cost[~(np.isfinite(cost) & (cost > 0))][0]
        raise DataError(f"a measured cost of {wrong}; costs are above 0, so leave out what was not measured")
    return cost

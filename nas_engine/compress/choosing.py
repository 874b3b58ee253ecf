"""Which cut: scores of a criterion, an allocator's order, and the first cut in it that meets the targets.

Scores and latency models are kept in files of the compression's directory; all else follows from them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
from torch import Tensor

from search_spaces.coupling import Gated
from search_spaces.errors import UnsatisfiableError
from search_spaces.graph import Graph

from ..data import DataSplits
from ..files import write_text
from . import verdict
from .allocation import Allocator, Cut, Limits, allocators, suited, vector_multiple
from .criteria import Criterion, Scores, criteria, score
from .request import Request, made
from .subject import Subject
from .targets import Budget, Target, latency_along
from .workplace import Workplace

Stage = Callable[[str, str, Callable[[], dict[str, Any]]], dict[str, Any]]
_SHARE = 30  # part of the time granted for measuring that each network gets in each setting
_ROUNDS, _NEAR = 3, 1.03  # of cutting for a latency, and how near to the target is met


class Choosing:
    """Chooses cuts of one network.

    Args:
        stage: does a piece of work once and tells of it: `stage(name, title, work)`.
    """

    def __init__(self, request: Request, place: Workplace, subject: Subject, data: DataSplits, stage: Stage) -> None:
        self.request, self.place, self.subject, self.data = request, place, subject, data
        self._stage = stage

    @property
    def measure_s(self) -> float:
        """Seconds that each network is measured for in each setting."""
        return self.request.device.measure_seconds / _SHARE

    @cached_property
    def device(self) -> dict[str, Any]:
        """The device's profile, the channels that fill a vector of it, and the multiple that widths are rounded to."""
        from predictors.cost import DeviceProfile

        asked = self.request.device

        def found() -> dict[str, Any]:
            profile = DeviceProfile.detect(
                runtime=asked.runtime, device=asked.name, threads=asked.threads, batch=asked.batch
            )
            vector = vector_multiple(profile.processor, asked.name)
            return {"profile": profile.to_dict(), "vector": vector, "multiple": self.request.multiple or vector}

        return self.place.once("device", found)

    # ---- scores ------------------------------------------------------------------------------------------

    def criterion(self) -> Criterion:
        """A fresh one."""
        asked = self.request.criterion
        return made("criterion", criteria[asked.name], asked.name, asked.settings, self.request.seed)

    def calibration(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Training images without augmentation, the same ones each time."""
        request = self.request
        walk = self.data.walk(self.data.train, request.batch_size, seed=request.seed, device=request.device.name)
        return islice(iter(walk), -(-request.images // request.batch_size))

    @cached_property
    def scores(self) -> Scores:
        """Of the network as it came."""
        found = self._stage("scores", f"units judged by {self.request.criterion.name}", self._judged)
        units, blocks = (None if found[k] is None else np.array(found[k]) for k in ("units", "blocks"))
        return Scores(units=units, blocks=blocks)

    def _judged(self) -> dict[str, Any]:
        network, coupling = self.subject.network.to(self.request.device.name), self.subject.coupling
        started = time.perf_counter()
        found = score(self.criterion(), Gated(network, coupling), self.calibration())
        network.cpu()
        seconds = time.perf_counter() - started
        parts = {k: None if v is None else v.tolist() for k, v in (("units", found.units), ("blocks", found.blocks))}
        told = f"{coupling.count} units, {len(coupling.blocks)} removable blocks, {seconds:.1f} s"
        return {**parts, "seconds": seconds, "text": told}

    # ---- cuts --------------------------------------------------------------------------------------------

    @property
    def allocation(self) -> str:
        """The allocation asked for, or the one that goes with the scores."""
        if self.request.allocation or self.scores.units is None:
            return self.request.allocation or "blocks"
        return suited(criteria[self.request.criterion.name])

    def allocator(self, scores: Scores, name: str = "", multiple: int | None = None) -> Allocator:
        request = self.request
        limits = Limits(request.min_keep, request.max_ratio, multiple or self.device["multiple"])
        comparable = self.criterion().comparable
        return allocators[name or self.allocation](self.subject.coupling, scores, limits, comparable)

    @cached_property
    def budget(self) -> Budget:
        return Budget(self.subject.coupling, self.request.goals, self._costs)

    @cached_property
    def _costs(self) -> dict[str, Any]:
        """Cost models of the targets, and of what is reported."""
        from predictors.cost import make_cost_model

        metrics = dict.fromkeys((*verdict.COUNTED, *(t.metric for t in self.request.goals)))
        return {m: self._latency_model() if m == "latency_ms" else make_cost_model(m) for m in metrics}

    def _latency_model(self) -> Any:
        """Measured once, along the way that the scores of the whole network show."""
        from predictors.cost import DeviceProfile, LatencyModel

        path, seconds = self.place.file("latency_model.json"), self.request.device.measure_seconds

        def measured() -> dict[str, Any]:
            profile = DeviceProfile.from_dict(self.device["profile"])
            model = latency_along(self.allocator(self.scores), profile, seconds, self.request.seed)
            write_text(path, model.to_json())
            return {"text": f"{len(model.measured)} operators measured, {len(model.networks)} whole networks"}

        self._stage("latency", f"operators of cuts measured for up to {seconds:.0f} s", measured)
        return LatencyModel.from_json(path.read_text(encoding="utf-8"))

    def at_once(self) -> Cut:
        """The cut by the scores of the whole network.

        Raises:
            UnsatisfiableError: a target below what can be reached.
        """
        allocator = self.allocator(self.scores)
        cut = self.budget.solve(allocator)
        timed = [t for t in self.request.goals if t.metric == "latency_ms"]
        return self._by_measuring(allocator, cut, timed[0]) if timed else cut

    def keep(self, scores: Scores, way: float) -> np.ndarray:
        """(units,) what is left at a share of the way to the targets, as schedules ask."""
        return self.budget.solve(self.allocator(scores), way).keep

    def _by_measuring(self, allocator: Allocator, cut: Cut, asked: Target) -> Cut:
        """A cut that meets a latency as it is measured, as the model's sums of operators are only near to it."""
        tightened = asked.value
        for _ in range(_ROUNDS):
            got = self._latency_of(cut, asked)
            if got <= asked.value * _NEAR:
                break
            tightened *= asked.value / got
            aims = [Target(t.metric, tightened, t.relative) if t is asked else t for t in self.budget.targets]
            try:
                cut = Budget(self.subject.coupling, aims, self._costs).solve(allocator)
            except UnsatisfiableError:
                break
        return cut

    def _latency_of(self, cut: Cut, asked: Target) -> float:
        """Measured, in the unit of a target."""
        device = self.request.device
        setting = verdict.Setting(device.runtime, device.batch)
        graphs = {"before": self.subject.coupling.graph, "after": cut.graph(self.subject.coupling)}
        found = verdict.measured(graphs, setting, device.threads, self.measure_s, device.name)
        return found["after"].median_ms / (found["before"].median_ms if asked.relative else 1.0)

    def described(self, cut: Cut) -> dict[str, Any]:
        """A cut with its costs, in plain values."""
        costs = self.budget.costs(cut.graph(self.subject.coupling))
        shares = {k: v / self.budget.base[k] for k, v in costs.items()}
        words = ", ".join(f"{k} {v:.3f}x" for k, v in shares.items())
        return {**cut.to_dict(self.subject.coupling), "costs": costs, "shares": shares, "text": words}

    def others(self, cut: Cut) -> Mapping[str, Graph]:
        """Other cuts to no more MACs by what they are: with widths rounded where they are not, and by whole blocks."""
        coupling, vector = self.subject.coupling, self.device["vector"]
        goal = Target("macs", float(cut.graph(coupling).cost.macs))
        budget = Budget(coupling, [goal], {"macs": self._costs["macs"]})
        tries: dict[str, tuple[str, int | None]] = {}
        if self.device["multiple"] < vector and self.allocation != "blocks":
            tries[f"rounding to {vector}"] = ("", vector)
        if coupling.blocks and self.scores.blocks is not None and not cut.without:
            tries["leaving out {} whole blocks instead"] = ("blocks", None)
        found = {}
        for name, (allocation, multiple) in tries.items():
            try:
                other = budget.solve(self.allocator(self.scores, allocation, multiple))
            except UnsatisfiableError:
                continue
            found[name.format(len(other.without))] = other.graph(coupling)
        return found

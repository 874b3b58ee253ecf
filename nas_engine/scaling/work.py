"""The way from a network to its family on a device: cost it, find the members, measure them, export and draw them.

Each piece leaves a file in one directory, so a scaling that is killed goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces.errors import GraphError, SpaceError, UnsatisfiableError
from search_spaces.graph import Graph
from search_spaces.scaling import Compound, Rule, Scaling

from ..compress.targets import Target
from ..compress.workplace import Stages, Workplace
from ..export import exporters
from ..files import Progress, write_json, write_text
from ..interrupt import never
from ..progress import silent
from .base import Base, make_base, resolution
from .costing import Coster, Costs, factors, latency_of, reachable
from .handing import export, report
from .page import render
from .planes import axes, corners, planes
from .request import Request
from .solving import Place, Seeker, limits_of, measured_to_fit

if TYPE_CHECKING:
    from predictors.cost import DeviceProfile, Measurement

_STEPS = 4  # members along each rule that the latency model is measured on, where none are given
_SHARE = 30  # part of the time granted for measuring that each network gets
_GUESSED = (0.5, 3.0)  # latency and arithmetic differ by so much at most, before anything is known
Row = dict[str, Any]


def scale(
    request: Request,
    out: Path,
    *,
    progress: Progress = silent,
    stop: Callable[[], bool] = never,
    command: str = "",
) -> dict[str, Any]:
    """Scale a network, or go on with it.

    Args:
        request: what is asked for; a directory that was begun with something else is refused.
        out: the directory; `report.json`, `scaling.html` and `members/` in it are what users take away.
        progress: listens to events, see `nas_engine.progress`.
        stop: asked between pieces of work; once true it ends with `Interrupted`, and the same call goes on.
        command: how the user goes on, for messages.

    Returns:
        The report; see `docs/scaling.md`.

    Raises:
        ConfigError, GraphError, SpaceError: a network or options that cannot be used, or not be scaled by the rule.
        UnsatisfiableError: targets that no member of the rule meets, with the lowest cost of one.
        RunError: the directory is in use, or of another request.
        ExportError: a member whose exported form does not reproduce it.
    """
    return Work(request, Workplace(out, command), progress, stop).run()


@dataclass
class Work:
    """A scaling under way."""

    request: Request
    place: Workplace
    progress: Progress = silent
    stop: Callable[[], bool] = never

    def run(self) -> dict[str, Any]:
        for form in self.request.formats:
            _ = exporters[form]
        with self._by(self.request.rule):  # says what is wrong with the network before a directory is made
            self._check(self.request.rule, self._rule)
        asked = {**self.request.model_dump(mode="json"), "network": self.base.graph.id}
        with self.place.held(asked):
            started, spent = time.perf_counter(), self.place.spent
            _ = self.latency
            found = self._stage("members", "members of every rule", self._members)
            measured = self._measured(found["members"])
            drawn = self._stage(
                "planes", "costs over depth, width and resolution", lambda: self._planes(found["members"])
            )
            device, latency = self.profile.to_dict(), self.latency.summary()
            told = report(self.request, self.base, self.place, found, measured, device, latency)
            self._stage.ask()
            told["bundles"] = export(self.request, self.base, self.place, told, self.progress)
            told["seconds"] = spent + time.perf_counter() - started
            told["page"] = str(self.place.file("scaling.html"))
            write_text(self.place.file("scaling.html"), render(told, found["paths"], drawn))
            write_json(self.place.file("report.json"), told)
            return told

    @property
    def _stage(self) -> Stages:
        return Stages(self.place, self.progress, self.stop)

    @cached_property
    def base(self) -> Base:
        return make_base(self.request)

    # ---- costs -------------------------------------------------------------------------------------------

    @cached_property
    def profile(self) -> DeviceProfile:
        from predictors.cost import DeviceProfile

        asked = self.request.device

        def found() -> dict[str, Any]:
            return DeviceProfile.detect(
                runtime=asked.runtime, device=asked.name, threads=asked.threads, batch=asked.batch
            ).to_dict()

        return DeviceProfile.from_dict(self.place.once("device", found))

    @cached_property
    def latency(self) -> Any:
        """The latency model, measured along the rules as far as they are asked for."""
        from predictors.cost import LatencyModel

        path, seconds = self.place.file("latency_model.json"), self.request.device.measure_seconds
        own = self._times({"base": self.base.graph}, "base")["base"]["median_ms"]  # also sets up the runtime

        def measured() -> dict[str, Any]:
            graphs = list(self._ways(own).values())
            model = latency_of(graphs, self.profile, seconds, self.request.seed, self._share)
            write_text(path, model.to_json())
            return {"text": f"{len(model.measured)} operators measured, {len(model.networks)} whole networks"}

        self._stage("latency", f"operators of scaled networks measured for up to {seconds:.0f} s", measured)
        return LatencyModel.from_json(path.read_text(encoding="utf-8"))

    def _share(self, share: float, text: str) -> None:
        self.progress("step", {"text": f"{text} (%)", "done": round(100 * share), "total": 100})

    def _ways(self, own_ms: float) -> dict[Scaling, Graph]:
        """Networks along all rules, as far as members may lie, and at the corners of what is drawn."""
        low, high = self._span(own_ms)
        steps = [self.request.factor(phi) for phi in self.request.phis] or factors(low, high, _STEPS)
        scalings = [self._at(rule, f) for rule in self.request.rules.values() for f in steps]
        last = self._at(self._rule, high if high > 1 else low)
        return reachable(self.base, [Scaling(), *scalings, *corners(last, axes(scalings, 2))])

    def _at(self, rule: Rule, factor: float) -> Scaling:
        """The multipliers at a factor; at whole steps of phi they are to the digit what the formula gives."""
        phis = [phi for phi in self.request.phis if self.request.factor(phi) == factor]
        return rule.scaling(phis[0]) if phis and isinstance(rule, Compound) else rule.at(factor)

    def _span(self, own_ms: float) -> tuple[float, float]:
        """The smallest and the largest factor of arithmetic of members, 1 among them.

        Args:
            own_ms: latency of the network itself.
        """
        request = self.request
        timed = [t for t in request.goals if t.metric == "latency_ms"]
        if not request.to:
            ends = [request.factor(phi) for phi in request.phis]
        elif timed:
            ratio = limits_of(timed, {"latency_ms": own_ms})["latency_ms"] / own_ms
            ends = [ratio * (_GUESSED[0] if ratio < 1 else _GUESSED[1])]
        else:
            costs = Coster()
            limits = limits_of(request.goals, costs(self.base.graph))
            ends = [f for rule in request.rules.values() for f in self._tried(rule, costs, limits)]
        return min(1.0, *ends), max(1.0, *ends)

    def _tried(self, rule: Rule, costs: Coster, limits: Mapping[str, float]) -> list[float]:
        try:
            return [Seeker(self.base, rule, costs, limits).largest().factor]
        except (SpaceError, GraphError, UnsatisfiableError):
            if rule == self._rule:
                raise
            return []

    @property
    def _rule(self) -> Rule:
        return self.request.rules[self.request.rule]

    @cached_property
    def costs(self) -> Coster:
        return Coster(self.latency)

    # ---- members -----------------------------------------------------------------------------------------

    def _members(self) -> dict[str, Any]:
        """The network itself, then the members of every rule; and why other rules have none."""
        rows, impossible = [self._row("", 0, 1.0, Scaling())], {}
        for name, rule in self.request.rules.items():
            try:
                self._check(name, rule)
                rows += self._by_target(name, rule) if self.request.to else self._by_phi(name, rule)
            except (SpaceError, GraphError, UnsatisfiableError) as e:
                with self._by(name):
                    if name == self.request.rule:
                        raise
                impossible[name] = str(e)
        paths = {name: self._path(rule, rows) for name, rule in self.request.rules.items() if name not in impossible}
        last = next(row for row in reversed(rows) if row["rule"] == self.request.rule)
        text = f"{len(rows) - 1}, the last of {self.request.rule}: {last['input'][1]} pixels, {last['macs']:,.0f} MACs"
        return {"members": rows, "impossible": impossible, "paths": paths, "text": text}

    @contextmanager
    def _by(self, rule: str) -> Iterator[None]:
        """Say of which network and which rule a problem is."""
        name = self.base.name
        try:
            yield
        except (SpaceError, GraphError, UnsatisfiableError) as e:
            raise type(e)(f"{name} by rule {rule!r}: {e}") from None

    def _check(self, name: str, rule: Rule) -> None:
        """Refuse a rule that leaves the network as it is."""
        factor = 4.0 if self.request.to or (self.request.phi or 0) > 0 else 0.25
        if self.base.scaled(rule.at(factor)) == self.base.graph:
            raise SpaceError(
                f"{name} leaves the network as it is; it has no stage of like blocks to repeat or to leave out"
                if name == "depth"
                else f"{name} leaves the network as it is"
            )

    def _by_phi(self, name: str, rule: Rule) -> list[Row]:
        found = []
        for phi in self.request.phis:
            factor = self.request.factor(phi)
            found.append(self._row(name, phi, factor, self._at(rule, factor)))
        return found

    def _by_target(self, name: str, rule: Rule) -> list[Row]:
        """The largest member within the targets; a latency is met as it is measured."""
        self._stage.ask()
        self.progress("step", {"text": f"the member by {name}", "done": 0, "total": None})
        own = self.costs(self.base.graph)
        timed = [t for t in self.request.goals if t.metric == "latency_ms"]
        limits = limits_of(self.request.goals, own)
        if not timed:
            place = Seeker(self.base, rule, self.costs, limits).largest()
            return [self._row(name, None, place.factor, place.scaling)]
        tightest = min(timed, key=lambda t: t.limit(own["latency_ms"]))
        found = self.place.once(f"member-{name}", lambda: self._fitted(rule, limits, tightest))
        return [self._row(name, None, found["factor"], Scaling(**found["scaling"]))]

    def _fitted(self, rule: Rule, limits: Mapping[str, float], asked: Target) -> dict[str, Any]:
        own = self.costs(self.base.graph)["latency_ms"]

        def seek(limit: float) -> Place:
            return Seeker(self.base, rule, self.costs, {**limits, "latency_ms": limit}).largest()

        def measure(place: Place) -> float:
            found = self._timed({"base": self.base.graph, "member": self.base.scaled(place.scaling)})
            got = found["member"].low_ms  # of the undisturbed device, as the model's are
            return got / found["base"].low_ms * own if asked.relative else got

        place, got = measured_to_fit(seek, measure, limits["latency_ms"])
        return {"factor": place.factor, "scaling": asdict(place.scaling), "measured": got}

    def _row(self, rule: str, phi: float | None, factor: float, scaling: Scaling) -> Row:
        graph = self.base.scaled(scaling)
        own, costs = self.costs(self.base.graph), self.costs(graph)
        return {
            "rule": rule,
            "phi": phi,
            "label": label(rule, phi),
            "factor": factor,
            **asdict(scaling),
            "input": [graph.inputs[0].shape[0], *resolution(graph)],
            **costs,
            "shares": {name: value / own[name] if own[name] else 1.0 for name, value in costs.items()},
            "id": graph.id,
        }

    def _path(self, rule: Rule, rows: Iterable[Row]) -> list[Costs]:
        """Costs along a rule, from one end of its members to the other."""
        own = [row["factor"] for row in rows]
        scalings = [rule.at(f) for f in factors(min(own), max(own))]
        return [{"factor": s.macs, **self.costs(g)} for s, g in reachable(self.base, scalings).items()]

    # ---- measuring ---------------------------------------------------------------------------------------

    def _measured(self, rows: list[Row]) -> dict[str, dict[str, float]]:
        """Latencies by label: at each step the base and the member of the rule, at the last those of all rules."""
        chosen = [row for row in rows if row["rule"] == self.request.rule]
        rivals = [row for row in rows if row["rule"] and row not in chosen and row["phi"] == chosen[-1]["phi"]]
        found: dict[str, dict[str, float]] = {}
        for i, row in enumerate(chosen):
            group = [rows[0], row, *(rivals if row is chosen[-1] else [])]
            graphs = {r["label"]: self.base.scaled(_scaling(r)) for r in group}
            found |= self._times(graphs, f"measure-{i}")
        return found

    def _times(self, graphs: Mapping[str, Graph], name: str) -> dict[str, dict[str, float]]:
        """Latencies of some networks taken in turns, once."""

        def work() -> dict[str, Any]:
            found = {label: asdict(m) for label, m in self._timed(graphs).items()}
            return {"times": found, "text": ", ".join(f"{k} {m['median_ms']:.3g} ms" for k, m in found.items())}

        listed = ", ".join(graphs)
        return dict(self._stage(name, f"latency of {listed}, in turns", work)["times"])

    def _timed(self, graphs: Mapping[str, Graph]) -> dict[str, Measurement]:
        from predictors.cost import NetworkTimer

        seconds = self.request.device.measure_seconds / _SHARE
        return dict(zip(graphs, NetworkTimer(self.profile)(list(graphs.values()), seconds), strict=True))

    # ---- drawing -----------------------------------------------------------------------------------------

    def _planes(self, rows: list[Row]) -> dict[str, Any]:
        last = next(row for row in reversed(rows) if row["rule"] == self.request.rule)
        along = axes([_scaling(row) for row in rows], self.request.grid)
        return planes(self.base, self.costs, _scaling(last), along, self._points)

    def _points(self, done: int, total: int) -> None:
        self._stage.ask()
        self.progress("step", {"text": "networks costed", "done": done, "total": total})


def label(rule: str, phi: float | None) -> str:
    """What a member is called.

    >>> label("", 0), label("dwr", 2), label("compound", None)
    ('base', 'dwr phi 2', 'compound')
    """
    if not rule:
        return "base"
    return rule if phi is None else f"{rule} phi {phi:g}"


def _scaling(row: Mapping[str, Any]) -> Scaling:
    return Scaling(row["depth"], row["width"], row["resolution"])

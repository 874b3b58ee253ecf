"""Structured probabilistic pruning (SPP: Wang et al. 2018, arXiv 1709.06994): random masks with odds by importance.

Each training step draws what is masked by the probabilities of `probabilities`; a masked weight gets no gradient, no
decay and no momentum, so it comes back as it went. `spp` draws channels, which surgery cuts; `spp_columns` columns.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from search_spaces.coupling import NONE
from search_spaces.errors import ConfigError

from ..columns import ColumnMask, Layer, column_layers, columns, dead_units, hidden_weight, mask_columns
from ..criteria.base import score
from ..masked import MaskedGated
from .base import Plan, Schedule, at_least, register_schedule
from .probabilities import Probabilities, Rules, target_count

_INTERVAL = 180  # iterations, in the paper
_RATE = 0.05  # A of the paper
_UPDATES = 7.5  # times 1 / A: updates until ranks that hardly change have settled all probabilities


class Held:
    """Weights that a step of the optimiser must leave as they are, with what it remembers of them."""

    def __init__(self, optimizer: torch.optim.Optimizer, hidden: Iterator[tuple[nn.Parameter, Tensor]]) -> None:
        self._held = [(p, where, p.detach().clone(), _memory(optimizer, p)) for p, where in hidden]

    def restore(self, optimizer: torch.optim.Optimizer) -> None:
        """Put the hidden entries back; what the optimiser had not remembered before the step is 0."""
        with torch.no_grad():
            for parameter, where, before, memory in self._held:
                parameter.copy_(torch.where(where, before, parameter))
                for key, now in optimizer.state[parameter].items():
                    if isinstance(now, Tensor) and now.shape == parameter.shape:
                        now.copy_(torch.where(where, memory.get(key, torch.zeros_like(now)), now))


def _memory(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, Tensor]:
    state = optimizer.state.get(parameter, {})
    return {k: v.clone() for k, v in state.items() if isinstance(v, Tensor) and v.shape == parameter.shape}


class Probabilistic(Schedule):
    """What both forms share: draws, updates every so many iterations, weights held while they are masked.

    In evaluation mode the mask keeps what is masked in less than half of the steps. Batch norms see random masks, so
    their statistics are to be taken anew before the network is judged, see `nas_engine.evaluate.recalibrate`.

    Args:
        every: iterations from one update of the probabilities to the next (t of the paper); None for as many as let
            it be done after about two thirds of the training, 180 (the paper's) at most.
        rate: the largest increment (A); None for 0.05 (the paper's), or more where the training is too short for that.
        symmetry: u. increment: "exponential" or "linear".
        seed: of the draws.
    """

    def __init__(
        self,
        every: int | None = None,
        rate: float | None = None,
        symmetry: float = 0.25,
        increment: str = "exponential",
        seed: int = 0,
    ) -> None:
        at_least("every", 1 if every is None else every, 1)
        at_least("seed", seed, 0)
        self._asked, self._asked_rate, self._seed = every, rate, seed
        self._rules = Rules(_RATE if rate is None else rate, symmetry, increment)
        self.layers: dict[str, Probabilities] = {}
        self._iterations = self._forced = 0
        self._finished_at: int | None = None
        self._held: Held | None = None

    def begin(self, plan: Plan) -> None:
        super().begin(plan)
        if self._asked_rate is None:
            self._rules = replace(self._rules, rate=self._pressure())
        self._every = self._asked or self._pace()
        self._iterations = self._forced = 0
        self._finished_at, self._held = None, None
        self.layers = {n: Probabilities(np.zeros(size), target, self._rules) for n, size, target in self._sizes()}
        self._show()

    @property
    def finished(self) -> bool:
        return all(layer.finished for layer in self.layers.values())

    def observe(self, inputs: Tensor, targets: Tensor, epoch: int, step: int) -> None:
        if self._finished_at is not None:
            return
        if self._iterations % self._every == 0:
            for name, importance in self._importance().items():
                self.layers[name].update(importance)
        if self.finished:
            self._finished_at = self._iterations
        rng = np.random.default_rng([self._seed, epoch, step])
        self._show({name: layer.draw(rng) for name, layer in self.layers.items()})

    def before_step(self, optimizer: torch.optim.Optimizer, epoch: int, step: int) -> None:
        self._held = None if self._finished_at is not None else Held(optimizer, self._hidden())

    def after_step(self, optimizer: torch.optim.Optimizer, epoch: int, step: int) -> None:
        self._iterations += 1
        if self._held is not None:
            self._held.restore(optimizer)
            self._held = None

    def complete(self) -> None:
        if not self.finished:
            for name, importance in self._importance().items():
                self._forced += self.layers[name].complete(importance)
            self._finished_at = self._iterations
            self._show()

    @property
    def _room(self) -> float:
        """Iterations in which it should be done; 0 where the length of the training is not known."""
        return self.plan.epochs * self.plan.batches * 2 / 3

    def _pressure(self) -> float:
        """The largest increment: more than the paper's where the training has room for fewer updates than it takes."""
        return min(1.0, max(_RATE, _UPDATES * (self._asked or 1) / self._room)) if self._room else _RATE

    def _pace(self) -> int:
        """The interval that gives the updates which ranks that hardly change need."""
        return min(_INTERVAL, max(1, int(self._room * self._rules.rate / _UPDATES))) if self._room else _INTERVAL

    def _show(self, drawn: dict[str, np.ndarray] | None = None) -> None:
        """Set the masks: of evaluation by the probabilities, of training by a draw (the same, without one)."""
        keep = {name: layer.p < 0.5 for name, layer in self.layers.items()}
        self._mask(keep, keep if drawn is None else drawn)

    @abstractmethod
    def _sizes(self) -> Iterator[tuple[str, int, int]]:
        """Name, number of units and how many of them go, of each layer."""

    @abstractmethod
    def _importance(self) -> dict[str, np.ndarray]:
        """The importance of each layer's units, as if none but those gone were masked."""

    @abstractmethod
    def _mask(self, keep: dict[str, np.ndarray], drawn: dict[str, np.ndarray]) -> None:
        """Set the masks of evaluation and of training."""

    @abstractmethod
    def _hidden(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Parameters with what the draw masks of them, bool in their shape."""

    def report(self) -> dict[str, Any]:
        """Counts by layer and in all; a recovery is a probability that went down before its layer was finished."""
        layers = {
            name: {
                "units": len(layer.p),
                "target": layer.target,
                "gone": int(layer.gone.sum()),
                "recoveries": layer.falls,
                "rescued": layer.rescued,
            }
            for name, layer in self.layers.items()
        }
        return {
            **super().report(),
            "every": self._every,
            "rate": self._rules.rate,
            "iterations": self._finished_at,
            "forced": self._forced,
            "recoveries": sum(layer.falls for layer in self.layers.values()),
            "rescued": sum(layer.rescued for layer in self.layers.values()),
            "layers": layers,
        }

    def state_dict(self) -> dict[str, Any]:
        layers = {name: layer.state_dict() for name, layer in self.layers.items()}
        targets = {name: layer.target for name, layer in self.layers.items()}
        return {
            "iterations": self._iterations,
            "finished_at": self._finished_at,
            "forced": self._forced,
            "targets": targets,
            "layers": layers,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["layers"].keys() != self.layers.keys():
            raise ConfigError("the checkpoint was written with other layers to prune; start with a new one")
        self._iterations, self._finished_at = state["iterations"], state["finished_at"]
        self._forced = state["forced"]
        for name, layer in self.layers.items():
            layer.target = state["targets"][name]
            layer.load_state_dict(state["layers"][name])


@register_schedule("spp")
class SppChannels(Probabilistic):
    """SPP on the units of the coupling: the target says how many of each group go, by the first scores.

    The importance is that of the plan's criterion, scored anew at every update by the calibration batches; magnitudes
    (the paper's choice) need none. Units are ranked within their group.
    """

    def _sizes(self) -> Iterator[tuple[str, int, int]]:
        keep = self.plan.choose(self.plan.scores(), 1.0)
        for group in self.plan.masked.coupling.groups:
            yield group.name, len(group), int((~keep[group.units]).sum())

    def _importance(self) -> dict[str, np.ndarray]:
        masked, gone = self.plan.masked, {name: ~layer.gone for name, layer in self.layers.items()}
        left = torch.from_numpy(self._together(gone)).to(masked.keep)
        units = score(
            self.plan.criterion(),
            MaskedGated(masked.network, masked.coupling, lambda: left),
            self.plan.calibration(),
        ).units
        if units is None:
            raise ConfigError("SPP ranks units, and this criterion gives them no scores; choose another")
        return {group.name: units[group.units] for group in masked.coupling.groups}

    def _together(self, parts: dict[str, np.ndarray]) -> np.ndarray:
        """(units,) from vectors by group."""
        coupling = self.plan.masked.coupling
        whole = coupling.all()
        for group in coupling.groups:
            whole[group.units] = parts[group.name]
        return whole

    def _mask(self, keep: dict[str, np.ndarray], drawn: dict[str, np.ndarray]) -> None:
        self._drawn = self._together(drawn)
        self.plan.masked.mask(self._together(keep), self._drawn)

    def _hidden(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        masked = self.plan.masked
        for name, parameter in masked.network.named_parameters():
            hidden = torch.zeros((1,) * parameter.dim(), dtype=torch.bool)
            for axis, units in enumerate(masked.coupling.tensors.get(name, ())):
                if units is not None:
                    shape = [1] * parameter.dim()
                    shape[axis] = len(units)
                    off = (units != NONE) & ~self._drawn[units]
                    hidden = hidden | torch.from_numpy(off).reshape(shape)
            if hidden.any():
                yield parameter, hidden.to(parameter.device)


@register_schedule("spp_columns")
class SppColumns(Probabilistic):
    """SPP on the columns of weights, the units of the paper: widths stay, so sums of branches need no care.

    The importance is the L1 norm of a column. Each layer (each group of a grouped convolution) loses exactly
    `ceil(ratio * columns)`; the plan's criterion and allocator are not asked. Masks are used as `columns` says.

    Args:
        ratio: the share of the columns of each layer that goes.
        ratios: other shares of single layers, by name.
        linear: whether linear layers lose columns too; the paper prunes convolutions.
    """

    masks = "columns"

    def __init__(
        self, ratio: float = 0.5, ratios: dict[str, float] | None = None, linear: bool = False, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self._ratios, self._ratio, self._linear = dict(ratios or {}), ratio, linear
        for value in (ratio, *self._ratios.values()):
            if not 0 <= value < 1:
                raise ConfigError(f"a ratio is the share of columns that goes, from 0 to below 1; got {value}")

    def begin(self, plan: Plan) -> None:
        found = dict(column_layers(plan.masked.network, self._linear))
        for name in self._ratios:
            if name not in found:
                raise ConfigError(f"no layer {name!r} has columns to lose; those that have: {', '.join(found)}")
        self._columns: dict[str, tuple[Layer, ColumnMask]] = {n: (x, mask_columns(x)) for n, x in found.items()}
        super().begin(plan)

    def _sizes(self) -> Iterator[tuple[str, int, int]]:
        for name, (_, mask) in self._columns.items():
            groups, size = mask.keep.shape
            for group in range(groups):
                yield _key(name, group), size, target_count(self._ratios.get(name, self._ratio), size)

    def _importance(self) -> dict[str, np.ndarray]:
        found = {}
        for name, (layer, _) in self._columns.items():
            norms = columns(layer, hidden_weight(layer).detach()).abs().sum(1).cpu().numpy()
            found.update({_key(name, group): row.astype(np.float64) for group, row in enumerate(norms)})
        return found

    def _mask(self, keep: dict[str, np.ndarray], drawn: dict[str, np.ndarray]) -> None:
        for name, (_, mask) in self._columns.items():
            rows = [_key(name, group) for group in range(len(mask.keep))]
            both = (torch.from_numpy(np.stack([part[row] for row in rows])) for part in (keep, drawn))
            mask.mask(*both)

    def _hidden(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        for layer, mask in self._columns.values():
            original = hidden_weight(layer)
            yield original, mask.shaped(original, mask.drawn) == 0

    def report(self) -> dict[str, Any]:
        """The same, and how many channels no weight reads any more, which surgery can cut; see `dead_units`."""
        masked = self.plan.masked
        return {**super().report(), "dead_units": int(dead_units(masked.network, masked.coupling).sum())}


def _key(name: str, group: int) -> str:
    return f"{name}#{group}" if group else name

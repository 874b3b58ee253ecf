"""Importance by the Taylor expansion of the loss (Molchanov et al. 2019, arXiv 1906.10771).

The importance of a unit is the squared change of the loss when it goes, estimated from derivatives by a gate that
multiplies it. Squares are taken for each mini-batch: at a minimum the gradient of the whole set is zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from search_spaces.errors import ConfigError, did_you_mean

from .base import Criterion, Scores, register_criterion
from .curvature import derivatives, linear_groups
from .gates import ones
from .losses import losses
from .makers import Rows, made_rows, other_axes, per_unit

if TYPE_CHECKING:
    from search_spaces.coupling import Coupling, Gated

FORMS = ("gate", "weight", "second")


@register_criterion("taylor")
class Taylor(Criterion):
    """Squared change of the loss when a unit or a block goes, to first or second order, averaged over mini-batches.

    Args:
        form: "gate": (dE/dz)^2 of the gate z of a unit, after batch norm and activation, summed over all places that
            read it before the square (the joint form); "second": (-dE/dz + 1/2 d2E/dz2)^2 with the exact diagonal of
            the Hessian; "weight": the sum of (g w)^2 over the weights that make the unit (the individual form).
        examples: square for each example instead of each mini-batch ("full gradient"); not with "weight".
        power: 2 as in the paper; 1 averages absolute changes, which few examples with a large loss rule less.
        batches: look at the first so many batches only, as the second order is dear; None for all.

    Raises:
        ConfigError: settings that are not known or do not go together.
    """

    needs = frozenset({"gradients", "labels"})
    additive = True

    def __init__(self, form: str = "gate", examples: bool = False, power: int = 2, batches: int | None = None) -> None:
        if form not in FORMS:
            raise ConfigError(f"unknown form of taylor {form!r}: {did_you_mean(form, FORMS)}")
        if examples and form == "weight":
            raise ConfigError("taylor by weights has no gradients of single examples: use form 'gate' or 'second'")
        if power not in (1, 2):
            raise ConfigError(f"taylor takes power 1 or 2, not {power!r}: 2 is that of the paper")
        if batches is not None and batches < 1:
            raise ConfigError(f"taylor needs one batch or more, not {batches}: leave batches out to use all")
        self.form, self.examples, self.power, self.batches = form, examples, power, batches

    def begin(self, gated: Gated) -> None:
        super().begin(gated)
        coupling = gated.coupling
        self._units, self._blocks = np.zeros(coupling.count), np.zeros(len(coupling.blocks))
        self._seen = 0.0
        self._batches = 0
        self._linear = linear_groups(coupling) if self.form == "second" else np.zeros(0, dtype=bool)

    def observe(self, inputs: Tensor, targets: Tensor) -> None:
        if self._batches == self.batches:
            return
        look = {"gate": self._gate, "second": self._second, "weight": self._weight}[self.form]
        units, blocks = look(inputs, targets)
        self._units += units
        self._blocks += blocks
        self._batches += 1
        self._seen += len(inputs) if self.examples else 1

    def finish(self) -> Scores:
        return Scores(units=self._units / self._seen, blocks=self._blocks / self._seen)

    def _gate(self, inputs: Tensor, targets: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Powers of the derivatives by gates of 1: of the mean loss, or summed over examples."""
        coupling = self.gated.coupling
        copies = (len(inputs),) if self.examples else ()
        gates = ones(self.gated, inputs, *copies, coupling.count, learned=True)
        blocks = ones(self.gated, inputs, *copies, len(coupling.blocks), learned=True)
        with torch.enable_grad():
            each = losses(self.gated(inputs, gates, blocks), targets)
            loss = each.sum() if self.examples else each.mean()
        found = torch.autograd.grad(loss, [gates, blocks], materialize_grads=True)
        units, branches = (self._powers(g) for g in found)
        return units, branches

    def _second(self, inputs: Tensor, targets: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Powers of the quadratic model of the loss at gates of 0."""
        d = derivatives(self.gated, inputs, targets, self._linear)
        changes = d.units_second / 2 - d.units, d.blocks_second / 2 - d.blocks
        units, blocks = (self._powers(c if self.examples else c.mean(0)) for c in changes)
        return units, blocks

    def _powers(self, changes: Tensor) -> np.ndarray:
        """Powers of the changes of a batch's loss `(n,)`, or their sums over examples `(B, n)`."""
        powers = changes.double().abs() ** self.power
        return (powers.sum(0) if self.examples else powers).cpu().numpy()

    def _weight(self, inputs: Tensor, targets: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Sums of powers of g w over the rows that make a unit, and over all parameters of a branch."""
        coupling, network = self.gated.coupling, self.gated.network
        rows = list(made_rows(coupling))
        inside = [_parameters_of(coupling, network, i) for i in range(len(coupling.blocks))]
        names = list(dict.fromkeys([*(r.tensor for r in rows), *(name for branch in inside for name in branch)]))
        powers = dict(zip(names, self._products(names, inputs, targets), strict=True))
        units = np.zeros(coupling.count)
        for row in rows:
            units += _row_sums(powers[row.tensor], row, coupling.count)
        return units, np.array([sum(powers[name].sum() for name in branch) for branch in inside])

    def _products(self, names: list[str], inputs: Tensor, targets: Tensor) -> list[np.ndarray]:
        """|g w|^power of parameters, g the gradient of the mean loss; frozen parameters too."""
        parameters = [self.gated.network.get_parameter(name) for name in names]
        learned = [p.requires_grad for p in parameters]
        try:
            for p in parameters:
                p.requires_grad_(True)
            with torch.enable_grad():
                loss = losses(self.gated(inputs), targets).mean()
            gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
        finally:
            for p, was in zip(parameters, learned, strict=True):
                p.requires_grad_(was)
        pairs = zip(gradients, parameters, strict=True)
        return [np.abs((g * p.detach()).double().cpu().numpy()) ** self.power for g, p in pairs]


def _row_sums(powers: np.ndarray, rows: Rows, count: int) -> np.ndarray:
    return per_unit(powers.sum(other_axes(rows, powers.ndim)), rows.units, count)


def _parameters_of(coupling: Coupling, network: torch.nn.Module, block: int) -> list[str]:
    """Names of the parameters inside a block's branch."""
    nodes = coupling.blocks[block].nodes
    return [name for name, _ in network.named_parameters() if name in nodes or name.rpartition(".")[0] in nodes]

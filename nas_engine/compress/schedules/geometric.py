"""The same share of what is left each time: large steps first, small ones at the end."""

from __future__ import annotations

from typing import Any

from search_spaces.errors import ConfigError

from .base import Plan, Schedule, at_least, register_schedule

_STEPS = 5


@register_schedule("geometric")
class Geometric(Schedule):
    """Keep the `p^(1/n)`-th part of the units each `every` epochs, so that the share p is left after n steps.

    p is the share of units that the allocator keeps at the target by the first scores; the first step is before the
    first epoch. Each step scores anew by the calibration batches.

    Args:
        steps: n; None for 5, or as many as the training has epochs.
        every: epochs from one step to the next; None for what ends after about two thirds of the training.

    Raises:
        ConfigError: at `begin`, for steps that the training has too few epochs for.
    """

    def __init__(self, steps: int | None = None, every: int | None = None) -> None:
        at_least("steps", 1 if steps is None else steps, 1)
        at_least("every", 1 if every is None else every, 1)
        self._asked = steps, every
        self._kept: list[int] = []
        self._final = 1.0

    def begin(self, plan: Plan) -> None:
        super().begin(plan)
        self._steps, self._every = self._pace(plan.epochs)
        self._kept, self._final = [], 1.0

    def _pace(self, epochs: int) -> tuple[int, int]:
        """Steps, and epochs from one to the next, in a training of so many epochs (0: not known)."""
        steps, every = self._asked
        if not epochs:
            return steps or _STEPS, every or 1
        steps = steps or min(_STEPS, 1 + (epochs - 1) // (every or 1))
        every = every or max(1, 2 * epochs // 3 // steps)
        if (steps - 1) * every >= epochs:
            raise ConfigError(
                f"{steps} geometric steps, one every {every} epochs, need {(steps - 1) * every + 1} epochs at least; "
                f"the training has {epochs}: take fewer steps or more epochs"
            )
        return steps, every

    @property
    def finished(self) -> bool:
        return len(self._kept) == self._steps

    def observe(self, inputs: object, targets: object, epoch: int, step: int) -> None:
        if step == 0 and epoch == len(self._kept) * self._every and not self.finished:
            self._prune()

    def complete(self) -> None:
        while not self.finished:
            self._prune()

    def _prune(self) -> None:
        scores = self.plan.scores()
        if not self._kept:
            self._final = float(self.plan.choose(scores, 1.0).mean())
        self._kept.append(self.plan.prune(scores, self._share(len(self._kept) + 1)))

    def _share(self, step: int) -> float:
        """Share of the way after a step: `(1 - p^(i/n)) / (1 - p)`."""
        if step == self._steps or self._final == 1.0:
            return 1.0
        return (1 - self._final ** (step / self._steps)) / (1 - self._final)

    def report(self) -> dict[str, Any]:
        return {**super().report(), "steps": self._steps, "every": self._every, "units": list(self._kept)}

    def state_dict(self) -> dict[str, Any]:
        return {"kept": list(self._kept), "final": self._final}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._kept, self._final = list(state["kept"]), state["final"]

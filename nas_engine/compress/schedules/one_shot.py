"""Everything at once, before the training."""

from __future__ import annotations

from typing import Any

from .base import Plan, Schedule, register_schedule


@register_schedule("one_shot")
class OneShot(Schedule):
    """Score once by the calibration batches, go all the way, then train.

    It is finished as soon as it has begun, so the network may as well be cut before it trains, which is faster.
    """

    def begin(self, plan: Plan) -> None:
        super().begin(plan)
        self._kept = plan.prune(plan.scores(), 1.0)

    @property
    def finished(self) -> bool:
        return True

    def report(self) -> dict[str, Any]:
        return {**super().report(), "units": self._kept}

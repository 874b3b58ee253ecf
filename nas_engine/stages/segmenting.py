"""Members chosen segment by segment, scored with the shared weights; see `predictors.segments`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..context import Context
from ..profile import costs_of

if TYPE_CHECKING:
    from predictors.segments import Cost, SegmentSearch
    from search_spaces import Architecture


def segment_search(context: Context) -> SegmentSearch:
    """The segment-wise search that the configuration asks for, not begun.

    Raises:
        ConfigError: segments that do not fit the space.
    """
    from predictors import make_predictor
    from predictors.base import FEWEST
    from predictors.partition import partition
    from predictors.segments import SegmentSearch

    config, space = context.config, context.space
    asked, settings = config.sample.architectures, config.sample.segments
    number = len(partition(space, settings.count, keep=settings.keep, limit=settings.limit))
    check = int(settings.check * asked / number)
    return SegmentSearch(
        space,
        lambda over: make_predictor(config.predictor.name, over, **{"seed": config.seed, **config.predictor.settings}),
        segments=settings.count,
        keep=settings.keep,
        samples=max(FEWEST, asked // number - check),
        check=check,
        cost=_cost(context, settings.cost) if settings.cost else None,
        limit=settings.limit,
        seed=config.seed,
    )


def _cost(context: Context, name: str) -> Cost:
    from predictors.cost import make_cost_model

    model = context.latency if name == "latency_ms" else make_cost_model(name)

    def cost(members: Sequence[Architecture]) -> np.ndarray:
        return costs_of({name: model}, context.space, members)[name]

    return cost

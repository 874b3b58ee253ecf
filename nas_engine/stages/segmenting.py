"""Members chosen segment by segment, scored with the shared weights.

`sample/segments.json` is written before and after each round of questions, `sample/scores.jsonl` a row a member, so a
run killed at any moment asks the rest of the same question.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..context import Context
from ..files import Record, read_json, write_json
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


def sample_segments(context: Context, record: Record) -> SegmentSearch | None:
    """Score what the search asks for, from where `record` and `segments.json` leave off; None where it was stopped."""
    from ..tuning import MemberJob, score_members

    search, path = segment_search(context), context.path("sample", "segments.json")
    if path.exists():
        search.restore(read_json(path))
    scores = {row["code"]: row["accuracy"] for row in record.rows}
    job = MemberJob.of(context.config, context.space, context.directory.path)

    def arrived(code: str, score: dict[str, float]) -> None:
        record.append({"code": code, **score})
        scores[code] = score["accuracy"]
        context.step("members scored", len(scores), search.questions)

    while (members := search.ask()) is not None:
        write_json(path, search.state)
        score_members(job, [a.code for a in members if a.code not in scores], arrived, context.stop)
        if context.stop():
            return None
        search.tell([scores[a.code] for a in members])
        write_json(path, search.state)
        context.step("members scored, fitting them", len(scores), search.questions)
    write_json(path, search.state)
    return search

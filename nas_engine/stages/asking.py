"""Members that a search asks for in rounds, scored with the shared weights.

The search's state is written before and after each round, `sample/scores.jsonl` a row a member, so a run killed at any
moment asks the rest of the same question.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from search_spaces import Architecture

from ..context import Context
from ..files import Record, read_json, write_json


class Questions(Protocol):
    """A search that asks for scores and is told them; `SegmentSearch` and `NAORounds` are two."""

    @property
    def questions(self) -> int:
        """Members that it asks for in all, at most."""

    @property
    def state(self) -> dict[str, Any]:
        """What `restore` takes, as JSON holds it."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where a state was taken."""

    def ask(self) -> list[Architecture] | None:
        """Members to be scored; None once it is over."""

    def tell(self, scores: Sequence[float]) -> None:
        """Scores of the members asked for."""


def answer(context: Context, record: Record, search: Questions, path: Path) -> bool:
    """Score what the search asks for, from where `record` and its state in `path` leave off; False where stopped."""
    from ..tuning import MemberJob, score_members

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
            return False
        search.tell([scores[a.code] for a in members])
        write_json(path, search.state)
        context.step("members scored, fitting them", len(scores), search.questions)
    write_json(path, search.state)
    return True

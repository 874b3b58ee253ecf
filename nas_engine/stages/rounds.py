"""Members chosen in rounds by NAO, scored with the shared weights (NAO-WS, Luo et al. 2018).

The authors score a member on one mini-batch with batch norms in training mode, which mostly ranks the luck of the
batch; here it is judged like in any other strategy, on `sample.images` validation images (all by default) with
recalibrated batch norms. `sample/rounds.json` is written before and after each round, `sample/scores.jsonl` a row a
member, so a run killed at any moment asks the rest of the same round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..context import Context
from ..files import Record, read_json, write_json

if TYPE_CHECKING:
    from predictors.nao import NAORounds


def nao_rounds(context: Context) -> NAORounds:
    """The rounds that the configuration asks for, not begun.

    Raises:
        ConfigError: more rounds than the members suffice for.
    """
    from predictors.nao import NAORounds

    sample = context.config.sample
    return NAORounds(
        context.space,
        members=sample.architectures,
        rounds=sample.rounds.count,
        first=sample.rounds.first,
        seeds=sample.rounds.seeds,
        seed=context.config.seed,
    )


def sample_rounds(context: Context, record: Record) -> NAORounds | None:
    """Score what the rounds ask for, from where `record` and `rounds.json` leave off; None where it was stopped."""
    from ..tuning import MemberJob, score_members

    rounds, path = nao_rounds(context), context.path("sample", "rounds.json")
    if path.exists():
        rounds.restore(read_json(path))
    scores = {row["code"]: row["accuracy"] for row in record.rows}
    job = MemberJob.of(context.config, context.space, context.directory.path)

    def arrived(code: str, score: dict[str, float]) -> None:
        record.append({"code": code, **score})
        scores[code] = score["accuracy"]
        context.step("members scored", len(scores), rounds.questions)

    while (members := rounds.ask()) is not None:
        write_json(path, rounds.state)
        score_members(job, [a.code for a in members if a.code not in scores], arrived, context.stop)
        if context.stop():
            return None
        rounds.tell([scores[a.code] for a in members])
        write_json(path, rounds.state)
        context.step("members scored, fitting them", len(scores), rounds.questions)
    write_json(path, rounds.state)
    return rounds

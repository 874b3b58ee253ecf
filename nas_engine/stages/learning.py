"""Supernet, scores, predictor, table: what the engine comes to believe of a space before it trains candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ..context import Context, Summary
from ..files import Record, read_json, replacing, write_json, write_lines
from ..profile import draw

if TYPE_CHECKING:
    from predictors import Predictor

    from ..train.parallel import Alone

T = TypeVar("T")


def supernet(context: Context) -> Summary:
    """Train the shared weights: `supernet/weights.safetensors`, with a row an epoch in `history.jsonl`.

    Where the space brings trained weights they are the beginning, and all where no epoch is asked for.
    """
    from safetensors.torch import save_file

    from ..train import finished_epochs
    from ..train.processes import gathered, prepared, shared_training
    from ..tuning.worker import remove_damaged
    from .inheriting import inherited

    settings = context.config.supernet
    checkpoint = context.path("supernet", "checkpoint.pt")
    if remove_damaged(checkpoint):
        context.warn(f"{checkpoint} was damaged; the shared weights are trained from the beginning")
    with gathered(context) as team:
        if team is None:
            return {}
        net = prepared(context, team.local)
        if context.space.pretrained:
            net.load_state_dict(inherited(context))
        for epoch in shared_training(context, net, team, checkpoint):
            context.step(f"supernet epoch, loss {epoch.loss:.3f}", epoch.epoch, settings.epochs)
            if not team.agree(not context.stop()):
                return {}
    with replacing(context.path("supernet", "weights.safetensors")) as path:
        save_file({k: v.contiguous().cpu() for k, v in net.state_dict().items()}, path)
    history = finished_epochs(checkpoint) if settings.epochs else []
    write_lines(context.path("supernet", "history.jsonl"), map(asdict, history))
    loss = history[-1].loss if history else None
    count = sum(p.numel() for p in net.parameters())
    text = f"{count:,} shared weights, {_trained(context, loss, team)}"
    return {"epochs": settings.epochs, "loss": loss, "strategy": settings.strategy, "parameters": count, "text": text}


def _trained(context: Context, loss: float | None, team: Alone) -> str:
    """How the shared weights were come by."""
    settings, told = context.config.supernet, []
    if context.space.pretrained:
        order = read_json(context.path("supernet", "order.json"))
        whole = context.data.quality.told(order["accuracy"])
        told.append(f"given ({whole} on validation {context.data.quality.cases}), in order of {order['criterion']}")
    if loss is not None:
        together = f" by {team.size} processes" if team.size > 1 else ""
        told.append(f"{settings.strategy}, {settings.epochs} epochs{together}, training loss {loss:.3f}")
    return "; ".join(told)


def sample(context: Context) -> Summary:
    """Score members with the shared weights on long-lived actors; a row a member in `sample/scores.jsonl`.

    They are random ones, or what a segment-wise search or NAO's rounds ask for.
    """
    from ..tuning import MemberJob, score_members
    from .asking import answer
    from .rounds import nao_rounds
    from .segmenting import segment_search

    settings = context.config.sample
    record = Record(context.path("sample", "scores.jsonl"))
    if settings.strategy == "segments":
        search = segment_search(context)
        done = answer(context, record, search, context.path("sample", "segments.json"))
        return _sampled(context, record, f" in {len(search.segments)} segments") if done else {}
    if settings.strategy == "nao":
        rounds = nao_rounds(context)
        done = answer(context, record, rounds, context.path("sample", "rounds.json"))
        return _sampled(context, record, f" in {len(rounds.sizes)} rounds") if done else {}
    scored = {row["code"] for row in record.rows}
    members = draw(context.space, settings.architectures, context.rng("sample"))
    if len(members) > settings.architectures:
        order = context.rng("sample").permutation(len(members))[: settings.architectures]
        members = [members[i] for i in order]
    waiting = [a.code for a in members if a.code not in scored]

    def arrived(code: str, score: dict[str, float]) -> None:
        record.append({"code": code, **score})
        context.step("members scored", len(record.rows), len(members))

    score_members(MemberJob.of(context.config, context.space, context.directory.path), waiting, arrived, context.stop)
    if context.stop():
        return {}
    return _sampled(context, record)


def _sampled(context: Context, record: Record, how: str = "") -> Summary:
    best = max(row["accuracy"] for row in record.rows)
    return {
        "architectures": len(record.rows),
        "text": f"{len(record.rows)} members scored{how}, best {context.data.quality.told(best)}",
    }


def predict(context: Context) -> Summary:
    """Fit the predictor; how far it and the supernet can be trusted goes to `predict/trust.json`."""
    from predictors import trust

    rows = sorted(Record(context.path("sample", "scores.jsonl")).rows, key=lambda row: row["code"])
    members = [context.space.decode(row["code"]) for row in rows]
    scores = np.array([row["accuracy"] for row in rows])
    groups = [context.space.sketch(a).id for a in members]
    held = _held_out(groups, context.config.sample.held_out, context.rng("predict"))
    context.step("predictor, held-out fit", 0, 2)
    first = _make_predictor(context).fit(_pick(members, ~held), scores[~held], groups=_pick(groups, ~held))
    mean, std = first.predict(_pick(members, held))
    believed = {
        "predictor": trust(scores[held], mean, rng=context.rng("trust")),
        "supernet": trust(
            np.array([r["second_half"] for r in rows]),
            np.array([r["first_half"] for r in rows]),
            rng=context.rng("trust"),
        ),
    }
    write_json(context.path("predict", "trust.json"), {k: v.to_dict() for k, v in believed.items()})
    shown = zip(_pick(members, held), scores[held], mean, std, strict=True)
    write_lines(
        context.path("predict", "held_out.jsonl"),
        ({"code": a.code, "score": float(s), "predicted": float(m), "std": float(d)} for a, s, m, d in shown),
    )
    context.step("predictor, final fit", 1, 2)
    _make_predictor(context).fit(members, scores, groups=groups).save(context.path("predict", "model"))
    tau = believed["predictor"].tau
    text = f"Kendall tau {tau:.2f} on {int(held.sum())} held-out members"
    for name, verdict in believed.items():
        if verdict.low_trust:
            context.warn(f"{name}: {verdict.words}")
    return {"tau": tau, "members": len(members), "held_out": int(held.sum()), "text": text}


def _make_predictor(context: Context) -> Predictor:
    from predictors import make_predictor

    settings = {"seed": context.config.seed, **context.config.predictor.settings}
    return make_predictor(context.config.predictor.name, context.space, **settings)


def _held_out(groups: list[str], share: float, rng: np.random.Generator) -> np.ndarray:
    """A mask of held-out rows; rows of one group are on one side, so that no copy leaks."""
    names = sorted(set(groups))
    chosen = {names[i] for i in rng.permutation(len(names))[: max(2, round(share * len(names)))]}
    return np.array([g in chosen for g in groups])


def _pick(items: Sequence[T], mask: np.ndarray) -> list[T]:
    return [item for item, keep in zip(items, mask, strict=True) if keep]


def table(context: Context) -> Summary:
    """Predict and cost every distinct member, or a sample, into `table/table.parquet`."""
    from ..tuning import TableJob, build_table

    settings = context.config.table
    whole = context.space.size <= settings.whole_up_to
    rows = build_table(
        TableJob.of(context.config, context.space, context.directory.path, whole=whole),
        lambda done, total: context.step("table rows", done, total),
        context.stop,
    )
    if context.stop():
        return {}
    drawn = "members of the last segment" if context.config.sample.strategy == "segments" else "sampled members"
    kind = f"all {rows:,} distinct of {context.space.size:,} members" if whole else f"{rows:,} {drawn}"
    return {"rows": rows, "whole": whole, "size": context.space.size, "text": kind}

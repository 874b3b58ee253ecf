"""NAO's embedding on a table: what its decoder writes again, how it ranks, and what its moves are worth.

    python -m benchmarks.nao [--target cifar10_test_acc_200ep] [--train 200] [--seeds 5] [--context features]

Prints one JSON line last, means over the seeds with standard deviations (`*_sd`). Members are canonical and distinct;
the accuracy of a member is its row's. Each seed draws its own members to learn from.

- hamming_reconstruct: tokens that the decoders get wrong of a member they have not seen, after `--reconstruct` members.
- For each variant after `--train` members: `hamming`; `pairwise_accuracy` on the members not learned from; mean true
  accuracy of the `proposed` members (new ones, uphill of the best `--top`, in the order they come), and of as many
  `chosen` by prediction out of five times as many. Beside them the `start` they come from, `mutants` of it (one random
  change) and the `mutants_chosen` by the same prediction out of five times as many.
- Variants: `nao`; `no_decoder` (lambda 1: the member nearest to the point reached, among mutants); `no_symmetry` (no
  training on symmetric copies); `no_gradient` (members drawn by the decoder around the best, unmoved).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.common import publish
from benchmarks.tables import Labelled, label, read
from predictors import kendall_tau
from predictors.nao import JOINT, NAOPredictor, NAOProposer
from predictors.nao.moves import STEPS
from search_spaces import Architecture, SearchSpace

TABLE = Path(__file__).resolve().parents[1] / ".." / "shared" / "data" / "nasbench201" / "nasbench201.parquet"
VARIANTS: dict[str, dict[str, Any]] = {
    "nao": {},
    "no_decoder": {"balance": 1.0},
    "no_symmetry": {"symmetric": 0.0},
}
_WIDER = 5  # members proposed for each one chosen
_HELD_OUT = 500  # members written again


class Truth:
    """Canonical members of a table in random order, with their accuracies."""

    def __init__(self, table: Labelled, target: str) -> None:
        self.space = table.space
        known = dict(zip([a.code for a in table.members], table.column(target).tolist(), strict=True))
        codes = dict.fromkeys(self.space.canonical(a).code for a in table.members)
        self.accuracy = {code: known[code] for code in sorted(codes) if code in known}

    def shuffled(self, seed: int) -> list[Architecture]:
        codes = list(self.accuracy)
        return [self.space.decode(codes[i]) for i in np.random.default_rng(seed).permutation(len(codes))]

    def of(self, members: Sequence[Architecture]) -> np.ndarray:
        return np.array([self.accuracy[a.code] for a in members])


def fitted(truth: Truth, members: Sequence[Architecture], seed: int, settings: dict[str, Any]) -> NAOPredictor:
    """A model of these members; as one group nothing is held out, which is not needed here."""
    model = NAOPredictor(truth.space, **{**JOINT, "members": 4, "seed": seed, **settings})
    return model.fit(members, truth.of(members), groups=[0] * len(members))


def hamming(model: NAOPredictor, members: Sequence[Architecture]) -> float:
    """Tokens that the decoders get wrong of a member, on average; not a number without decoders."""
    import torch

    if model.kept.decoder is None:
        return float("nan")
    tokens, _ = model.inputs(model.reader.read(members))
    with torch.no_grad():
        outputs, _ = model.kept.encoder(tokens.unsqueeze(0))
    return float((model.kept.decoder.write(outputs, model.tokens) != tokens.numpy()).sum(-1).mean())


def proposed(
    truth: Truth, model: NAOPredictor, seen: Sequence[Architecture], steps: Sequence[float], top: int
) -> dict[str, float]:
    """Mean true accuracies of the best seen members, and of what is proposed from them."""
    start = sorted(seen, key=lambda a: -truth.accuracy[a.code])[:top]
    codes = {a.code for a in seen}
    rng = np.random.default_rng(model.settings.seed)

    def known(member: Architecture) -> bool:
        return member.code in truth.accuracy

    found = NAOProposer(model, steps=steps, seed=model.settings.seed).propose(
        start, _WIDER * top, seen=codes, allow=known
    )
    mutants = [a for a in _mutants(truth.space, start, _WIDER * top, codes, rng) if known(a)]
    groups = {
        "start": start,
        "proposed": found[:top],
        "chosen": _best_predicted(model, found, top),
        "mutants": mutants[:top],
        "mutants_chosen": _best_predicted(model, mutants, top),
    }
    return {name: float(truth.of(members).mean()) for name, members in groups.items()}


def _mutants(
    space: SearchSpace, start: Sequence[Architecture], count: int, seen: set[str], rng: np.random.Generator
) -> list[Architecture]:
    found: dict[str, Architecture] = {}
    for i in range(50 * count):
        member = space.canonical(space.mutate(start[i % len(start)], rng))
        if member.code not in seen:
            found[member.code] = member
        if len(found) == count:
            break
    return list(found.values())


def _best_predicted(model: NAOPredictor, members: Sequence[Architecture], count: int) -> list[Architecture]:
    ranking, _ = model.rank(model.reader.read(members))
    return [members[i] for i in np.argsort(-ranking, kind="stable")[:count]]


def one_seed(truth: Truth, asked: argparse.Namespace, seed: int) -> dict[str, float]:
    """All figures of one draw of members."""
    members, context = truth.shuffled(seed), {"context": asked.context}
    more = fitted(truth, members[: asked.reconstruct], seed, context)
    held = members[asked.reconstruct : asked.reconstruct + _HELD_OUT]
    figures = {"hamming_reconstruct": hamming(more, held)}
    seen, unseen = members[: asked.train], members[asked.train :]
    models = {name: fitted(truth, seen, seed, {**context, **settings}) for name, settings in VARIANTS.items()}
    for name, model in [*models.items(), ("no_gradient", models["nao"])]:
        steps = () if name == "no_gradient" else STEPS
        ranking, _ = model.rank(model.reader.read(unseen))
        own = {
            "hamming": hamming(model, unseen[:_HELD_OUT]),
            "pairwise_accuracy": (1 + kendall_tau(truth.of(unseen), ranking)) / 2,
            **proposed(truth, model, seen, steps, asked.top),
        }
        figures |= {f"{name}_{k}": v for k, v in own.items()}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--space", default="nasbench201")
    parser.add_argument("--target", default="cifar10_test_acc_200ep")
    parser.add_argument("--train", type=int, default=200, help="members that the variants learn from")
    parser.add_argument("--reconstruct", type=int, default=400, help="members before the decoder is judged alone")
    parser.add_argument("--top", type=int, default=20, help="best members that moves start from, and members proposed")
    parser.add_argument("--context", default="features", help="features, totals, or none as in the paper")
    parser.add_argument("--seeds", type=int, default=5)
    asked = parser.parse_args()
    if not asked.table.exists():
        print(f"skipped: no file {asked.table}; give a table with --table")
        return
    truth = Truth(label(read(asked.table), asked.space, [asked.target]), asked.target)
    runs = []
    for seed in range(asked.seeds):
        runs.append(one_seed(truth, asked, seed))
        print({"seed": seed, **{k: round(v, 3) for k, v in runs[-1].items()}}, flush=True)
    frame = pd.DataFrame(runs).dropna(axis=1)
    figures = {k: v for k, v in vars(asked).items() if k != "table"} | {"table": asked.table.stem}
    spread = {f"{k}_sd": round(float(v), 4) for k, v in frame.std(ddof=0).items()}
    publish("nao", {**figures, **{k: round(float(v), 4) for k, v in frame.mean().items()}, **spread})


if __name__ == "__main__":
    main()

"""NAO's proposals: members uphill of good ones in the embedding, decoded, valid by grammar, never seen before.

The step outputs h of a seed move along the gradient of its predicted score, `h' = h + eta df/dh`, and back to length 1;
eta grows until enough members came out that are new. Every network of the ensemble moves in its own embedding and
writes with its own decoder.

Shapes as in `encoder`; S seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from search_spaces.errors import EngineError

from .encoder import embed
from .predictor import NAOPredictor
from .settings import SEARCH

if TYPE_CHECKING:
    from search_spaces.space import Architecture, SearchSpace

STEPS = tuple(range(1, 51))
"""Growing eta, as in the authors' code."""

_TEMPERATURES = (1.0, 1.0, 1.5, 2.0, 3.0)
_NEAR = 500  # members that may be nearest where nothing decodes


class NAOProposer:
    """Proposes members by steps in the embedding of a fitted predictor.

    Without decoders (`balance` 1) the point reached gives the member whose embedding is nearest, among some that differ
    from the seeds in one or two choices.

    Args:
        model: fitted; `JOINT` has what it needs.
        steps: eta of each round. None at all leaves the seeds where they are, and members are drawn around them.
        seed: of the draws.
    """

    def __init__(self, model: NAOPredictor, *, steps: Sequence[float] = STEPS, seed: int = 0) -> None:
        if not model.fitted:
            raise EngineError("proposals need a fitted predictor; call fit(architectures, scores) first")
        if model.extras:
            raise EngineError("proposals need a predictor without further inputs, which unseen members have not")
        self.model = model
        self.space = model.space
        self.steps = tuple(steps)
        self.seed = seed

    def propose(
        self,
        seeds: Sequence[Architecture],
        count: int,
        *,
        seen: Iterable[str] = (),
        allow: Callable[[Architecture], bool] = lambda architecture: True,
    ) -> list[Architecture]:
        """Up to `count` canonical members, those of the smallest steps first; fewer where no more come out.

        Args:
            seeds: members to start from, the best ones known.
            seen: codes of canonical members that are not wanted; the seeds need not be among them.
            allow: whether a member may be proposed.
        """
        unwanted = {*seen, *(self.space.canonical(a).code for a in seeds)}
        found: dict[str, Architecture] = {}
        if not seeds:
            return []
        for members in self._rounds(seeds, unwanted):
            for member in members:
                if member.code not in unwanted:
                    unwanted.add(member.code)
                    if allow(member):
                        found[member.code] = member
            if len(found) >= count:
                break
        return list(found.values())[:count]

    # ---- where members come from -------------------------------------------------------------------------

    def _rounds(self, seeds: Sequence[Architecture], unwanted: set[str]) -> Iterator[list[Architecture]]:
        """Canonical members that the steps reach, a round each; then draws around the seeds at growing temperature."""
        outputs, uphill = self._directions(seeds)
        networks = self.model.kept
        writer = _Decoder(self.model) if networks.decoder is not None else _Nearest(self.model, seeds, self.seed)
        for step in self.steps:
            yield writer.write(networks.encoder.on_sphere(outputs + step * uphill), unwanted)
        dice = torch.Generator().manual_seed(self.seed)
        for temperature in _TEMPERATURES:
            yield writer.draw(outputs, temperature, dice)

    def _directions(self, seeds: Sequence[Architecture]) -> tuple[Tensor, Tensor]:
        """Step outputs `(M, S, L, H)` of the seeds, and the gradients of their scores by them."""
        tokens, context = self.model.inputs(self.model.reader.read(seeds))
        networks = self.model.kept
        with torch.enable_grad():
            outputs = networks.encoder(tokens.unsqueeze(0))[0].detach().requires_grad_()
            scores = networks.scorer(embed(outputs), context.unsqueeze(0))
            (uphill,) = torch.autograd.grad(scores.sum(), outputs)
        return outputs.detach(), uphill


def improved(
    space: SearchSpace,
    members: Sequence[Architecture],
    scores: np.ndarray,
    *,
    seeds: Sequence[Architecture],
    count: int,
    allow: Callable[[Architecture], bool] = lambda architecture: True,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> list[Architecture]:
    """New members by a model fitted to scored ones, those first that some network of it ranks best.

    The networks of the ensemble name their best in turn: where they disagree, what one of them hopes for is tried.

    Args:
        scores: of the members, higher is better, float `(n,)`, n >= 4.
        seeds: members that the moves start from.
        count: members to be decoded, at most.
        allow: whether a member may be proposed.
        settings: of `NAOPredictor`, over `SEARCH`.
    """
    model = NAOPredictor(space, **{"seed": seed, **SEARCH, **(settings or {})})
    # as one group nothing is held out, which would tell how well it ranks; here the order is all that counts
    model.fit(members, scores, groups=[0] * len(members))
    seen = {space.canonical(a).code for a in members}
    found = NAOProposer(model, seed=seed).propose(seeds, count, seen=seen, allow=allow)
    if not found:
        return []
    ranking = model.outputs(model.kept, model.inputs(model.reader.read(found)))
    return [found[i] for i in _in_turn(ranking)]


def _in_turn(ranking: np.ndarray) -> list[int]:
    """Positions of all members, of rankings `(M, B)` the best of the first, the best left of the second, and so on."""
    orders = [iter(order) for order in np.argsort(-ranking, axis=1, kind="stable").tolist()]
    taken: dict[int, None] = {}
    for turn in range(ranking.shape[1]):
        taken[next(i for i in orders[turn % len(orders)] if i not in taken)] = None
    return list(taken)


class _Decoder:
    """Members by the model's decoders."""

    def __init__(self, model: NAOPredictor) -> None:
        self.model = model

    def write(self, outputs: Tensor, unwanted: set[str]) -> list[Architecture]:
        """The likeliest member of each point."""
        return self._members(outputs, 0.0, None)

    def draw(self, outputs: Tensor, temperature: float, dice: torch.Generator) -> list[Architecture]:
        """A drawn member of each point."""
        return self._members(outputs, temperature, dice)

    def _members(self, outputs: Tensor, temperature: float, dice: torch.Generator | None) -> list[Architecture]:
        model, decoder = self.model, self.model.kept.decoder
        if decoder is None:
            raise EngineError("the predictor has no decoder; fit it with balance below 1")
        rows = decoder.write(outputs, model.tokens, temperature, dice).swapaxes(0, 1)  # the best seed's first
        distinct = list(dict.fromkeys(map(tuple, rows.reshape(-1, rows.shape[-1]).tolist())))
        return [model.space.canonical(a) for a in model.tokens.decode(np.array(distinct))]


class _Nearest:
    """Members by their embeddings, for models without decoders.

    Args:
        seeds: whose mutants, of one and two changes, are what can come out.
        seed: of the mutations.
    """

    def __init__(self, model: NAOPredictor, seeds: Sequence[Architecture], seed: int) -> None:
        rng, space = np.random.default_rng(seed), model.space
        mutants = (space.mutate(seeds[i % len(seeds)], rng, changes=1 + i // len(seeds) % 2) for i in range(_NEAR))
        self.pool = list({a.code: a for a in map(space.canonical, mutants)}.values())
        tokens, _ = model.inputs(model.reader.read(self.pool))
        self.places = model.kept.encoder.embeddings(tokens)

    def write(self, outputs: Tensor, unwanted: set[str]) -> list[Architecture]:
        """The member nearest to each point that is still wanted."""
        wanted = [i for i, a in enumerate(self.pool) if a.code not in unwanted]
        if not wanted:
            return []
        alike = embed(outputs) @ self.places[:, wanted].transpose(-1, -2)  # all have length 1
        return [self.pool[wanted[i]] for i in dict.fromkeys(alike.argmax(-1).T.flatten().tolist())]

    def draw(self, outputs: Tensor, temperature: float, dice: torch.Generator) -> list[Architecture]:
        """Some of the mutants, at random."""
        count = outputs.shape[0] * outputs.shape[1]
        return [self.pool[i] for i in torch.randperm(len(self.pool), generator=dice)[:count].tolist()]

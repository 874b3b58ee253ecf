"""Attention to the best or the worst members (AttentiveNAS, Wang et al. 2021).

Members between the ends are not drawn blindly: of some that cost about as much, the one that a predictor puts first or
last is trained. The predictor learns from losses that the training sees anyway: those of its members, each less that
of the largest member on the same batch, so that easy and hard batches count alike.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from predictors import make_predictor
from search_spaces import Architecture, SearchSpace

from ..config import Supernet as SupernetSettings
from .phases import Opened
from .sampling import Listening, Sandwich, samplings

_POOL = 384  # members drawn anew each epoch, among which the training chooses
_BANDS = 8  # of MACs, with equally many members
_FEWEST = 64  # losses that the predictor needs
_KEPT = 1024  # losses that it learns from: the latest, as members grow better


@dataclass(frozen=True)
class Pool:
    """Members to choose from, in bands of MACs, and what is expected of them.

    Attributes:
        bands: positions of the members of each band.
        band_of: the band of each member.
        order: the place of each member by predicted score, the last one best; None while nothing is known.
    """

    members: list[Architecture]
    bands: list[np.ndarray]
    band_of: np.ndarray
    order: np.ndarray | None

    def pick(self, rng: np.random.Generator, of: int, best: bool) -> Architecture:
        """The best or the worst of some members of one band; bands are drawn as members are spread over them."""
        first = int(rng.integers(len(self.members)))
        if self.order is None:
            return self.members[first]
        band = self.bands[self.band_of[first]]
        drawn = rng.choice(band, min(of, len(band)), replace=False)
        place = self.order[drawn]
        return self.members[int(drawn[place.argmax() if best else place.argmin()])]


@samplings.named("attentive")
class Attentive(Sandwich, Listening):
    """Sandwich rule whose members between the ends are the best or the worst predicted at their cost.

    Until enough losses are known, these are random members. The predictor is fitted anew at the beginning of each epoch
    to the latest losses, which checkpoints keep; so a training that was killed goes on with the same members.
    """

    def __init__(self, space: SearchSpace, settings: SupernetSettings, seed: int) -> None:
        super().__init__(space, settings, seed)
        asked = settings.attentive
        self._of, self._best = asked.of, asked.toward == "best"
        self._predictor = make_predictor(asked.predictor, space, **{"seed": seed, **asked.settings})
        self._known: deque[tuple[str, float]] = deque(maxlen=_KEPT)
        self._heard: list[tuple[list[Architecture], Tensor]] = []
        self._pool: tuple[int, tuple[int, ...], Pool] | None = None

    def between(self, opened: Opened, rng: np.random.Generator, epoch: int) -> Architecture:
        return self._pool_of(opened, epoch).pick(rng, self._of, self._best)

    def observe(self, members: list[Architecture], losses: Tensor) -> None:
        """The first one is the largest, the second the smallest, of which nothing is to be learned in each step."""
        self._heard.append((members[2:], losses[2:] - losses[0]))

    def state_dict(self) -> dict[str, Any]:
        self._note()
        return {"codes": [c for c, _ in self._known], "losses": torch.tensor([v for _, v in self._known]).double()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._heard.clear()
        self._known = deque(zip(state["codes"], state["losses"].tolist(), strict=True), maxlen=_KEPT)

    def _note(self) -> None:
        """Take up the losses that were heard; only now, so that a GPU is not waited for at each step."""
        for members, worse in self._heard:
            pairs = zip(members, worse.double().tolist(), strict=True)
            self._known.extend((m.code, v) for m, v in pairs if np.isfinite(v))
        self._heard.clear()

    def _pool_of(self, opened: Opened, epoch: int) -> Pool:
        if self._pool is None or self._pool[:2] != (epoch, opened.lowest):
            self._note()
            self._pool = epoch, opened.lowest, self._drawn(opened, epoch)
        return self._pool[2]

    def _drawn(self, opened: Opened, epoch: int) -> Pool:
        """The members of an epoch, and what the losses so far let expect of them."""
        rng = np.random.default_rng([self.seed, epoch, *b"pool"])
        members = [opened.sample(rng) for _ in range(_POOL)]
        sketches = [self.space.graph(m) for m in members]
        macs = np.array([graph.cost.macs for graph in sketches])
        bands = np.array_split(np.argsort(macs, kind="stable"), _BANDS)
        band_of = np.empty(_POOL, dtype=np.int64)
        for number, band in enumerate(bands):
            band_of[band] = number
        return Pool(members, bands, band_of, self._expected(members))

    def _expected(self, members: list[Architecture]) -> np.ndarray | None:
        """(members,) their places by predicted score; None while too few losses are known."""
        if len(self._known) < _FEWEST:
            return None
        seen = [self.space.decode(code) for code, _ in self._known]
        self._predictor.fit(seen, np.array([-worse for _, worse in self._known]))
        return self._predictor.predict(members)[0].argsort().argsort()

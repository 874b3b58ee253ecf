"""The contract of predictors, their registry, and how they are kept on disk.

A predictor learns from scored architectures and tells the expected score of any other, with its uncertainty. It
knows a space only through `SearchSpace.sketch`, so that a space defined by a user is predicted like the built-in ones.
"""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from search_spaces.errors import ConfigError, DataError, EngineError, did_you_mean
from search_spaces.graph import Graph
from search_spaces.registry import Registry

from .ranking import Trust

if TYPE_CHECKING:
    from search_spaces.space import Architecture, SearchSpace

FEWEST = 4  # scored architectures
_FORMAT = 1
_BUILT_IN = ("boosting", "ensemble", "gcn", "gp", "nao", "ridge", "zerocost.predictor")


@dataclass(frozen=True)
class Seeded:
    """Settings every predictor takes; the base of each predictor's own.

    Attributes:
        seed: of all random numbers; equal seeds and data give equal predictions.
    """

    seed: int = 0


class Predictor(ABC):
    """Expected scores of architectures, learned from some of them.

    A subclass sets `name` by `@register_predictor`, declares its settings as a frozen dataclass `Settings` that
    inherits `Seeded` and checks its values in `__post_init__`, and implements the four methods with an underscore.
    `fit` may be called again and then starts afresh. Predictors are deterministic and can be pickled (to Ray actors);
    on disk they are a safetensors file beside a JSON file.

    Args:
        space: whose architectures are scored.
        settings: fields of `Settings`.

    Attributes:
        held_out: how well members that were left out of fitting were ranked; None before `fit`, and for predictors
            or data that hold nothing out.
        extras: number of further inputs of each architecture that `fit` was given.
    """

    name: ClassVar[str] = ""
    Settings: ClassVar[type[Seeded]] = Seeded

    def __init__(self, space: SearchSpace, **settings: Any) -> None:
        allowed = [f.name for f in fields(self.Settings)]
        for given in settings:
            if given not in allowed:
                raise ConfigError(f"predictor {self.name!r} has no setting {given!r}: {did_you_mean(given, allowed)}")
        self.space = space
        try:
            self.settings = self.Settings(**settings)
        except TypeError as e:
            raise ConfigError(
                f"a setting of predictor {self.name!r} has the wrong type ({e}); see its defaults"
            ) from None
        self.held_out: Trust | None = None
        self.extras = 0
        self.fitted = False

    # ---- what users call ---------------------------------------------------------------------------------

    def fit(
        self,
        architectures: Sequence[Architecture],
        scores: Sequence[float] | np.ndarray,
        *,
        groups: Sequence[Hashable] | None = None,
        extra: np.ndarray | None = None,
    ) -> Self:
        """Learn from scores, higher is better, in any unit.

        Args:
            architectures: at least 4; one may occur more than once, with different scores.
            scores: one finite number each.
            groups: equal for architectures that are the same network; nothing held out shares a group with what is
                learned from. By default the code of `space.canonical`.
            extra: further inputs of each architecture, float `(n, k)`, such as its zero-cost scores; `predict` then
                needs the same k.

        Raises:
            DataError: too few architectures, lengths that differ, scores or inputs that are not finite.
        """
        scores = np.asarray(scores, dtype=np.float64)
        if scores.shape != (len(architectures),):
            raise DataError(
                f"{len(architectures)} architectures with scores of shape {scores.shape}; give one score each"
            )
        if len(scores) < FEWEST:
            raise DataError(f"predictor {self.name!r} needs {FEWEST} scored architectures or more; got {len(scores)}")
        if wrong := int((~np.isfinite(scores)).sum()):
            raise DataError(f"{wrong} of {len(scores)} scores are not finite; leave these architectures out")
        if groups is None:
            groups = [self.space.canonical(a).code for a in architectures]
        if len(groups) != len(scores):
            raise DataError(f"{len(groups)} groups for {len(scores)} architectures; give one each, or none at all")
        numbers: dict[Hashable, int] = {}
        rows = np.array([numbers.setdefault(g, len(numbers)) for g in groups])
        inputs = _inputs(extra, len(scores))
        self.extras = inputs.shape[1]
        self._fit(architectures, scores, rows, inputs)
        self.fitted = True
        return self

    def predict(
        self,
        architectures: Sequence[Architecture],
        *,
        sketches: Sequence[Graph] | None = None,
        extra: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Expected score and its standard deviation, both float64 `(B,)` in the unit of the scores.

        Args:
            architectures: B of them, any number.
            sketches: their sketches, where the caller has them; they are built otherwise.
            extra: `(B, k)`, as given to `fit`.

        Raises:
            DataError: further inputs that are missing, too many, or not finite.
        """
        self._need_fit()
        if not len(architectures):
            return np.zeros(0), np.zeros(0)
        inputs = _inputs(extra, len(architectures))
        if inputs.shape[1] != self.extras:
            raise DataError(
                f"predictor {self.name!r} learned from {self.extras} further inputs an architecture; "
                f"got {inputs.shape[1]}, give the same ones as extra"
            )
        return self._predict(architectures, sketches, inputs)

    def save(self, directory: str | Path) -> None:
        """Write `predictor.safetensors`, then `predictor.json`, each atomically; the second completes the pair."""
        from safetensors.numpy import save

        self._need_fit()
        tensors, facts = self._state()
        data = save({k: np.ascontiguousarray(v) for k, v in tensors.items()})
        about = {
            "format": _FORMAT,
            "predictor": self.name,
            "space": _describe(self.space),
            "settings": asdict(self.settings),
            "held_out": None if self.held_out is None else asdict(self.held_out),
            "extras": self.extras,
            "facts": facts,
            "tensors": hashlib.sha256(data).hexdigest(),
        }
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        _replace(directory / "predictor.safetensors", data)
        _replace(directory / "predictor.json", json.dumps(about, indent=1).encode())

    @classmethod
    def load(cls, directory: str | Path, space: SearchSpace) -> Self:
        """Read what `save` wrote: `Predictor.load` any kind, a subclass its own. Raises as `load_predictor` does."""
        predictor = load_predictor(directory, space)
        if not isinstance(predictor, cls):
            raise EngineError(f"{directory} holds predictor {predictor.name!r}, not {cls.name!r}; use Predictor.load")
        return predictor

    @property
    def id(self) -> str:
        """16 hexadecimal digits that tell fitted predictors apart; tables name their predictor by it."""
        self._need_fit()
        tensors, facts = self._state()
        digest = hashlib.sha256(json.dumps([self.name, asdict(self.settings), facts], sort_keys=True).encode())
        for name in sorted(tensors):
            digest.update(name.encode() + np.ascontiguousarray(tensors[name]).tobytes())
        return digest.hexdigest()[:16]

    def _need_fit(self) -> None:
        if not self.fitted:
            raise EngineError(f"predictor {self.name!r} is not fitted; call fit(architectures, scores) first")

    # ---- what a predictor implements ---------------------------------------------------------------------

    @abstractmethod
    def _fit(
        self, architectures: Sequence[Architecture], scores: np.ndarray, groups: np.ndarray, extra: np.ndarray
    ) -> None:
        """Learn from checked data: `scores` float64 `(n,)`, `groups` int64 `(n,)`, `extra` float64 `(n, k)`, k >= 0.

        Sets `held_out` where it can.
        """

    @abstractmethod
    def _predict(
        self, architectures: Sequence[Architecture], sketches: Sequence[Graph] | None, extra: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of at least one architecture."""

    @abstractmethod
    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What was learned: tensors, and facts that JSON can hold."""

    @abstractmethod
    def _restore(self, tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        """Inverse of `_state`; raises ValueError, KeyError or TypeError where something is amiss."""


def load_predictor(directory: str | Path, space: SearchSpace) -> Predictor:
    """The predictor that `Predictor.save` wrote, of whatever kind.

    Raises:
        EngineError: no predictor there, one of another space, or damaged files.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    directory = Path(directory)
    try:
        about = json.loads((directory / "predictor.json").read_text(encoding="utf-8"))
        data = (directory / "predictor.safetensors").read_bytes()
        if about["format"] != _FORMAT or hashlib.sha256(data).hexdigest() != about["tensors"]:
            raise ValueError("its two files do not belong together")
        _same_space(about["space"], _describe(space), directory)
        predictor = make_predictor(about["predictor"], space, **about["settings"])
        predictor._restore(load(data), about["facts"])
        predictor.held_out = None if about["held_out"] is None else Trust(**about["held_out"])
        predictor.extras = int(about["extras"])
    except FileNotFoundError as e:
        raise EngineError(
            f"no predictor in {directory} ({Path(e.filename).name} is missing); save one there first"
        ) from None
    except (ValueError, KeyError, TypeError, SafetensorError) as e:
        raise EngineError(f"the predictor in {directory} is damaged ({e!r}); fit and save it again") from None
    predictor.fitted = True
    return predictor


def _inputs(extra: np.ndarray | None, count: int) -> np.ndarray:
    """Further inputs as float64 `(count, k)`; k is 0 where there are none."""
    if extra is None:
        return np.zeros((count, 0))
    inputs = np.asarray(extra, dtype=np.float64)
    if inputs.ndim != 2 or len(inputs) != count:
        raise DataError(f"extra of shape {inputs.shape} for {count} architectures; give one row each, ({count}, k)")
    if wrong := int((~np.isfinite(inputs)).any(1).sum()):
        raise DataError(f"{wrong} of {count} rows of extra hold numbers that are not finite; mend or drop them")
    return inputs


def _describe(space: SearchSpace) -> dict[str, Any]:
    choices = [[c.name, list(c.options)] for c in space.choices]
    return {"name": space.name, "input_shape": list(space.input_shape), "classes": space.classes, "choices": choices}


def _same_space(saved: Mapping[str, Any], given: Mapping[str, Any], directory: Path) -> None:
    for part in ("name", "input_shape", "classes", "choices"):
        if saved[part] != given[part]:
            told = "" if part == "choices" else f": {saved[part]!r}, not {given[part]!r}"
            raise EngineError(f"the predictor in {directory} is of a space with another {part}{told}; make that space")


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


predictors: Registry[type[Predictor]] = Registry("predictor", ConfigError)
register_predictor = predictors.named
"""Class decorator: files a `Predictor` under `name`."""


def register_built_in() -> None:
    """Import the modules of the predictors that come with the engine, which registers them."""
    for name in _BUILT_IN:
        import_module(f".{name}", __package__)


def make_predictor(name: str, space: SearchSpace, **settings: Any) -> Predictor:
    """The predictor registered as `name`, not fitted.

    Raises:
        ConfigError: unknown predictor or setting, with the nearest allowed name; a setting out of its range.
    """
    register_built_in()
    return predictors[name](space, **settings)

"""Compound scaling as a searched object: members of any other space, times multipliers of depth, width and resolution.

The choices of the other space stay choices, so that "cut, then scale up to the same latency" is one search. The scaling
itself is a choice of phi, of the exponents, of the rule, or of free multipliers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from .errors import SpaceError
from .graph import Graph
from .memo import Memo
from .scaling.forms import RULES, ByExponents, ByPhi, ByRule, Form, Free
from .scaling.rules import Compound, Scaling
from .space import Architecture, SearchSpace
from .spaces import make_space, register_space


@register_space("compound")
class CompoundSpace(SearchSpace):
    """Another space's members, scaled.

    Args:
        base: the other space, as a run's config has it: `{name: mobile, ...}`. A choice of resolution in it is
            multiplied too; give it one option to leave that to the scaling.
        by: what of the scaling is chosen:
            `phi` (choice `scale.phi`; depth, width and resolution are alpha, beta and gamma to its power),
            `exponents` (choice `scale.exponents`, the triples near 2 of the first step's grid search, at phi 1),
            `rules` (choices `scale.rule` and `scale.factor`, the factor of arithmetic), or
            `free` (choices `scale.depth`, `scale.width` and `scale.resolution`).
        phi: options of `phi`; they need not be whole.
        alpha, beta, gamma: of compound scaling.
        a: share of the width in rule `dwr`.
        step: of the grid of `exponents`.
        rules, factors: options of `rules`.
        depths, widths, resolutions: options of `free`; multipliers.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int] = (3, 32, 32),
        classes: int = 10,
        base: Mapping[str, Any] | None = None,
        by: str = "phi",
        phi: Sequence[float] = (0, 0.5, 1.0, 1.5, 2.0),
        alpha: float = 1.2,
        beta: float = 1.1,
        gamma: float = 1.15,
        a: float = 0.8,
        step: float = 0.1,
        rules: Sequence[str] = RULES,
        factors: Sequence[float] = (1.0, 2.0, 4.0),
        depths: Sequence[float] = (1.0, 1.2, 1.4, 1.8),
        widths: Sequence[float] = (1.0, 1.1, 1.2, 1.4),
        resolutions: Sequence[float] = (1.0, 1.15, 1.3),
    ) -> None:
        self.base = _base(base, tuple(input_shape), classes)
        exponents = Compound(alpha, beta, gamma)
        forms: dict[str, Callable[[], Form]] = {
            ByPhi.name: lambda: ByPhi(phi, exponents),
            ByExponents.name: lambda: ByExponents(step),
            ByRule.name: lambda: ByRule(rules, factors, exponents, a),
            Free.name: lambda: Free(depths, widths, resolutions),
        }
        if by not in forms:
            raise SpaceError(f"space 'compound' scales by {', '.join(forms)}; got by: {by!r}")
        self.form = forms[by]()
        super().__init__((*self.base.choices, *self.form.choices), input_shape=input_shape, classes=classes)
        self._made = Memo(self._graph)

    def scaling(self, architecture: Architecture) -> Scaling:
        """The multipliers of a member."""
        return self.form.scaling(architecture.values)

    def unscaled(self, architecture: Architecture) -> Architecture:
        """The member of the other space that is scaled."""
        return self.base.from_indices(architecture.indices[: len(self.base.choices)])

    def graph(self, architecture: Architecture) -> Graph:
        return self._made(architecture.indices)

    def _graph(self, indices: tuple[int, ...]) -> Graph:
        architecture = self.from_indices(indices)
        scaling, member = self.scaling(architecture), self.unscaled(architecture)
        return self.base.graph(member) if scaling == Scaling() else self.base.scaled(member, scaling)

    def canonical(self, architecture: Architecture) -> Architecture:
        """The member of which the part of the other space is canonical, and the first of equal scalings is chosen."""
        member, scaling = self.base.canonical(self.unscaled(architecture)), self.scaling(architecture)
        equal = (own for own in self._scalings if self.form.scaling(own) == scaling)
        return self.architecture({**member.values, **next(equal)})

    @property
    def _scalings(self) -> Iterator[dict[str, Any]]:
        return self.form.assignments()

    @property
    def reference(self) -> Architecture | None:
        """The other space's reference as it is, where both are members."""
        member = self.base.reference
        as_it_is = [own for own in self._scalings if self.form.scaling(own) == Scaling()]
        return self.architecture({**member.values, **as_it_is[0]}) if member is not None and as_it_is else None

    def envelope(self) -> Iterator[Architecture]:
        """Those of the other space at each scaling that no other one exceeds in every dimension.

        No member need be the deepest and the widest at once; of the members that have a block at all, the widest has
        its weights at their largest.
        """
        for member in self.base.envelope():
            for own in self.form.largest():
                yield self.architecture({**member.values, **own})


def _base(base: Mapping[str, Any] | None, input_shape: tuple[int, ...], classes: int) -> SearchSpace:
    settings = dict(base or {"name": "mobile"})
    name = settings.pop("name", None)
    if not isinstance(name, str) or name == "compound":
        raise SpaceError(f"base names the space whose members are scaled, such as {{name: mobile}}; got {base!r}")
    return make_space(name, {"input_shape": input_shape, "classes": classes, **settings})

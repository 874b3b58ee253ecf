"""Choices, architectures and the spaces they span: pure Python, no torch.

A space is a list of `Choice`s and one function, `graph`, from an assignment of options to an operator
graph. Everything that walks a space (sampling, mutation, enumeration, encoding) lives here once and knows
nothing of convolutions; everything that reads networks reads the graph.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

from .errors import SpaceError, did_you_mean

if TYPE_CHECKING:
    import numpy as np

    from .graph import Graph, Shape
    from .scaling.rules import Scaling

Option = int | float | str | bool
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"  # in the order of text, so that codes sort


@dataclass(frozen=True)
class Choice:
    """One named decision with an ordered tuple of options.

    Order options from small to large where that means anything: the last one is taken for the largest
    when a supernet is laid out. A choice with `when=(parent, options)` counts only while the choice
    `parent` has one of these options (block 3 of a stage, say, only while the depth is 3 or 4); otherwise
    it rests at its first option, so that equal networks are equal architectures.

    >>> Choice("kernel", (3, 5, 7)).options
    (3, 5, 7)
    """

    name: str
    options: tuple[Option, ...]
    when: tuple[str, tuple[Option, ...]] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", tuple(self.options))
        if not self.options or len({(isinstance(o, bool), o) for o in self.options}) != len(self.options):
            raise SpaceError(f"choice {self.name!r} needs distinct options, at least one; got {self.options!r}")
        if len(self.options) > len(_DIGITS):
            raise SpaceError(
                f"choice {self.name!r} has {len(self.options)} options; at most {len(_DIGITS)} are allowed"
            )

    def index(self, option: Option) -> int:
        """Position of an option; raises `SpaceError` with the allowed ones."""
        for i, allowed in enumerate(self.options):
            if allowed == option and isinstance(allowed, bool) == isinstance(option, bool):
                return i
        near = did_you_mean(str(option), map(str, self.options))
        raise SpaceError(f"choice {self.name!r} has no option {option!r}: {near}")


@dataclass(frozen=True, slots=True)
class Architecture:
    """An immutable assignment of an option to each choice of one space.

    Made by `SearchSpace.architecture`, `decode` or `sample`, never by hand: they settle resting choices.
    Reads as a mapping: `architecture["kernel"]`.
    """

    space: str
    choices: tuple[Choice, ...] = field(repr=False, compare=False)
    indices: tuple[int, ...]

    def __getitem__(self, name: str) -> Option:
        for choice, index in zip(self.choices, self.indices, strict=True):
            if choice.name == name:
                return choice.options[index]
        raise SpaceError(f"unknown choice {name!r}: {did_you_mean(name, [c.name for c in self.choices])}")

    @property
    def values(self) -> dict[str, Option]:
        """Choice name to option, in the order of the space."""
        return {c.name: c.options[i] for c, i in zip(self.choices, self.indices, strict=True)}

    @property
    def code(self) -> str:
        """The option indices as one character a choice: short, lossless, sortable."""
        return "".join(_DIGITS[i] for i in self.indices)

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces; equal architectures give equal text."""
        return json.dumps({"space": self.space, "choices": self.values}, sort_keys=True, separators=(",", ":"))

    @property
    def id(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the canonical JSON; the same on every machine."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


class SearchSpace(ABC):
    """What can be built: choices, and the graph of each assignment.

    Subclasses call `super().__init__(choices, input_shape=..., classes=...)` and implement `graph`. The two
    keyword arguments are filled from the data when a run makes the space. Nodes of `graph` that bear the
    same name in two members share their weights in a supernet: a member uses the first channels and the
    centre of the kernel of the largest tensor under that name. Where an option must have weights of its
    own, put the option into the node's name.

    Attributes:
        name: registered name, also part of every architecture's id.
        input_shape: `(C, H, W)` of one image, or what `input_axes` names.
        classes: number of classes; of texts, the size of the vocabulary.
        input_axes: names of the axes of `input_shape`.
        pretrained: whether the shared weights are those of a trained network, see `Pruned`; then a run need not train
            them.
    """

    name: ClassVar[str] = ""
    input_axes: tuple[str, ...] = ("channels", "height", "width")
    pretrained: ClassVar[bool] = False
    input_shape: Shape
    classes: int

    def __init__(
        self, choices: Iterable[Choice], *, input_shape: Sequence[int] = (3, 32, 32), classes: int = 10
    ) -> None:
        self.choices: tuple[Choice, ...] = tuple(choices)
        self.input_shape = tuple(int(s) for s in input_shape)
        self.classes = int(classes)
        self._position = {c.name: i for i, c in enumerate(self.choices)}
        if len(self._position) != len(self.choices):
            raise SpaceError(f"space {self.name!r} names a choice twice; every choice needs a name of its own")
        if len(self.input_shape) != len(self.input_axes) or min(self.input_shape) < 1 or self.classes < 1:
            raise SpaceError(
                f"space {self.name!r} needs input_shape ({', '.join(self.input_axes)}) and classes >= 1; "
                f"got {self.input_shape} and {self.classes}"
            )
        self._rests = [self._resting_rule(c) for c in self.choices]

    def _resting_rule(self, choice: Choice) -> tuple[int, frozenset[int]] | None:
        if choice.when is None:
            return None
        parent, options = choice.when
        if parent not in self._position:
            raise SpaceError(f"choice {choice.name!r} depends on {parent!r}: {did_you_mean(parent, self._position)}")
        owner = self.choices[self._position[parent]]
        if owner.when is not None:
            raise SpaceError(f"choice {choice.name!r} depends on {parent!r}, which depends on another; one level only")
        return self._position[parent], frozenset(owner.index(o) for o in options)

    # ---- what a space must and may say -------------------------------------------------------------------

    @abstractmethod
    def graph(self, architecture: Architecture) -> Graph:
        """The operator graph of one member."""

    def canonical(self, architecture: Architecture) -> Architecture:
        """The representative of all members that are the same network; by default the member itself."""
        return architecture

    def symmetric(self, architecture: Architecture, rng: np.random.Generator) -> Architecture:
        """A random one of the members that are the same network; by default the member itself."""
        return architecture

    def sketch(self, architecture: Architecture) -> Graph:
        """The smallest graph that tells members apart, which predictors read; by default `graph`.

        Spaces that repeat a searched cell return the cell once.
        """
        return self.graph(architecture)

    def envelope(self) -> Iterator[Architecture]:
        """Members that together bear every weight of the space at its largest.

        By default the member with all last options, and those that differ from it in one choice.
        """
        largest = self.from_indices([len(c.options) - 1 for c in self.choices])
        yield largest
        yield from self.neighbours(largest)

    def envelope_graphs(self) -> Iterator[Graph]:
        """Graphs that together bear every weight at its largest; by default those of `envelope`."""
        yield from map(self.graph, self.envelope())

    def scaled(self, architecture: Architecture, scaling: Scaling) -> Graph:
        """The graph of a member with multiplied depth, width and resolution; see `search_spaces.scaling`.

        Images stay those of the data: the network brings them to its resolution itself. By default the member's graph
        is grown as that of any network is; a space that knows its stages does it by them.
        """
        from .scaling.growing import grow
        from .scaling.image import behind_resize

        return behind_resize(grow(self.graph(architecture), scaling), self.input_shape)

    @property
    def reference(self) -> Architecture | None:
        """The member that bounds such as `latency_ms <= 0.5x` are relative to; None where none stands out."""
        return None

    def slices(self, architecture: Architecture) -> Mapping[str, tuple[np.ndarray | None, ...]]:
        """What a member uses of shared tensors, where that is not the first channels and the centre of the kernel.

        By the tensor's name in state dicts: sorted indices along each of its leading axes, None for all of an axis.
        """
        return {}

    # ---- making members ----------------------------------------------------------------------------------

    def from_indices(self, indices: Sequence[int]) -> Architecture:
        """The member with these option indices; choices that do not count are set to rest at 0."""
        if len(indices) != len(self.choices):
            raise SpaceError(f"space {self.name!r} has {len(self.choices)} choices; got {len(indices)} indices")
        settled = tuple(
            int(i) if rule is None or indices[rule[0]] in rule[1] else 0
            for i, rule in zip(indices, self._rests, strict=True)
        )
        for i, choice in zip(settled, self.choices, strict=True):
            if not 0 <= i < len(choice.options):
                raise SpaceError(f"choice {choice.name!r} has options 0 to {len(choice.options) - 1}; got index {i}")
        return Architecture(self.name, self.choices, settled)

    def architecture(self, values: Mapping[str, Any] | None = None, **more: Any) -> Architecture:
        """The member with these options; choices left out take their first option.

        Raises:
            SpaceError: an unknown choice or option, with the nearest allowed name.
        """
        given = {**(values or {}), **more}
        for name in given:
            if name not in self._position:
                raise SpaceError(f"space {self.name!r} has no choice {name!r}: {did_you_mean(name, self._position)}")
        return self.from_indices([c.index(given[c.name]) if c.name in given else 0 for c in self.choices])

    def decode(self, code: str) -> Architecture:
        """Inverse of `Architecture.code`."""
        try:
            return self.from_indices([_DIGITS.index(d) for d in code])
        except ValueError:
            raise SpaceError(f"code {code!r} holds a character outside 0-9, a-z, A-Z; copy it from a table") from None

    def from_json(self, text: str) -> Architecture:
        """Inverse of `Architecture.to_json`; refuses the architecture of another space."""
        try:
            data = json.loads(text)
            space, values = data["space"], dict(data["choices"])
        except (KeyError, TypeError, ValueError) as e:
            raise SpaceError(f'not an architecture ({e}); expected {{"space": name, "choices": {{...}}}}') from None
        if space != self.name:
            raise SpaceError(f"the architecture belongs to space {space!r}, this space is {self.name!r}")
        return self.architecture(values)

    # ---- walking the space -------------------------------------------------------------------------------

    def sample(self, rng: np.random.Generator) -> Architecture:
        """A member with every choice drawn uniformly from its options."""
        return self.from_indices(rng.integers(self._counts).tolist())

    def mutate(self, architecture: Architecture, rng: np.random.Generator, changes: int = 1) -> Architecture:
        """A different member: `changes` choices that count are redrawn among their other options."""
        movable = [i for i in self.counting(architecture) if len(self.choices[i].options) > 1]
        if not movable:
            raise SpaceError(f"space {self.name!r} has one member only; there is nothing to mutate")
        indices = list(architecture.indices)
        for i in rng.choice(movable, size=min(changes, len(movable)), replace=False):
            shift = 1 + int(rng.integers(len(self.choices[i].options) - 1))
            indices[i] = (indices[i] + shift) % len(self.choices[i].options)
        return self.from_indices(indices)

    def neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        """All members that differ in one choice that counts."""
        for i in self.counting(architecture):
            for option in range(len(self.choices[i].options)):
                if option != architecture.indices[i]:
                    indices = list(architecture.indices)
                    indices[i] = option
                    yield self.from_indices(indices)

    def enumerate(self) -> Iterator[Architecture]:
        """Every member once, in the order of their codes."""
        for indices in product(*(range(n) for n in self._counts)):
            if all(
                rule is None or i == 0 or indices[rule[0]] in rule[1]
                for i, rule in zip(indices, self._rests, strict=True)
            ):
                yield Architecture(self.name, self.choices, indices)

    def counting(self, architecture: Architecture) -> list[int]:
        """Positions of the choices that do not rest in this member."""
        return [i for i, rule in enumerate(self._rests) if rule is None or architecture.indices[rule[0]] in rule[1]]

    @cached_property
    def size(self) -> int:
        """Number of members, exactly (isomorphic ones counted each)."""
        total = 1
        for p, parent in enumerate(self.choices):
            if parent.when is None:
                total *= sum(self._children_count(p, option) for option in range(len(parent.options)))
        return total

    @property
    def distinct(self) -> int:
        """Number of distinct networks, where a space knows it; else that of members, of which some may be the same."""
        return self.size

    def _children_count(self, parent: int, option: int) -> int:
        rules = zip(self.choices, self._rests, strict=True)
        return math.prod(len(c.options) for c, r in rules if r is not None and r[0] == parent and option in r[1])

    @cached_property
    def _counts(self) -> list[int]:
        return [len(c.options) for c in self.choices]

    def __repr__(self) -> str:
        ends = f"input_shape={self.input_shape}, classes={self.classes}"
        return f"{type(self).__name__}(choices={len(self.choices)}, size={self.size:.4g}, {ends})"

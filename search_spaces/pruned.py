"""Any trained network as a space: how much of each group of channels stays, and which residual blocks do.

The shared weights hold the units of every group in falling order of importance, so a member is given by how many units
of each group it keeps: always the first ones. Neither graphs nor costs need weights or scores, so a space of cuts is
walked as fast as any other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from .errors import SpaceError
from .graph import Graph
from .memo import Memo
from .space import Architecture, Choice, SearchSpace
from .spaces import register_space

if TYPE_CHECKING:
    import numpy as np

    from .coupling import Block, Coupling
    from .network import Network


@register_space("pruned")
class Pruned(SearchSpace):
    """Cuts of a network.

    Choices bear the names of groups (options are kept shares) and `BLOCK.kept`. A group that lies inside a removable
    block counts only while the block is kept.

    Args:
        model: a registered network such as `resnet20`, `file.py:function`, a timm or torchvision name, or a bundle.
        weights: its trained weights (safetensors, or a state dict that torch saved); None where the model brings them.
        criterion: by which units are put in order of importance; see `nas-engine list criteria`.
        settings: of the criterion.
        ratios: shares of a group that may be kept; 1.0 must be among them.
        blocks: whether residual blocks may be left out.
        multiple: numbers of channels kept are rounded to multiples of this, where a group is wide enough.
        images: training images on which the criterion judges.
    """

    pretrained: ClassVar[bool] = True

    def __init__(
        self,
        *,
        input_shape: Sequence[int] = (3, 32, 32),
        classes: int = 10,
        model: str = "resnet20",
        weights: str | None = None,
        criterion: str = "taylor",
        settings: Mapping[str, object] | None = None,
        ratios: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
        blocks: bool = True,
        multiple: int = 1,
        images: int = 1024,
    ) -> None:
        from .coupling.order import parts

        self.ratios = _checked(ratios)
        self.multiple = _whole("multiple", multiple, "channels")
        self.images = _whole("images", images, "training images")
        self.model, self.weights = str(model), weights if weights is None else str(weights)
        if settings is not None and not isinstance(settings, Mapping):
            raise SpaceError(f"settings of a criterion are a mapping such as {{p: 1}}; got {settings!r}")
        self.criterion, self.settings = criterion, dict(settings or {})
        shape = tuple(int(s) for s in input_shape)
        if len(shape) != len(self.input_axes):
            raise SpaceError(f"space 'pruned' cuts networks for images (channels, height, width); the data are {shape}")
        self.coupling = _coupled(self.model, shape, int(classes))
        self._parts = parts(self.coupling)
        self.removable = _separate(self.coupling.blocks) if blocks else ()
        choices, self._counts_kept = self._choices()
        if not choices:
            raise SpaceError(f"nothing of model {model!r} can be cut: {_reasons(self.coupling)}")
        super().__init__(choices, input_shape=shape, classes=classes)
        self._made = Memo(self._cut)

    def _choices(self) -> tuple[list[Choice], dict[str, tuple[int, ...]]]:
        """The choices, and how many units each option of a group keeps."""
        choices = [Choice(_kept_name(block), (False, True)) for block in self.removable]
        counts: dict[str, tuple[int, ...]] = {}
        for group in self._parts:
            kept = _options(len(group), self.ratios, self.multiple)
            counts[group.name] = tuple(kept)
            if len(kept) > 1:
                owner = next((b for b in self.removable if set(group.makers) <= set(b.nodes)), None)
                when = None if owner is None else (_kept_name(owner), (True,))
                choices.append(Choice(group.name, tuple(kept.values()), when))
        return choices, counts

    # ---- members -------------------------------------------------------------------------------------------

    @property
    def reference(self) -> Architecture:
        """The network that nothing is cut from."""
        return self.from_indices([len(c.options) - 1 for c in self.choices])

    def envelope(self) -> Iterator[Architecture]:
        """The network that nothing is cut from bears every weight."""
        yield self.reference

    def sample(self, rng: np.random.Generator) -> Architecture:
        """A random member: choices are drawn around a level of its own, one for all widths and one for all blocks.

        With choices that do not know of one another nearly all members would be of one size: the more choices, the
        nearer. Here an option's index is binomial with a probability from Beta(2, 1), for blocks Beta(3, 1), so sizes
        spread from the smallest to the whole, and half of the members have about half of its arithmetic or more.
        """
        import numpy as np

        of_blocks = np.arange(len(self.choices)) < len(self.removable)
        level = np.where(of_blocks, rng.beta(3, 1), rng.beta(2, 1))
        return self.from_indices(rng.binomial(np.array(self._counts) - 1, level).tolist())

    def graph(self, architecture: Architecture) -> Graph:
        return self._made(architecture.indices)

    def _cut(self, indices: tuple[int, ...]) -> Graph:
        from .coupling import cut

        gone = [b.name for b, i in zip(self.removable, indices, strict=False) if not i]
        return cut(self.coupling, self._mask(indices), gone)

    def keep(self, architecture: Architecture) -> np.ndarray:
        """`(units,)` bool: which units of `coupling` a member keeps; those of blocks that are gone do not matter."""
        return self._mask(architecture.indices)

    def without(self, architecture: Architecture) -> tuple[str, ...]:
        """Names of the blocks that a member leaves out."""
        return tuple(b.name for b, i in zip(self.removable, architecture.indices, strict=False) if not i)

    def _mask(self, indices: Sequence[int]) -> np.ndarray:
        kept = self._most.copy()
        kept[self._chosen] = [counts[i] for counts, i in zip(self._tables, indices[len(self.removable) :], strict=True)]
        return self._rank < kept[self._part_of]

    @cached_property
    def _most(self) -> np.ndarray:
        """(parts,) how many units of each part the whole network has."""
        import numpy as np

        return np.array([len(part) for part in self._parts])

    @cached_property
    def _rank(self) -> np.ndarray:
        """(units,) the place of each unit in its part."""
        import numpy as np

        rank = np.zeros(self.coupling.count, dtype=np.int64)
        for part in self._parts:
            rank[part.units] = np.arange(len(part))
        return rank

    @cached_property
    def _part_of(self) -> np.ndarray:
        """(units,) the position of each unit's part."""
        import numpy as np

        found = np.zeros(self.coupling.count, dtype=np.int64)
        for i, part in enumerate(self._parts):
            found[part.units] = i
        return found

    @cached_property
    def _chosen(self) -> np.ndarray:
        """Positions of the parts that are choices, in the order of the choices."""
        import numpy as np

        position = {part.name: i for i, part in enumerate(self._parts)}
        return np.array([position[c.name] for c in self.choices[len(self.removable) :]], dtype=np.int64)

    @cached_property
    def _tables(self) -> list[tuple[int, ...]]:
        """Of each group that is a choice: how many units its options keep."""
        return [self._counts_kept[c.name] for c in self.choices[len(self.removable) :]]

    def slices(self, architecture: Architecture) -> Mapping[str, tuple[np.ndarray | None, ...]]:
        from .coupling.cutting import kept_along

        keep = self.keep(architecture)
        return {name: kept_along(axes, keep) for name, axes in self.coupling.tensors.items()}

    # ---- weights -------------------------------------------------------------------------------------------

    def trained(self) -> Network:
        """The network as it was given, with its weights, in evaluation mode.

        Raises:
            SpaceError: no weights, or those of another architecture.
        """
        from .models import load_model
        from .network import Network

        if self.weights is None and not _brings_weights(self.model):
            raise SpaceError(f"model {self.model!r} comes without trained weights; give weights: FILE beside it")
        module = load_model(self.model, input_shape=self.input_shape, classes=self.classes, weights=self.weights)
        state, network = module.state_dict(), Network(self.coupling.graph)
        network.load_state_dict({name: state[name] for name in network.state_dict()})
        return network.eval()


def _kept_name(block: Block) -> str:
    return f"{block.name}.kept"


def _checked(ratios: Sequence[float]) -> tuple[float, ...]:
    """Shares in rising order."""
    numbers = isinstance(ratios, list | tuple) and all(
        isinstance(r, int | float) and not isinstance(r, bool) for r in ratios
    )
    if not numbers or len({float(r) for r in ratios}) != len(ratios) or not all(0 < r <= 1 for r in ratios):
        raise SpaceError(f"ratios are different shares above 0 and up to 1, such as [0.25, 0.5, 1.0]; got {ratios!r}")
    if 1.0 not in ratios:
        raise SpaceError(f"ratios must hold 1.0, the group as it is; got {list(ratios)}")
    return tuple(sorted(float(r) for r in ratios))


def _whole(name: str, value: int, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SpaceError(f"{name} is a number of {what}, 1 or more; got {value!r}")
    return value


def _options(size: int, ratios: Sequence[float], multiple: int) -> dict[int, float]:
    """The ratio of each number of units that can be kept; of ratios that come to the same number, the nearest to it."""
    found: dict[int, float] = {}
    for ratio in ratios:
        count = size if ratio == 1 else min(size, max(1, math.floor(size * ratio + 0.5)))
        if multiple > 1 and size >= 2 * multiple and ratio < 1:
            count = min(size, max(multiple, math.floor(count / multiple + 0.5) * multiple))
        if count not in found or abs(ratio - count / size) < abs(found[count] - count / size):
            found[count] = ratio
    return found


def _separate(blocks: Sequence[Block]) -> tuple[Block, ...]:
    """Blocks that hold no other one: what is inside them can then depend on one choice."""
    return tuple(b for b in blocks if not any(o is not b and set(o.nodes) < set(b.nodes) for o in blocks))


def _brings_weights(model: str) -> bool:
    """Whether a model may be trained as it comes: a user's function or a bundle, but no bare name."""
    return ".py:" in model or Path(model).is_dir()


def _reasons(coupling: Coupling) -> str:
    told = "; ".join(f"{f.node}: {f.reason}" for f in coupling.frozen[:3])
    return told or "it has no convolution or linear layer whose channels others read"


@lru_cache(maxsize=8)
def _coupled(model: str, input_shape: tuple[int, ...], classes: int) -> Coupling:
    """What can be cut out of a model, found once a process.

    Raises:
        SpaceError: some of it has no operator, so that a cut of it could not be built from a graph alone.
    """
    import torch

    from .coupling import couple
    from .models import load_model
    from .trace import trace

    module = load_model(model, input_shape=input_shape, classes=classes)
    graph = trace(module, torch.zeros(2, *input_shape)).simplify()
    foreign = [node.name for node in graph if node.operator == "other"]
    if foreign:
        raise SpaceError(
            f"model {model!r} calls what no operator stands for ({', '.join(foreign[:3])}), so its cuts cannot be "
            "built from graphs; write these calls with torch's own layers"
        )
    if [n.shape for n in map(graph.__getitem__, graph.outputs)] != [(classes,)]:
        raise SpaceError(f"model {model!r} gives {graph[graph.outputs[0]].shape} where the data has {classes} classes")
    return couple(graph)

"""What a family is: its published members, where their weights come from, and what its space varies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import SpaceError, did_you_mean
from ..registry import Registry
from .skeleton import Skeleton

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Member:
    """A published network.

    Attributes:
        make: its table.
        source: which library has it, and under what name: ("timm", "efficientnet_b0").
    """

    make: Callable[[], Skeleton]
    source: tuple[str, str]


@dataclass(frozen=True)
class Family:
    """A family of networks.

    Attributes:
        name: of the family, also of its space.
        members: by published name.
        original: the name that a tensor of ours bears in the state dict of the library that `Member.source` names;
            `original(member, name)`.
    """

    name: str
    members: Mapping[str, Member]
    original: Callable[[str, str], str]


families: Registry[Family] = Registry("family", SpaceError)


def file_family(family: Family) -> Family:
    """Make a family known by its name."""
    return families.register(family.name)(family)


def published() -> dict[str, Family]:
    """Published names of all families, with the family of each."""
    return {member: family for _, family in families.items() for member in family.members}


def skeleton(name: str) -> Skeleton:
    """The table of a published network.

    Raises:
        SpaceError: no family has it.
    """
    return _family_of(name).members[name].make()


def published_state(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a published network's library under the names of ours.

    Args:
        name: such as `efficientnet_b0`.
        state: of the library's module; see `Member.source`.

    Raises:
        SpaceError: tensors are missing, left over, or of another shape.
    """
    import torch

    from ..network import Network

    family = _family_of(name)
    with torch.device("meta"):
        wanted = Network(skeleton(name).graph()).state_dict()
    names = {ours: family.original(name, ours) for ours in wanted}
    missing = [theirs for theirs in names.values() if theirs not in state]
    unknown = sorted(set(state) - set(names.values()))
    if missing or unknown:
        told = f"{len(missing)} missing ({', '.join(missing[:3])}), {len(unknown)} left over ({', '.join(unknown[:3])})"
        raise SpaceError(f"the state dict is not that of {name!r} in {family.members[name].source[0]}: {told}")
    shapes = [n for n, theirs in names.items() if state[theirs].shape != wanted[n].shape]
    if shapes:
        raise SpaceError(f"tensors of {name!r} have other shapes: {', '.join(shapes[:3])}; give those of 1000 classes")
    return {ours: state[theirs] for ours, theirs in names.items()}


def _family_of(name: str) -> Family:
    known = published()
    if name not in known:
        raise SpaceError(f"no family has a member {name!r}: {did_you_mean(name, known)}")
    return known[name]

"""One set of weights for a whole space.

A node's name is its weight slot. The supernet holds each slot once, at its largest over the space; a member
runs on slices of it: the first channels (or those that the space names), the centre of the kernel, the first blocks,
the chosen operator (the last two by names alone). Smaller kernels may be learned maps of larger ones instead of their
centres. The executor is the one of standalone networks.
"""

from __future__ import annotations

import math
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .errors import SpaceError
from .graph import Node
from .inputs import spread_out
from .kernels import KERNEL_TRANSFORM, KernelTransform, chain
from .modules import Stateful, StochasticDepth, VariationalDropout, WordDropout
from .network import Network, Plan, execute, fetch, function, learned, make_module, place, plan, slot
from .slices import Kept, corner, cut, leading, part_of
from .space import Architecture, SearchSpace

_PLANS = 256
_REGULARISERS = (nn.modules.dropout._DropoutNd, StochasticDepth, VariationalDropout, WordDropout)


class Supernet(nn.Module):
    """Shared weights of a `SearchSpace`; every member runs on a slice of them.

    Args:
        kernel_transform: layers whose kernels vary in size map the larger ones to the smaller ones by learned matrices,
            see `KernelTransform`; else a smaller kernel is the centre of a larger one.

    Raises:
        SpaceError: if no member of `space.envelope()` has some slot at its largest.

    >>> supernet = Supernet(space)  # doctest: +SKIP
    >>> logits = supernet(images, architecture)  # doctest: +SKIP
    >>> network = supernet.extract(architecture)  # doctest: +SKIP
    """

    def __init__(self, space: SearchSpace, *, kernel_transform: bool = False) -> None:
        super().__init__()
        self.space = space
        slots, sizes = _largest_slots(space)
        for path, thing in slots:
            place(self, path, thing)
        for path, thing in slots:
            found = chain(sizes[path]) if kernel_transform and isinstance(thing, nn.modules.conv._ConvNd) else None
            if found is not None:
                place(self, f"{path}.{KERNEL_TRANSFORM}", KernelTransform(found))
        self._bare = {path for path, thing in slots if isinstance(thing, Tensor)}
        self._shells: dict[Any, _Shell] = {}
        self._plans: OrderedDict[Architecture, tuple[Plan, list[_Shell]]] = OrderedDict()

    @classmethod
    def of_state(cls, space: SearchSpace, state: Mapping[str, Tensor]) -> Supernet:
        """The supernet whose state dict this is, with kernel transforms where it holds some."""
        supernet = cls(space, kernel_transform=any(f".{KERNEL_TRANSFORM}." in name for name in state))
        supernet.load_state_dict(state)
        return supernet

    def forward(self, images: Tensor, architecture: Architecture, regularised: bool = True) -> Tensor:
        """Logits `(N, classes)` of one member for images `(N, C, H, W)`.

        Args:
            regularised: whether a training drops out (features, words, residual branches), where the space has that.
        """
        steps, shells = self._planned(architecture)
        for shell in shells:
            shell.bind(self.training and (regularised or not shell.regularises))
        logits: Tensor = execute(steps, *spread_out((images,)))
        if self.training:
            for shell in shells:
                shell.give_back()
        return logits

    def subnet(self, architecture: Architecture) -> Callable[[Tensor], Tensor]:
        """The member as a function of images, running on the shared weights."""
        return lambda images: self(images, architecture)

    @torch.no_grad()
    def extract(self, architecture: Architecture) -> Network:
        """A standalone copy of the member, with its slice of weights and batch-norm statistics."""
        weight = next(self.parameters())
        network = Network(self.space.graph(architecture)).to(weight.device, weight.dtype)
        state, named = self.state_dict(), self.space.slices(architecture)
        network.load_state_dict(
            {k: self.slice_of(k, state[k], v.shape, named.get(k)).clone() for k, v in network.state_dict().items()}
        )
        return network.train(self.training)

    def slice_of(
        self, name: str, tensor: Tensor, shape: torch.Size | tuple[int, ...], kept: Kept | None = None
    ) -> Tensor:
        """What a member with a tensor of `shape` has of the slot called `name`, or of its gradient.

        Of a slot with kernel transforms it is what they make of the slot's weights, and not to be asked of a gradient.
        `kept` is what the space says of this tensor, see `SearchSpace.slices`.
        """
        if name in self._bare:
            return corner(tensor, shape) if kept is None else part_of(tensor, kept)
        folder, _, last = name.rpartition(".")
        return _member_part(tensor, tuple(shape), kept, _transform(self.get_submodule(folder), last))

    def recalibrate(self, architecture: Architecture, batches: Iterable[Tensor]) -> None:
        """Replace the batch-norm statistics of a member by those of some batches, each weighted equally."""
        norms = []
        for shell in self._planned(architecture)[1]:
            if isinstance(shell.module, nn.modules.batchnorm._BatchNorm):
                shell.bind(True)
                shell.module.reset_running_stats()
                shell.give_back()
                norms.append(shell.module)
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = None  # a plain average over the batches
        training = self.training
        try:
            self.train()
            with torch.no_grad():
                for images in batches:
                    self(images, architecture)
        finally:
            self.train(training)
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum

    def parameters_of(self, architecture: Architecture) -> set[str]:
        """Names of the shared parameters that a member uses."""
        steps, shells = self._planned(architecture)
        names = {f"{s.path}.{n}" for s in shells for n in (*s.parameters, *s.transforms)}
        names |= {s.node.name for s in steps.steps if s.node.signature.operator.parameter() is not None}
        return names & {n for n, _ in self.named_parameters()}

    def _planned(self, architecture: Architecture) -> tuple[Plan, list[_Shell]]:
        if architecture.space != self.space.name:
            raise SpaceError(f"architecture of space {architecture.space!r}; this supernet is of {self.space.name!r}")
        if architecture not in self._plans:
            used: list[_Shell] = []
            named: dict[str, dict[str, Kept]] = defaultdict(dict)
            for name, kept in self.space.slices(architecture).items():
                path, _, last = name.rpartition(".")
                named[path][last] = kept
            graph = self.space.graph(architecture)
            self._plans[architecture] = plan(graph, lambda node: self._call(node, used, named)), used
            while len(self._plans) > _PLANS:
                self._plans.popitem(last=False)
        self._plans.move_to_end(architecture)
        return self._plans[architecture]

    def _call(self, node: Node, used: list[_Shell], named: dict[str, dict[str, Kept]]) -> Callable[..., Any]:
        operator = node.signature.operator
        if operator.parameter() is not None:
            path, _, name = node.name.rpartition(".")
            return self._tensor(node, named[path].get(name))
        if node.signature.pure:
            names = [f"x{i}" for i in range(len(node.inputs))]
            return function(operator.expression(*names) or "", len(names))
        path = slot(node)
        kept = named[path]
        told = tuple((n, *(None if i is None else i.tobytes() for i in k)) for n, k in sorted(kept.items()))
        key = path, node.signature, told
        if key not in self._shells:
            self._shells[key] = _Shell(self, node, kept)
        used.append(self._shells[key])
        return self._shells[key].module

    def _tensor(self, node: Node, kept: Kept | None) -> Callable[[], Tensor]:
        """A reader of a bare tensor's slice: the first entries of all its axes, as it has no kernel."""
        with torch.device("meta"):
            ((_, thing),) = learned(node)
        read, shape = fetch(self, node.name), _tensor_shapes(node.name, thing)[node.name]
        return lambda: corner(read(), shape) if kept is None else part_of(read(), kept)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shells": {}, "_plans": OrderedDict()}


class _Shell:
    """A module of a member's own size whose tensors are slices of the supernet's slot."""

    def __init__(self, supernet: Supernet, node: Node, kept: Mapping[str, Kept]) -> None:
        self.path = slot(node)
        with torch.device("meta"):
            module = make_module(node)
        if module is None:
            raise SpaceError(f"node {node.name!r} has no module to bind")
        self.module: nn.Module = module
        try:
            self._slot = supernet.get_submodule(self.path)
        except AttributeError:
            raise SpaceError(f"no member of envelope() has node {node.name!r}; add one that has it") from None
        if isinstance(module, Stateful) and isinstance(self._slot, Stateful):
            module.memory = self._slot.memory
        self.regularises = isinstance(module, _REGULARISERS)
        self._shapes = {**_shapes(module._parameters), **_shapes(module._buffers)}
        self.parameters = tuple(_shapes(module._parameters))
        self._transforms = {n: t for n in self._shapes if (t := _transform(self._slot, n)) is not None}
        self.transforms = tuple(
            f"{KERNEL_TRANSFORM}.{used}" for n, t in self._transforms.items() for used in t.used(self._shapes[n][2:])
        )
        self._kept = {name: kept[name] for name in self._shapes if name in kept}
        copied = {n for n, k in self._kept.items() if not all(i is None or leading(i) for i in k)}
        self._returned = tuple(copied & set(_shapes(module._buffers)))
        for name in self._shapes:  # plain attributes from here on, so that slices can be bound
            delattr(module, name)

    def bind(self, training: bool) -> None:
        """Bind fresh slices; slices of an earlier step belong to an autograd graph that is gone."""
        attributes = self.module.__dict__
        for name, shape in self._shapes.items():
            tensor = getattr(self._slot, name)
            attributes[name] = _member_part(tensor, shape, self._kept.get(name), self._transforms.get(name))
        self.module.training = training

    def give_back(self) -> None:
        """Write buffers that were bound as copies (running statistics of picked channels) to the slot."""
        for name in self._returned:
            (indices,) = self._kept[name]
            place = torch.from_numpy(indices).to(self.module.__dict__[name].device)
            getattr(self._slot, name).index_copy_(0, place, self.module.__dict__[name])


def _shapes(tensors: Mapping[str, Tensor | None]) -> dict[str, torch.Size]:
    return {name: t.shape for name, t in tensors.items() if t is not None}


def _member_part(
    tensor: Tensor, shape: tuple[int, ...], kept: Kept | None, transform: KernelTransform | None
) -> Tensor:
    """What a member has of a module's tensor: its channels, then its kernel."""
    if kept is not None:
        tensor = part_of(tensor, kept)
    if transform is None or tensor.shape[2:] == shape[2:]:
        return cut(tensor, shape)
    return transform(cut(tensor, (*shape[:2], *tensor.shape[2:])), shape[2:])


def _transform(slot: nn.Module, name: str) -> KernelTransform | None:
    """What a slot's tensor goes through on its way to a member with a smaller kernel."""
    found = slot._modules.get(KERNEL_TRANSFORM) if name == "weight" else None
    return found if isinstance(found, KernelTransform) else None


def _largest_slots(
    space: SearchSpace,
) -> tuple[list[tuple[str, nn.Module | nn.Parameter | Tensor]], dict[str, set[tuple[int, ...]]]]:
    """Every slot of the space, made from the node that has it at its largest, and the sizes of its kernels."""
    largest: dict[str, Node] = {}
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    sizes: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for graph in space.envelope_graphs():
        for node in graph.simplify().nodes:
            if node.signature.pure or (node.name in largest and largest[node.name].signature is node.signature):
                continue
            for path, new in _widen(node, largest, shapes):
                sizes[path].add(new.get("weight", ())[2:])
    slots = [thing for node in largest.values() for thing in learned(node)]
    for path, thing in slots:
        have = _tensor_shapes(path, thing)
        if any(have[k] != v for k, v in shapes[path].items()):
            raise SpaceError(
                f"no member of envelope() of space {space.name!r} has node {path!r} at its largest in all axes; "
                f"the members need {shapes[path]}. Override envelope(), or give the node a name for each option"
            )
    return slots, sizes


def _widen(
    node: Node, largest: dict[str, Node], shapes: dict[str, dict[str, tuple[int, ...]]]
) -> Iterator[tuple[str, dict[str, tuple[int, ...]]]]:
    """Make slots as large as a node needs them; each with the shapes of its tensors in this node."""
    with torch.device("meta"):
        made = learned(node)
    for path, thing in made:
        new = _tensor_shapes(path, thing)
        old = shapes.get(path, new)
        if {k: len(v) for k, v in old.items()} != {k: len(v) for k, v in new.items()}:
            raise SpaceError(f"node {path!r} means different operators in two members; put the option into its name")
        shapes[path] = {k: tuple(map(max, old[k], new[k])) for k in new}
        if path not in largest or math.prod(map(math.prod, new.values())) > math.prod(map(math.prod, old.values())):
            largest[path] = node
        yield path, new


def _tensor_shapes(path: str, thing: nn.Module | nn.Parameter | Tensor) -> dict[str, tuple[int, ...]]:
    if isinstance(thing, nn.Module):
        return {k: tuple(v.shape) for k, v in thing.state_dict().items()}
    return {path: tuple(thing.shape)}

"""One set of weights for a whole space.

A node's name is its weight slot. The supernet holds each slot once, at its largest over the space; a member
runs on slices of it: the first channels (or those that the space names), the centre of the kernel, the first blocks,
the chosen operator (the last two by names alone). Tensors of modules inside an operator's own, as graph convolutions
have them, are cut to the first entries of all axes. Smaller kernels may be learned maps of larger ones instead of their
centres. The executor is the one of standalone networks.
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from .errors import SpaceError
from .graph import Node, Signature
from .inputs import GraphInput, spread_out
from .kernels import KERNEL_TRANSFORM, KernelTransform, chain
from .message_passing import DropoutMask, GraphEquilibrium, Masked
from .modules import Stateful, StochasticDepth, VariationalDropout, WordDropout
from .network import Network, Plan, execute, fetch, function, learned, make_module, place, plan, slot
from .slices import Kept, corner, cut, leading, part_of
from .space import Architecture, SearchSpace

_PLANS = 256
_REGULARISERS = (nn.modules.dropout._DropoutNd, StochasticDepth, VariationalDropout, WordDropout, DropoutMask, Masked)
_BatchNorm = nn.modules.batchnorm._BatchNorm


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
        self._whole = {path for path, thing in slots if isinstance(thing, nn.Module)}
        self._shells: dict[Any, _Shell] = {}
        self._plans: OrderedDict[Architecture, tuple[Plan, list[_Shell]]] = OrderedDict()

    @classmethod
    def of_state(cls, space: SearchSpace, state: Mapping[str, Tensor]) -> Supernet:
        """The supernet whose state dict this is, with kernel transforms where it holds some."""
        supernet = cls(space, kernel_transform=any(f".{KERNEL_TRANSFORM}." in name for name in state))
        supernet.load_state_dict(state)
        return supernet

    def forward(self, images: Tensor | GraphInput, architecture: Architecture, regularised: bool = True) -> Tensor:
        """Logits `(N, classes)` of one member for images `(N, C, H, W)`, or `(1, N, classes)` for a graph's nodes.

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
        transform = _transform(self.get_submodule(folder), last)
        return _member_part(tensor, tuple(shape), kept, transform, inner=folder not in self._whole)

    def recalibrate(self, architecture: Architecture, batches: Iterable[Tensor | GraphInput]) -> None:
        """Replace the batch-norm statistics of a member by those of some batches, each weighted equally."""
        norms = []
        for shell in self._planned(architecture)[1]:
            found = [part for part in shell.module.modules() if isinstance(part, _BatchNorm)]
            if found:
                shell.bind(True)
                for norm in found:
                    norm.reset_running_stats()
                shell.give_back()
                norms += found
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
        return self._shells[key].call

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
        self._places = {name: (_owner(module, name), _owner(self._slot, name)) for name in _tensor_names(module)}
        self._shapes = {name: _leaf(owner, name).shape for name, (owner, _) in self._places.items()}
        self.parameters = tuple(name for name, _ in module.named_parameters())
        self._transforms = {n: t for n in self._shapes if (t := _transform(self._slot, n)) is not None}
        self.transforms = tuple(
            f"{KERNEL_TRANSFORM}.{used}" for n, t in self._transforms.items() for used in t.used(self._shapes[n][2:])
        )
        self._kept = {name: kept[name] for name in self._shapes if name in kept}
        copied = {n for n, k in self._kept.items() if not all(i is None or leading(i) for i in k)}
        self._returned = tuple(copied - set(self.parameters))
        self._parts = tuple(module.modules())

    @property
    def call(self) -> Callable[..., Any]:
        """What a plan calls. A module that its gradient calls again must not meet the slices of a later step there."""
        return self._apart if isinstance(self.module, GraphEquilibrium) else self.module

    def _apart(self, *inputs: Tensor) -> Any:
        return _twin(self.module)(*inputs)

    def bind(self, training: bool) -> None:
        """Bind fresh slices; slices of an earlier step belong to an autograd graph that is gone.

        They stand where torch looks for parameters and buffers, so that modules that ask for theirs find them.
        """
        for name, shape in self._shapes.items():
            (owner, source), last = self._places[name], name.rpartition(".")[2]
            kept, transform, inner = self._kept.get(name), self._transforms.get(name), last != name
            part: Any = _member_part(getattr(source, last), shape, kept, transform, inner)
            (owner._parameters if last in owner._parameters else owner._buffers)[last] = part
        for module in self._parts:
            module.training = training

    def give_back(self) -> None:
        """Write buffers that were bound as copies (running statistics of picked channels) to the slot."""
        for name in self._returned:
            (indices,) = self._kept[name]
            owner, source = self._places[name]
            place = torch.from_numpy(indices).to(_leaf(owner, name).device)
            _leaf(source, name).index_copy_(0, place, _leaf(owner, name))


def _tensor_names(module: nn.Module) -> list[str]:
    """Dotted names of all parameters and buffers, those that are in no state dict as well."""
    return [name for name, _ in (*module.named_parameters(), *module.named_buffers())]


def _owner(module: nn.Module, name: str) -> nn.Module:
    """The part of a module that has the tensor of a dotted name."""
    return module.get_submodule(name.rpartition(".")[0])


def _leaf(owner: nn.Module, name: str) -> Tensor:
    tensor: Tensor = getattr(owner, name.rpartition(".")[2])
    return tensor


def _twin(module: nn.Module) -> nn.Module:
    """A module of the same tensors, to which others may be bound later without the first one seeing them."""
    twin = copy.copy(module)
    for name in ("_parameters", "_buffers"):
        twin.__dict__[name] = dict(twin.__dict__[name])
    twin.__dict__["_modules"] = {name: part and _twin(part) for name, part in module._modules.items()}
    return twin


def _member_part(
    tensor: Tensor, shape: tuple[int, ...], kept: Kept | None, transform: KernelTransform | None, inner: bool
) -> Tensor:
    """What a member has of a module's tensor: its channels, then its kernel; `inner` ones, of a module inside the
    operator's own, have no kernel.
    """
    if kept is not None:
        tensor = part_of(tensor, kept)
    if inner:
        return corner(tensor, shape)
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
    named = node.signature.operator.parameter() is not None
    for path, new in _shapes_of(node) if named else [(slot(node), s) for s in _module_shapes(node.signature)]:
        old = shapes.get(path, new)
        if {k: len(v) for k, v in old.items()} != {k: len(v) for k, v in new.items()}:
            raise SpaceError(f"node {path!r} means different operators in two members; put the option into its name")
        shapes[path] = {k: tuple(map(max, old[k], new[k])) for k in new}
        if path not in largest or math.prod(map(math.prod, new.values())) > math.prod(map(math.prod, old.values())):
            largest[path] = node
        yield path, new


def _shapes_of(node: Node) -> list[tuple[str, dict[str, tuple[int, ...]]]]:
    with torch.device("meta"):
        return [(path, _tensor_shapes(path, thing)) for path, thing in learned(node)]


@cache
def _module_shapes(signature: Signature) -> list[dict[str, tuple[int, ...]]]:
    """Those of the tensors of an operator's module, which are the same wherever it stands; none without a module."""
    return [shapes for _, shapes in _shapes_of(Node("module", signature, ()))]


def _tensor_shapes(path: str, thing: nn.Module | nn.Parameter | Tensor) -> dict[str, tuple[int, ...]]:
    if isinstance(thing, nn.Module):
        return {k: tuple(v.shape) for k, v in thing.state_dict().items()}
    return {path: tuple(thing.shape)}

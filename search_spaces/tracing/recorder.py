"""Recording a module as a torch.fx graph on tensors without memory.

Proxies carry fake tensors, so sizes are plain numbers while the module runs: control flow on shapes, and arithmetic
with them, is followed like any Python. What cannot be followed stays one call of the sub-module it lies in.
"""

from __future__ import annotations

import copy
import logging
import operator
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.fx.node import map_aggregate
from torch.fx.proxy import Attribute, TraceError

from ..errors import GraphError

_log = logging.getLogger(__name__)
_OPAQUE = (nn.RNNBase, nn.RNNCellBase)
_OF_DATA = (DataDependentOutputException, DynamicOutputShapeException)
_OURS = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]), "<")
_NEW = frozenset({"new_zeros", "new_ones", "new_full", "new_tensor"})


def record(module: nn.Module, inputs: Sequence[tuple[tuple[int, ...], torch.dtype, torch.device]]) -> Recorder:
    """Record `module` on inputs of these shapes (with the batch), types and devices, as in evaluation.

    A copy runs, on the same tensors: what a module keeps of a call (tables of positions, say) is not kept in it.

    Raises:
        GraphError: the module fails on such inputs, or its control flow depends on data; names the line of its code.
    """
    try:
        shared = {id(t): t for t in (*module.parameters(), *module.buffers(), *plain_tensors(module))}
        with _quiet():
            return Recorder(copy.deepcopy(module, shared).eval(), inputs)
    except Exception as e:  # a module may fail in any way
        shapes = " and ".join(str(s) for s, *_ in inputs)
        raise GraphError(
            f"torch.fx cannot follow {type(module).__name__} on inputs of {shapes}: {told(e)}; {_advice(e)}"
        ) from e


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from printing tracebacks of what is told in one line."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def told(error: Exception) -> str:
    """Why a call could not be followed, with the line outside torch and this package that it happened in."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, _OF_DATA):
        reason = "it needs a number that only data give"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_OURS)]
    if not frames:
        return reason
    line = f" `{frames[-1].line}`" if frames[-1].line else ""
    return f"{reason} (at {frames[-1].filename}:{frames[-1].lineno}{line})"


def _advice(error: Exception) -> str:
    if isinstance(error, _OF_DATA):
        return "write the condition with torch.where, or move it out of forward"
    return "mend this line, or give inputs of the shape that the module takes"


def plain_tensors(module: nn.Module) -> list[Tensor]:
    """Tensors among the attributes that are neither parameters nor buffers; `copy.deepcopy` refuses computed ones."""
    return [v for part in module.modules() for v in vars(part).values() if isinstance(v, Tensor)]


class ValueProxy(fx.Proxy):
    """A proxy that knows the fake tensor, or the tuple of them, that it stands for."""

    tracer: Recorder

    def __init__(self, node: fx.Node, tracer: Recorder, value: Any) -> None:
        super().__init__(node, tracer)
        self.value = value

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.__dict__["value"], name)
        if isinstance(found, Tensor):
            return self.tracer.create_proxy("call_function", getattr, (self, name), {})
        return Attribute(self, name) if callable(found) else found

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Iterator[Any]:
        return iter(
            [self.tracer.create_proxy("call_function", operator.getitem, (self, i), {}) for i in range(len(self))]
        )

    def __bool__(self) -> bool:
        return bool(self.value)

    def __int__(self) -> int:
        return int(self.value)

    def __float__(self) -> float:
        return float(self.value)

    def __index__(self) -> int:
        return int(self.value)


def _in_place(function: Any) -> Any:
    def apply(self: ValueProxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return apply


for _function in (operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ipow, operator.imatmul):
    setattr(ValueProxy, f"__{_function.__name__}__", _in_place(_function))


class Recorder(fx.Tracer):
    """Runs a module once and keeps what it did.

    Attributes:
        graph: the torch.fx graph; `node.meta["value"]` is the fake result, `meta["path"]` the sub-module that made it,
            `meta["written"]` the nodes whose tensors were changed in place.
        tensors: parameters, buffers and constants by the name that `get_attr` nodes use; constants of the code are
            named `constant0`, ...
        named: names of the module's own tensors among them.
        kept: calls that could not be followed and are one node each, by the path of the module, with the reason.
        inputs: shapes (with the batch), types and devices of the inputs.
    """

    def __init__(self, module: nn.Module, inputs: Sequence[tuple[tuple[int, ...], torch.dtype, torch.device]]) -> None:
        super().__init__()
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[int, str] = {}
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            self.tensors[name] = tensor
            self._names[id(tensor)] = name
        self.named = frozenset(self.tensors)
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.inputs = inputs
        self.kept: dict[str, str] = {}
        self._paths = [""]
        self._entered: set[Any] = set()
        self._evaluating = False
        with torch.no_grad():
            self.trace(module)
        self.graph.eliminate_dead_code(is_impure_node=lambda n: bool(n.meta.get("written")) or _is_edge(n))

    # ---- what torch.fx calls -----------------------------------------------------------------------------

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Placeholders for the given inputs only; other arguments keep their defaults."""
        root, proxies = self.root, []
        for i, (shape, dtype, device) in enumerate(self.inputs):
            with self._fake:
                value = torch.empty(shape, dtype=dtype, device=device)
            proxies.append(self._proxy("placeholder", f"input{i}", (), {}, value))
        return (lambda *tensors: root.forward(*tensors)), proxies

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if isinstance(attr_val, Tensor) and not self._evaluating:
            return self._tensor(attr_val)
        return attr_val

    def create_arg(self, a: Any) -> Any:
        return self._tensor(a).node if isinstance(a, Tensor) else super().create_arg(a)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self._evaluating or m not in (self.submodule_paths or {}):
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        self._paths.append(path)
        try:
            if isinstance(m, _OPAQUE) or m._forward_hooks or m._forward_pre_hooks:
                return self.create_proxy("call_module", path, args, kwargs)
            return self._enter(
                lambda: forward(*args, **kwargs), lambda: self.create_proxy("call_module", path, args, kwargs)
            )
        finally:
            self._paths.pop()

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> Any:
        """A node of the graph, or the plain result where it holds no tensor (a size, say)."""
        if kind == "call_function" and _is_wrapped(target) and target not in self._entered:
            return self._enter_function(target, args, kwargs)
        if target in _NEW and kind == "call_method" and not _tensors((args[1:], kwargs)):
            like = args[0].value
            return getattr(torch.empty((), dtype=like.dtype, device=like.device), target)(*args[1:], **kwargs)
        given = _tensors((args, kwargs))
        before = [(p, p.value._version) for p in given]
        value = self._evaluate(kind, target, args, kwargs)
        written = [p.node for p, version in before if p.value._version != version]
        if not _holds_tensor(value):
            if written:
                raise TraceError(f"{target} writes into a tensor in place")
            return value
        return self._proxy(kind, target, args, kwargs, value, written)

    # ---- running and falling back ------------------------------------------------------------------------

    def _proxy(self, kind: str, target: Any, args: Any, kwargs: Any, value: Any, written: Any = ()) -> ValueProxy:
        node = self.create_node(kind, target, self.create_arg(args), self.create_arg(kwargs))
        node.meta.update(value=value, path=self._paths[-1], written=tuple(written))
        return ValueProxy(node, self, value)

    def _tensor(self, tensor: Tensor) -> ValueProxy:
        """The proxy of a parameter, buffer or constant."""
        if id(tensor) not in self._names:
            self._names[id(tensor)] = name = f"constant{len(self.tensors)}"
            self.tensors[name] = tensor
        return self._proxy("get_attr", self._names[id(tensor)], (), {}, self._fake.from_tensor(tensor))

    def _evaluate(self, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
        args, kwargs = _values((args, kwargs))
        with self._evaluation():
            if kind == "call_function":
                return target(*args, **kwargs)
            if kind == "call_method":
                return getattr(args[0], target)(*args[1:], **kwargs)
            part = self.root.get_submodule(target)
            try:
                return part(*args, **kwargs)
            except _OF_DATA:
                result = part(*_map_tensors(args, _real), **_map_tensors(kwargs, _real))
                return _map_tensors(result, self._fake.from_tensor)

    @contextmanager
    def _evaluation(self) -> Iterator[None]:
        outer, self._evaluating = self._evaluating, True
        try:
            yield
        finally:
            self._evaluating = outer

    def _enter(self, run: Callable[[], Any], stay_outside: Callable[[], Any]) -> Any:
        """Follow a call; where that fails, forget what it recorded and keep the call as one node."""
        last = next(iter(reversed(self.graph.nodes)))
        try:
            return run()
        except Exception as e:  # whatever a module does with a proxy that is no tensor
            self.kept[self._paths[-1]] = told(e)
            _log.info("%r is kept as one call: %s", self._paths[-1], e)
            for node in reversed(self.graph.nodes):
                if node is last:
                    break
                self.graph.erase_node(node)
            return stay_outside()

    def _enter_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Functions marked by `torch.fx.wrap` are followed too: most only read shapes."""
        self._entered.add(target)
        try:
            return self._enter(
                lambda: target(*args, **kwargs), lambda: self.create_proxy("call_function", target, args, kwargs)
            )
        finally:
            self._entered.discard(target)


def _is_edge(node: fx.Node) -> bool:
    return node.op in ("placeholder", "output")


def _is_wrapped(target: Any) -> bool:
    return isinstance(target, FunctionType) and not (target.__module__ or "").startswith("torch.")


def _values(thing: Any) -> Any:
    """Proxies replaced by what they stand for."""
    return map_aggregate(thing, lambda a: a.value if isinstance(a, ValueProxy) else a)


def _map_tensors(thing: Any, function: Callable[[Tensor], Tensor]) -> Any:
    return map_aggregate(thing, lambda a: function(a) if isinstance(a, Tensor) else a)


def _real(fake: Tensor) -> Tensor:
    """A tensor with memory for a module whose control flow looks at numbers; its shapes, one hopes, do not."""
    return torch.zeros(fake.shape, dtype=fake.dtype, device=fake.device)


def _tensors(thing: Any) -> list[ValueProxy]:
    found: list[ValueProxy] = []
    map_aggregate(
        thing, lambda a: found.append(a) if isinstance(a, ValueProxy) and isinstance(a.value, Tensor) else None
    )
    return found


def _holds_tensor(value: Any) -> bool:
    found: list[Tensor] = []
    map_aggregate(value, lambda a: found.append(a) if isinstance(a, Tensor) else None)
    return bool(found)

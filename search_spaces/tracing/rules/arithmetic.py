"""Rules of element-wise functions and of calls that change nothing."""

from __future__ import annotations

from typing import Any

from ...graph import Node
from ...operators.activation import ACTIVATIONS
from ...operators.arithmetic import FUNCTIONS
from ..layout import Unsupported, Value
from ..translator import Translator, rule

_BOTH = {"add": ("add", "add"), "subtract": ("subtract", "subtract_from"), "multiply": ("multiply", "multiply")}
_BOTH |= {"divide": ("divide", "divide_into"), "power": ("power", "power_of")}
_OPERATORS = {"add", "subtract", "multiply"}
_OTHER_NAMES = {"logsigmoid": ("log_sigmoid",), "neg": ("negative",), "abs": ("absolute",)}


def _binary(t: Translator, kind: str, a: Any, b: Any) -> Node:
    if isinstance(a, Value) and isinstance(b, Value):
        if kind in _OPERATORS:
            return t.add(kind, *t.aligned(a, b))
        return t.add("combine", *t.aligned(a, b), kind=kind)
    (tensor, value), order = ((a, b), 0) if isinstance(a, Value) else ((b, a), 1)
    if (
        not isinstance(tensor, Value)
        or isinstance(value, bool)
        or not isinstance(value, int | float)
        or kind not in _BOTH
    ):
        raise Unsupported(f"{kind} of {a} and {b}")
    whole = isinstance(value, int) and "int" in t.out.dtype
    return t.add("scalar", t.node(tensor), kind=_BOTH[kind][order], value=value if whole else float(value), whole=whole)


@rule("add")
def _add(t: Translator, input: Any, other: Any, *, alpha: float = 1) -> Node:
    if alpha != 1:
        raise Unsupported(f"alpha={alpha}")
    return _binary(t, "add", input, other)


@rule("sub", "subtract")
def _subtract(t: Translator, input: Any, other: Any, *, alpha: float = 1) -> Node:
    if alpha != 1:
        raise Unsupported(f"alpha={alpha}")
    return _binary(t, "subtract", input, other)


@rule("rsub")
def _subtract_from(t: Translator, input: Any, other: Any, *, alpha: float = 1) -> Node:
    return _subtract(t, other, input, alpha=alpha)


@rule("mul", "multiply")
def _multiply(t: Translator, input: Any, other: Any) -> Node:
    return _binary(t, "multiply", input, other)


@rule("div", "divide", "truediv", "true_divide")
def _divide(t: Translator, input: Any, other: Any, *, rounding_mode: str | None = None) -> Node:
    if rounding_mode is not None:
        raise Unsupported(f"rounding_mode={rounding_mode!r}")
    return _binary(t, "divide", input, other)


@rule("pow")
def _power(t: Translator, input: Any, exponent: Any) -> Node:
    return _binary(t, "power", input, exponent)


@rule("maximum")
def _maximum(t: Translator, input: Any, other: Any) -> Node:
    return _binary(t, "maximum", input, other)


@rule("minimum")
def _minimum(t: Translator, input: Any, other: Any) -> Node:
    return _binary(t, "minimum", input, other)


@rule("clamp", "clip", "hardtanh", "clamp_min", "clamp_max")
def _clamp(
    t: Translator, input: Value, min: Any = None, max: Any = None, *, min_val: Any = None, max_val: Any = None,
    inplace: bool = False,
) -> Node:  # fmt: skip
    low, high = (min if min_val is None else min_val), (max if max_val is None else max_val)
    if t.name == "clamp_max":
        low, high = high, low
    if t.name == "hardtanh":
        low, high = (-1.0 if low is None else low), (1.0 if high is None else high)
    if "float" not in t.out.dtype or not all(v is None or isinstance(v, int | float) for v in (low, high)):
        raise Unsupported(f"limits {low} and {high}")
    if (low, high) == (0, 6):
        return t.add("activation", t.node(input), kind="relu6")
    low, high = (v if v is None else float(v) for v in (low, high))
    return t.add("clamp", t.node(input), low=low, high=high)


@rule("gelu")
def _gelu(t: Translator, input: Value, *, approximate: str = "none") -> Node:
    return t.add("activation", t.node(input), kind="gelu" if approximate == "none" else "gelu_tanh")


@rule("leaky_relu")
def _leaky_relu(t: Translator, input: Value, negative_slope: float = 0.01, inplace: bool = False) -> Node:
    return t.add("activation", t.node(input), kind="leaky_relu", slope=float(negative_slope))


@rule("elu")
def _elu(t: Translator, input: Value, alpha: float = 1.0, inplace: bool = False) -> Node:
    return t.add("activation", t.node(input), kind="elu", slope=float(alpha))


@rule("softplus")
def _softplus(t: Translator, input: Value, beta: float = 1, threshold: float = 20) -> Node:
    if (beta, threshold) != (1, 20):
        raise Unsupported(f"softplus with beta {beta} and threshold {threshold}")
    return t.add("activation", t.node(input), kind="softplus")


@rule("softmax", "log_softmax")
def _softmax(t: Translator, input: Value, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Node:
    return t.add("softmax", t.node(_same_type(t, input)), axis=input.layout.axis(dim), log=t.name == "log_softmax")


@rule("zeros_like")
def _zeros_like(t: Translator, input: Value, **options: Any) -> Node:
    if t.out != input.layout:
        raise Unsupported(f"zeros of type {t.out.dtype}")
    return t.add("zero", t.node(input))


@rule("glu")
def _glu(t: Translator, input: Value, dim: int = -1) -> Node:
    axis, x = input.layout.axis(dim), t.node(input)
    half = x.shape[axis] // 2
    value = t.add("slice", x, axis=axis, start=0, stop=half)
    gate = t.add("slice", x, axis=axis, start=half, stop=2 * half)
    return t.add("multiply", value, t.add("activation", gate, kind="sigmoid"))


@rule("normalize")
def _normalize(t: Translator, input: Value, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None) -> Node:
    return t.add("normalize", t.node(input), axis=input.layout.axis(dim), p=float(p), eps=float(eps))


def _same_type(t: Translator, value: Value) -> Value:
    if value.layout.dtype != t.out.dtype:
        raise Unsupported(f"{value.layout.dtype} to {t.out.dtype} on the way")
    return value


# ---- calls without effect ---------------------------------------------------------------------------------


@rule("contiguous", "clone", "detach", "requires_grad", "positive", "cpu", "cuda", "alias")
def _unchanged(t: Translator, input: Value, *args: Any, **kwargs: Any) -> Value:
    return input


@rule("to", "type", "type_as", "float", "double", "half", "bfloat16", "int", "long", "bool")
def _cast(t: Translator, input: Value, *args: Any, **kwargs: Any) -> Value | Node:
    if t.out == input.layout:
        return input
    return t.add("cast", t.node(input), dtype=t.out.dtype)


@rule("dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout", "alpha_dropout")
def _dropout(t: Translator, input: Value, p: float = 0.5, training: bool = True, inplace: bool = False) -> Value | Node:
    """Recorded as in evaluation: dropout that acts even then is none."""
    if training:
        raise Unsupported("dropout outside training")
    if not p:
        return input
    kind = {"dropout": "element", "alpha_dropout": "alpha"}.get(t.name, "channel")
    if kind == "channel" and not (input.layout.plain and t.name == f"dropout{len(input.layout.sizes) - 2}d"):
        raise Unsupported(f"{t.name} of {input.layout.sizes}")
    return t.add("dropout", t.node(input), p=float(p), kind=kind)


def _file_plain_functions() -> None:
    """Rules of functions of one tensor without attributes, by the names that the operators give them."""

    def of(operator: str, kind: str) -> None:
        def apply(t: Translator, input: Value, inplace: bool = False) -> Node:
            return t.add(operator, t.node(_same_type(t, input)), kind=kind)

        rule(kind, *_OTHER_NAMES.get(kind, ()))(apply)

    for kind in ACTIVATIONS.keys() - {"leaky_relu", "elu", "softplus", "gelu", "gelu_tanh"}:
        of("activation", kind)
    for kind in FUNCTIONS:
        of("elementwise", kind)


_file_plain_functions()

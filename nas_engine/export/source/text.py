"""Small pieces of Python source: names, literals, constructor calls, and breaking long statements as ruff does."""

from __future__ import annotations

import ast
import inspect
import json
import keyword
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

WIDTH = 110
_PAIRS = frozenset({"kernel_size", "stride", "padding", "dilation", "output_padding"})
_RESERVED = frozenset({"self", "torch", "nn", "F", "Tensor", "getattr"})


@dataclass(frozen=True)
class Argument:
    """One argument of a call.

    Attributes:
        keyword: what stands before `=`, None for a positional argument.
        name: what it is called in the callee's signature; a class parameter that takes its place is named so.
        text: its source.
        literal: whether the text is a literal, which a class parameter may replace.
        default: the literal that may be left out, "" for none.
    """

    keyword: str | None
    name: str
    text: str
    literal: bool
    default: str = ""

    def write(self, text: str) -> str:
        """The argument with another text in place of its own; empty where that is the default."""
        if self.keyword is None:
            return text
        return "" if text == self.default else f"{self.keyword}={text}"


@dataclass(frozen=True)
class Construction:
    """A call that makes a module or a tensor; `arguments` is None where the source is no plain call."""

    callee: str
    arguments: tuple[Argument, ...] | None


def is_plain(name: str) -> bool:
    """Whether `owner.name` in a class body means the attribute of that name."""
    mangled = name.startswith("__") and not name.endswith("__")
    return name.isidentifier() and not keyword.iskeyword(name) and not mangled


def identifier(path: str) -> str:
    """A variable name for a dotted path.

    >>> identifier("layer1.0.conv-a")
    'layer1_0_conv_a'
    """
    name = re.sub(r"\W+", "_", path).strip("_") or "value"
    name = f"v{name}" if name[0].isdigit() else name
    return f"{name}_" if keyword.iskeyword(name) or name in _RESERVED else name


def camel(text: str) -> str:
    """A class name for an operator or a folder.

    >>> camel("conv_bn_act")
    'ConvBnAct'
    """
    name = "".join(part[:1].upper() + part[1:] for part in re.split(r"[^A-Za-z0-9]+", text))
    return name if name and name[0].isalpha() else f"Part{name}"


def quote(text: str) -> str:
    """A string literal in double quotes."""
    return json.dumps(text)


def literal(value: Any) -> str:
    """The source of a plain value, strings in double quotes."""
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(literal, value))}{',' if len(value) == 1 else ''})"
    return repr(value)


def parse_construction(source: str) -> Construction:
    """An operator's constructor as callee and arguments."""
    tree = ast.parse(source.strip(), mode="eval").body
    if not isinstance(tree, ast.Call) or not _is_simple(tree):
        return Construction(source.strip(), None)
    callee = ast.unparse(tree.func)
    defaults = _defaults(callee)
    names = [*defaults, *["size"] * len(tree.args)]
    return Construction(
        callee,
        (
            *(_argument(callee, None, name, node, "") for name, node in zip(names, tree.args, strict=False)),
            *(_argument(callee, k.arg, k.arg or "", k.value, defaults.get(k.arg or "", "")) for k in tree.keywords),
        ),
    )


def _is_simple(call: ast.Call) -> bool:
    """Without `*` and `**`."""
    return all(k.arg is not None for k in call.keywords) and not any(isinstance(a, ast.Starred) for a in call.args)


def _argument(callee: str, word: str | None, name: str, node: ast.expr, default: str) -> Argument:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return Argument(word, name, ast.unparse(node), False)
    if callee.startswith("nn.Conv") and name in _PAIRS and isinstance(value, tuple) and len(set(value)) == 1:
        value = value[0]
    return Argument(word, name, literal(value), True, default)


@cache
def _defaults(callee: str) -> dict[str, str]:
    """Parameters of a class of torch.nn in order, with the sources of their default values ("" for none)."""
    from torch import nn

    made = getattr(nn, callee.removeprefix("nn."), None) if callee.startswith("nn.") else None
    if made is None:
        return {}
    parameters = inspect.signature(made).parameters.values()
    return {p.name: "" if p.default is p.empty else literal(p.default) for p in parameters}


def without_parentheses(expression: str) -> str:
    """The expression without a pair of parentheses around the whole of it.

    >>> without_parentheses("(x + y)"), without_parentheses("(x + y) * (x - y)")
    ('x + y', '(x + y) * (x - y)')
    """
    if not (expression.startswith("(") and expression.endswith(")")):
        return expression
    try:
        inner = ast.parse(expression[1:-1], mode="eval")
    except SyntaxError:
        return expression
    same = ast.dump(inner) == ast.dump(ast.parse(expression, mode="eval"))
    return expression[1:-1] if same else expression


def call_lines(prefix: str, callee: str, arguments: Sequence[str], suffix: str = "", indent: int = 8) -> list[str]:
    """`prefix callee(arguments) suffix`, broken into indented lines where it is too long."""
    margin = " " * indent
    line = f"{margin}{prefix}{callee}({', '.join(arguments)}){suffix}"
    if len(line) <= WIDTH or not arguments:
        return [line]
    inner = f"{margin}    {', '.join(arguments)}"
    if len(inner) <= WIDTH:
        return [*_fill(f"{margin}{prefix}{callee}("), inner, f"{margin}){suffix}"]
    broken = [line for a in arguments for line in _fill(f"{margin}    {a},")]
    return [*_fill(f"{margin}{prefix}{callee}("), *broken, f"{margin}){suffix}"]


def statement_lines(prefix: str, expression: str, indent: int = 8) -> list[str]:
    """`prefix expression`, broken where it is too long."""
    line = f"{' ' * indent}{prefix}{expression}"
    if len(line) <= WIDTH:
        return [line]
    tree = ast.parse(expression, mode="eval").body
    if isinstance(tree, ast.Call):
        parts = [ast.get_source_segment(expression, node) or "" for node in (tree.func, *tree.args)]
        words = [f"{k.arg}={ast.get_source_segment(expression, k.value)}" for k in tree.keywords]
        return call_lines(prefix, parts[0], [*parts[1:], *words], indent=indent)
    return _fill(f"{' ' * indent}{prefix}({expression})")


def _fill(line: str) -> list[str]:
    """A line that opens a bracket or lies inside one, broken at spaces; a line with strings, after commas only."""
    if len(line) <= WIDTH:
        return [line]
    margin = " " * (len(line) - len(line.lstrip()) + 4)
    if '"' not in line and "'" not in line:
        return textwrap.wrap(line, WIDTH, subsequent_indent=margin, break_long_words=False, break_on_hyphens=False)
    lines = [""]
    for token in _between_commas(line):
        if lines[-1].strip() and len(lines[-1]) + len(token) > WIDTH + 1:
            lines[-1] = lines[-1].rstrip()
            lines.append(margin)
        lines[-1] += token
    return lines


def _between_commas(line: str) -> list[str]:
    """Parts of a line that each end after a comma and a space; no part ends inside a string."""
    parts = [""]
    for token in re.findall(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|, |[^"\',]+|.', line):
        parts[-1] += token
        if token == ", ":
            parts.append("")
    return parts

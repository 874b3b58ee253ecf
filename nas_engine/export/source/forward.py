"""The body of a `forward`: statements become lines, values get the names a person would give them.

A value that is used up by the statement that reads it hands its variable on, so a chain of layers reads
`x = ...` line by line and holds no tensor longer than needed. What starts at an argument is `x`; a side
branch is called after what all its nodes share in name, or `y`, `z`, ... where they share nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from search_spaces.network import slot

from .scopes import Scopes, Statement
from .text import identifier, statement_lines, without_parentheses

_LETTERS = ("x", "y", "z", "u", "v", "w")


@dataclass(frozen=True)
class Forward:
    """Names of the arguments, and the lines of the body."""

    arguments: tuple[str, ...]
    lines: tuple[str, ...]


def write_forward(scopes: Scopes, scope: str) -> Forward:
    """The `forward` of one scope."""
    statements = scopes.statements(scope)
    arguments, results = scopes.arguments(scope), scopes.results(scope)
    chains = _chains(scopes, scope, statements)
    names = _name_chains(chains, arguments, scope, _named(scopes))
    variable = {value: names[i] for i, chain in enumerate(chains) for value in chain}

    def read(value: str) -> str:
        return scopes.access(scope, value) if scopes.reads(scope, value) else variable[value]

    lines: list[str] = []
    for i, statement in enumerate(statements):
        text = without_parentheses(_expression(scopes, scope, statement, [read(v) for v in statement.inputs]))
        last = i == len(statements) - 1 and results == (statement.output,)
        lines += statement_lines("return " if last else f"{variable[statement.output]} = ", text)
    if not statements or results != (statements[-1].output,):
        lines.append(f"        return {', '.join(map(read, results))}")
    return Forward(tuple(variable[a] for a in arguments), tuple(lines))


def _expression(scopes: Scopes, scope: str, statement: Statement, inputs: list[str]) -> str:
    path = statement.name
    if not statement.is_folder:
        node = scopes.graph[path]
        if (expression := node.signature.operator.expression(*inputs)) is not None:
            return expression
        path = slot(node)
    return f"{scopes.access(scope, path)}({', '.join(inputs)})"


def _chains(scopes: Scopes, scope: str, statements: Sequence[Statement]) -> list[list[str]]:
    """Values that share a variable, each list in the order of assignment; one list an argument comes first."""
    arguments = scopes.arguments(scope)
    last = {value: i for i, s in enumerate(statements) for value in s.inputs}
    kept = set(scopes.results(scope))
    chains = [[a] for a in arguments]
    chain_of = {a: i for i, a in enumerate(arguments)}
    named = {chain_of[a] for a in arguments if a in _named(scopes)}
    for i, statement in enumerate(statements):
        inputs = list(dict.fromkeys(v for v in statement.inputs if not scopes.reads(scope, v)))
        ending = [v for v in inputs if last[v] == i and v not in kept]
        heirs = [chain_of[v] for v in ending if len(inputs) == 1 or chain_of[v] < len(arguments)]
        heirs = [heir for heir in heirs if heir not in named]
        if not heirs:
            heirs = [len(chains)]
            chains.append([])
        chains[heirs[0]].append(statement.output)
        chain_of[statement.output] = heirs[0]
    return chains


def _named(scopes: Scopes) -> dict[str, str]:
    """Inputs of the network beside the first, by node: they keep their names, and their variables are not reused."""
    return {node.name: identifier(node.name) for node in scopes.graph.inputs[1:]}


def _name_chains(chains: list[list[str]], arguments: Sequence[str], scope: str, named: Mapping[str, str]) -> list[str]:
    letters = _letters()
    names = [named.get(a) or next(letters) for a in arguments]
    for chain in chains[len(arguments) :]:
        shared = _shared([v.removeprefix(f"{scope}.") if scope else v for v in chain])
        candidates = letters if not shared else _numbered(identifier(shared))
        names.append(next(name for name in candidates if name not in names))
    return names


def _shared(paths: Sequence[str]) -> str:
    """The longest dotted path that all paths begin with."""
    parts = []
    for names in zip(*(p.split(".") for p in paths), strict=False):
        if len(set(names)) > 1:
            break
        parts.append(names[0])
    return ".".join(parts)


def _letters() -> Iterator[str]:
    yield from _LETTERS
    for i in count(1):
        yield from (f"{letter}{i}" for letter in _LETTERS)


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}_{i}" for i in count(2))

"""Classes of `search_spaces.modules` as source, so that `model.py` stands without this project."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from search_spaces import Graph, modules


def names_of(graph: Graph) -> list[str]:
    """The classes of `search_spaces.modules` that the constructors of a graph name."""
    found: dict[str, None] = {}
    for node in graph.simplify().nodes:
        source = node.signature.operator.constructor(*node.signature.inputs)
        if source is not None:
            found.update(dict.fromkeys(n for n in _names(ast.parse(source)) if n in modules.MODULES))
    return list(found)


def module_sources(names: Iterable[str]) -> dict[str, str]:
    """Source of these classes and of what else of their file they use, by name, in the order of the file."""
    defined = _defined()
    needed, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += defined[name][1]
    return {name: source for name, (source, _) in defined.items() if name in needed}


@cache
def _defined() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Every class and function of the file: its source, and the names of others that it uses."""
    text = Path(modules.__file__).read_text(encoding="utf-8")
    lines = text.splitlines()
    nodes = [n for n in ast.parse(text).body if isinstance(n, ast.ClassDef | ast.FunctionDef)]
    known = {n.name for n in nodes}
    found = {}
    for node in nodes:
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        source = "\n".join(lines[first - 1 : node.end_lineno])
        uses = tuple(sorted({n for n in _names(node) if n in known} - {node.name}))
        found[node.name] = re.sub(r"  # type: ignore\S*", "", source), uses
    return found


def _names(tree: ast.AST) -> list[str]:
    return [n.id for n in ast.walk(tree) if isinstance(n, ast.Name)]

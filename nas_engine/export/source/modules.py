"""Classes of the engine's own modules as source, so that `model.py` stands without this project.

They are followed from file to file: what a class uses of its file, or imports from another file of `search_spaces`,
goes along, and so do the imports from elsewhere.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from search_spaces import Graph
from search_spaces.errors import ExportError
from search_spaces.network import OWN_MODULES

_WRITTEN = frozenset({"torch", "nn", "F", "Tensor", "json", "struct", "Path"})
"""Names that `model.py` imports in any case."""
_NOTE = re.compile(r"  # (?:type: ignore|noqa).*")


@dataclass(frozen=True)
class Definition:
    """A class, function or constant at the top of a file.

    Attributes:
        source: its text.
        uses: files and names of others in this project that it uses.
        imports: what it needs from elsewhere, as lines.
    """

    source: str
    uses: tuple[tuple[str, str], ...]
    imports: tuple[str, ...]


def names_of(graph: Graph) -> list[str]:
    """The classes of the engine's own that the constructors of a graph name."""
    found: dict[str, None] = {}
    for node in graph.simplify().nodes:
        source = node.signature.operator.constructor(*node.signature.inputs)
        if source is not None:
            found.update(dict.fromkeys(n for n in _names(ast.parse(source)) if n in OWN_MODULES))
    return list(found)


def module_sources(names: Iterable[str]) -> dict[str, str]:
    """Source of these classes and of all that they use, by name, in an order that can be run."""
    return {name: _definitions(file)[name].source for file, name in _needed(names)}


def module_imports(names: Iterable[str]) -> list[str]:
    """Import lines that these classes and all that they use need beside those that `model.py` has anyway."""
    return sorted({line for file, name in _needed(names) for line in _definitions(file)[name].imports})


def _needed(names: Iterable[str]) -> list[tuple[str, str]]:
    """(file, name) of all that must be written down: file after file, each in its own order.

    Raises:
        ExportError: two files define what is needed under one name.
    """
    waiting = [(inspect.getfile(OWN_MODULES[name]), name) for name in names]
    found: dict[str, set[str]] = {}
    order: list[str] = []
    while waiting:
        file, name = waiting.pop()
        if name in found.setdefault(file, set()):
            continue
        found[file].add(name)
        waiting += _definitions(file)[name].uses
    for file in sorted(found):
        _after(file, found, order)
    needed = [(file, name) for file in order for name in _definitions(file) if name in found[file]]
    taken = [name for _, name in needed]
    twice = sorted({name for name in taken if taken.count(name) > 1})
    if twice:
        raise ExportError(f"modules define {', '.join(twice)} in two files; leave the format 'model.py' out")
    return needed


def _after(file: str, found: Mapping[str, set[str]], order: list[str]) -> None:
    """Append a file after those that it takes things from."""
    if file in order:
        return
    others = {other for name in found[file] for other, _ in _definitions(file)[name].uses if other != file}
    for other in sorted(others):
        _after(other, found, order)
    order.append(file)


@cache
def _definitions(file: str) -> dict[str, Definition]:
    """Every class, function and constant of a file, in its order."""
    text = Path(file).read_text(encoding="utf-8")
    lines, tree = text.splitlines(), ast.parse(text)
    nodes = {name: node for node in tree.body for name in _defined(node)}
    outside, inside = _imported(tree, file)
    inside = {name: _origin(*where) for name, where in inside.items() if name in set(_names(tree))}
    found = {}
    for name, node in nodes.items():
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
        source = "\n".join(lines[first - 1 : node.end_lineno])
        used = dict.fromkeys(n for n in _names(node) if n != name)
        uses = [(file, n) for n in used if n in nodes] + [inside[n] for n in used if n in inside]
        imports = tuple(outside[n] for n in used if n in outside and n not in _WRITTEN)
        found[name] = Definition(_NOTE.sub("", source), tuple(uses), imports)
    return found


def _origin(file: str, name: str) -> tuple[str, str]:
    """Where what a file hands out under a name is defined."""
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    if any(name in _defined(node) for node in tree.body):
        return file, name
    inside = _imported(tree, file)[1]
    return _origin(*inside[name]) if name in inside else (file, name)


def _defined(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (target.id for target in targets if isinstance(target, ast.Name))


def _imported(tree: ast.Module, file: str) -> tuple[dict[str, str], dict[str, tuple[str, str]]]:
    """What the top of a file imports by name: lines for other packages, (file, name) for this project's own."""
    outside: dict[str, str] = {}
    inside: dict[str, tuple[str, str]] = {}
    for node in tree.body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                outside[alias.asname or alias.name.partition(".")[0]] = ast.unparse(ast.Import([alias]))
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            for alias in node.names:
                if node.level:
                    inside[alias.asname or alias.name] = (_file_of(node, file), alias.name)
                else:
                    outside[alias.asname or alias.name] = ast.unparse(ast.ImportFrom(node.module, [alias], 0))
    return outside, inside


def _file_of(node: ast.ImportFrom, file: str) -> str:
    """The file that a relative import takes its names from."""
    folder = Path(file).parents[node.level - 1]
    path = folder.joinpath(*(node.module or "").split("."))
    return str(path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py")


def _names(tree: ast.AST) -> list[str]:
    return [n.id for n in ast.walk(tree) if isinstance(n, ast.Name)]

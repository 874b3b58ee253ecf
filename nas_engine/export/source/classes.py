"""Classes of the generated source: equal structures share one, and what differs between them becomes arguments.

Blocks are compared from the inside out by their lines with all literals cut out. The literals that differ
between blocks of one class are the class's parameters; those that differ in step are one parameter, named
after the first place it fills.
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from search_spaces import Graph

from .forward import Forward, write_forward
from .scopes import Place, Scopes
from .text import Argument, Construction, call_lines, camel, identifier, parse_construction

MAX_PARAMETERS = 8


@dataclass(frozen=True)
class Parameter:
    """An argument of a class: its name, its type as far as known, and the literals it takes the place of."""

    name: str
    kind: str
    slots: tuple[int, ...]


@dataclass
class BlockClass:
    """A class of the generated source, written from one of its blocks."""

    name: str
    block: Block
    parameters: tuple[Parameter, ...]
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """A line of `__init__`: what stands before and after the expression, and what the expression makes."""

    before: str
    after: str
    child: str
    made: Construction | Block


@dataclass
class Block:
    """One folder (the root's path is empty) with its own literals; `made_of` is its class once that is known."""

    path: str
    title: str
    entries: list[Entry]
    forward: Forward
    made_of: BlockClass | None = None
    values: tuple[str, ...] = field(default=())

    @property
    def height(self) -> int:
        return 1 + max((e.made.height for e in self.entries if isinstance(e.made, Block)), default=-1)

    def slots(self) -> Iterator[tuple[Entry, str, str]]:
        """Every literal of `__init__`: its entry, the name of the argument, its text."""
        for entry in self.entries:
            if isinstance(entry.made, Construction):
                for argument in entry.made.arguments or ():
                    if argument.literal:
                        yield entry, argument.name, argument.text
            else:
                for parameter in _class_of(entry.made).parameters:
                    yield entry, parameter.name, entry.made.values[parameter.slots[0]]

    def skeleton(self) -> tuple[Any, ...]:
        """What blocks of one class have in common."""
        return self.forward, tuple((e.before, e.after, _outline(e.made)) for e in self.entries)


def make_classes(graph: Graph, taken_names: Iterable[str] = ()) -> tuple[list[BlockClass], BlockClass]:
    """The classes of a network in an order of definition, and that of the whole network; `taken_names` are avoided."""
    scopes = Scopes(graph)
    blocks: list[Block] = []
    root = _block(scopes, scopes.root, _titles(graph), blocks)
    for node in scopes.aliases:
        before, after = scopes.assignment("", node.name)
        of = Construction(scopes.access("", node.attributes["of"]), None)
        root.entries.append(Entry(before, after, node.name, of))
    layers: dict[int, list[Block]] = defaultdict(list)
    for block in blocks:
        layers[block.height].append(block)
    taken: Counter[str] = Counter({"Network", "Path", "Tensor", "F", *taken_names})
    classes = [c for height in sorted(layers) for c in _classes_of(layers[height], taken)]
    root.values = tuple(text for _, _, text in root.slots())
    return classes, BlockClass("Network", root, (), ("",))


def init_lines(cls: BlockClass) -> list[str]:
    """The lines of `__init__` after `super().__init__()`."""
    block = cls.block
    names = {slot: p.name for p in cls.parameters for slot in p.slots}
    written = iter([names.get(i, text) for i, text in enumerate(block.values)])
    lines: list[str] = []
    for entry in block.entries:
        if isinstance(entry.made, Block):
            made = _class_of(entry.made)
            arguments = [f"{p.name}={next(written)}" for p in made.parameters]
            lines += call_lines(entry.before, made.name, arguments, entry.after)
        elif entry.made.arguments is None:
            lines.append(f"        {entry.before}{entry.made.callee}{entry.after}")
        else:
            arguments = [a.write(next(written) if a.literal else a.text) for a in entry.made.arguments]
            lines += call_lines(entry.before, entry.made.callee, [*filter(None, arguments)], entry.after)
    return lines


# ---- from places to blocks -------------------------------------------------------------------------------


def _block(scopes: Scopes, place: Place, titles: Mapping[str, str], blocks: list[Block]) -> Block:
    """The block of a folder that is a class, after those below it, all appended to `blocks` but the root's."""
    entries = list(_entries(scopes, place.path, place, titles, blocks))
    block = Block(place.path, titles.get(place.path, _title(place.path)), entries, write_forward(scopes, place.path))
    if place.path:
        blocks.append(block)
    return block


def _entries(
    scopes: Scopes, scope: str, place: Place, titles: Mapping[str, str], blocks: list[Block]
) -> Iterator[Entry]:
    for name, child in place.children.items():
        operator = None if child.node is None else child.node.signature.operator
        before, after = scopes.assignment(scope, child.path)
        if child.path in scopes.classes:
            yield Entry(before, after, name, _block(scopes, child, titles, blocks))
            continue
        if child.node is None:
            container = "nn.ModuleDict" if scopes.is_dictionary(child.path) else "nn.Module"
            yield Entry(before, after, name, Construction(container, ()))
        elif operator is not None:
            source = operator.parameter() or operator.constructor(*child.node.signature.inputs) or ""
            yield Entry(before, after, name, parse_construction(source))
        yield from _entries(scopes, scope, child, titles, blocks)


def _titles(graph: Graph, path: str = "") -> dict[str, str]:
    """Class names of the folders that composite operators make."""
    titles = {}
    for node in graph.nodes:
        if node.signature.body is not None:
            name = f"{path}{node.name}"
            titles[name] = camel(node.operator)
            titles.update(_titles(node.signature.body, f"{name}."))
    return titles


def _title(path: str) -> str:
    """A class name for a folder that no composite operator made: `stage0` is a Stage, `blocks.1.0` a Block."""
    names = [n.rstrip("0123456789_") for n in path.split(".")]
    name = next((n for n in reversed(names) if n), "part")
    if names[-1]:
        return camel(name)
    stem = camel(name.removesuffix("s"))
    return stem if stem.endswith("Block") else f"{stem}Block"


# ---- from blocks to classes ------------------------------------------------------------------------------


def _classes_of(blocks: Sequence[Block], taken: Counter[str]) -> Iterator[BlockClass]:
    """The classes of blocks whose inner blocks have theirs; sets `made_of` and `values`."""
    alike: dict[Any, list[Block]] = defaultdict(list)
    for block in blocks:
        block.values = tuple(text for _, _, text in block.slots())
        alike[block.skeleton()].append(block)
    for group in alike.values():
        parameters = _parameters(group)
        if len(parameters) <= MAX_PARAMETERS:
            yield _make(group, parameters, taken)
            continue
        equal: dict[tuple[str, ...], list[Block]] = defaultdict(list)
        for block in group:
            equal[block.values].append(block)
        for same in equal.values():
            yield _make(same, (), taken)


def _make(group: list[Block], parameters: tuple[Parameter, ...], taken: Counter[str]) -> BlockClass:
    title = group[0].title
    taken[title] += 1
    while taken[title] > 1:
        candidate = f"{title}{taken[title]}"
        if not taken[candidate]:
            taken[title], title = taken[title], candidate
            taken[title] = 1
        else:
            taken[title] += 1
    made = BlockClass(title, group[0], parameters, tuple(b.path for b in group))
    for block in group:
        block.made_of = made
    return made


def _parameters(group: list[Block]) -> tuple[Parameter, ...]:
    """What differs between blocks of one skeleton; literals that always agree are one parameter."""
    slots = list(group[0].slots())
    together: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for i, values in enumerate(zip(*(b.values for b in group), strict=True)):
        if len(set(values)) > 1:
            together[values].append(i)
    repeated = Counter(slots[where[0]][1] for where in together.values())
    taken: Counter[str] = Counter()
    parameters = []
    for values, where in together.items():
        entry, name, _ = slots[where[0]]
        if repeated[name] > 1:
            name = identifier(f"{entry.child}_{name}")
        taken[name] += 1
        name = name if taken[name] == 1 else f"{name}_{taken[name]}"
        parameters.append(Parameter(name, _kind(values), tuple(where)))
    return tuple(parameters)


def _kind(values: Sequence[str]) -> str:
    kinds = {type(ast.literal_eval(v)).__name__ for v in values} - {"NoneType"}
    return kinds.pop() if len(kinds) == 1 and "None" not in values else ""


def _outline(made: Construction | Block) -> Any:
    if isinstance(made, Block):
        return id(_class_of(made))
    return made.callee, None if made.arguments is None else tuple(map(_without_literal, made.arguments))


def _without_literal(argument: Argument) -> tuple[str | None, str]:
    return argument.keyword, "" if argument.literal else argument.text


def _class_of(block: Block) -> BlockClass:
    if block.made_of is None:
        raise RuntimeError(f"block {block.path!r} is written before the blocks inside it")
    return block.made_of

"""Which folders of node names become classes, and the statements of each.

Node names are dotted paths. A folder whose nodes hand exactly one value to the rest of the network can be
called like a module. In a graph without dead nodes every node of such a folder leads to that value, so a path
that leaves the folder and comes back would be a circle: the folders can be called in some order, always.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from search_spaces import Graph, Node
from search_spaces.network import slot

from .text import is_plain, quote

Item = tuple[str, bool]
"""A node's name or a folder's path, and whether it is a folder; a function may bear the name of a folder."""

_OF_MODULE_DICT = frozenset({"clear", "items", "keys", "pop", "update", "values"})


@dataclass(frozen=True)
class Statement:
    """One line of a `forward`: a node, or the call of a folder.

    Attributes:
        name: the node's name or the folder's path.
        is_folder: which of the two.
        inputs: names of the nodes whose values it takes.
        output: name of the node whose value it gives.
    """

    name: str
    is_folder: bool
    inputs: tuple[str, ...]
    output: str


@dataclass
class Place:
    """A path in the module tree: a node with weights, a folder, or both; or a second name, which the root sets."""

    path: str
    node: Node | None = None
    children: dict[str, Place] = field(default_factory=dict)


class Scopes:
    """The module tree of a network, cut into the scopes of classes; the root's path is empty.

    Args:
        graph: as it was traced or built; nodes that hold what state dicts need are looked for in it.

    Attributes:
        graph: what is run.
        aliases: second names of things in the tree.
        classes: paths of the folders that become classes.
        root: the tree of places.
    """

    def __init__(self, graph: Graph) -> None:
        held = [n for n in graph.nodes if n.operator == "unused"]
        self.aliases = [n for n in graph.nodes if n.operator == "alias"]
        self.graph = graph = graph.simplify()
        self._position = {n.name: i for i, n in enumerate(graph.nodes)}
        self._tensors = {n.name: n for n in (*graph.nodes, *held) if n.signature.operator.parameter() is not None}
        self._users: dict[str, set[str | None]] = defaultdict(set)
        for node in graph.nodes:
            for name in node.inputs:
                self._users[name].add(node.name)
        for name in graph.outputs:
            self._users[name].add(None)
        self.root = self._tree([*graph.nodes, *held])
        self._places = {p.path: p for p in _walk(self.root)}
        self.classes: set[str] = set()
        self._home = {n.name: self._folder_of(slot(n)) for n in graph.nodes if not self.is_given(n.name)}
        self._members = self._gather()
        for path in sorted(self._members, key=lambda p: -p.count(".")):
            if path and self._may_be_class(path):
                self.classes.add(path)

    def is_parameter(self, name: str) -> bool:
        """A learned or constant tensor: read where it is needed, no statement of its own."""
        return name in self._tensors

    def is_given(self, name: str) -> bool:
        return self.graph[name].operator == "input" or self.is_parameter(name)

    def arguments(self, scope: str) -> tuple[str, ...]:
        """Nodes outside a scope whose values it takes, in the order of their use."""
        if not scope:
            return tuple(n.name for n in self.graph.inputs)
        members = self._members[scope]
        used = (i for name in sorted(members, key=self._position.__getitem__) for i in self.graph[name].inputs)
        return tuple(dict.fromkeys(i for i in used if i not in members and not self.reads(scope, i)))

    def results(self, scope: str) -> tuple[str, ...]:
        return self.graph.outputs if not scope else tuple(self._outward(self._members[scope]))

    def reads(self, scope: str, name: str) -> bool:
        """Whether a node is a tensor that lies in the scope's part of the module tree."""
        return self.is_parameter(name) and _inside(name, scope)

    def statements(self, scope: str) -> list[Statement]:
        """The calls of a scope in an order that can be run, near the order of the graph."""
        made = {name: self._item(name, scope) for name in self._members[scope]}
        found = {item: self._statement(*item) for item in made.values()}
        waits = {item: {made[i] for i in s.inputs if i in made} for item, s in found.items()}
        return [found[item] for item in _ordered(waits, {k: self._position[s.output] for k, s in found.items()})]

    # ---- the module tree ---------------------------------------------------------------------------------

    def access(self, scope: str, path: str) -> str:
        """How a method of a scope's class names a place below it."""
        text, owner = "self", scope
        for name in path.removeprefix(f"{scope}.").split("."):
            text, owner = self._step(text, owner, name), f"{owner}.{name}" if owner else name
        return text

    def assignment(self, scope: str, path: str) -> tuple[str, str]:
        """What to write before and after the expression that makes the thing at a path."""
        folder, _, name = path.rpartition(".")
        owner = "self" if folder == scope else self.access(scope, folder)
        if self.is_parameter(path):
            operator = self._tensors[path].signature.operator
            if not operator.trainable:
                return f"{owner}.register_buffer({quote(name)}, ", ")" if operator.persistent else ", persistent=False)"
            if is_plain(name):
                return f"{owner}.{name} = nn.Parameter(", ")"
            return f"{owner}.register_parameter({quote(name)}, nn.Parameter(", "))"
        if self.is_dictionary(folder) and self._is_module(path):
            return f"{owner}[{quote(name)}] = ", ""
        if is_plain(name):
            return f"{owner}.{name} = ", ""
        return f"{owner}.{'add_module' if self._is_module(path) else 'register_parameter'}({quote(name)}, ", ")"

    def is_dictionary(self, path: str) -> bool:
        """A folder of modules whose names are no identifiers is an `nn.ModuleDict`, unless a name forbids it."""
        place = self._places[path]
        if not path or path in self.classes or place.node is not None:
            return False
        odd = any(not is_plain(name) and not self.is_parameter(c.path) for name, c in place.children.items())
        return odd and not _OF_MODULE_DICT & place.children.keys()

    def _is_module(self, path: str) -> bool:
        """Whether there is a module at a path, seen through second names."""
        for node in self.aliases:
            if node.name == path:
                return self._is_module(node.attributes["of"])
        return path in self._places and not self.is_parameter(path)

    def _step(self, text: str, owner: str, name: str) -> str:
        path = f"{owner}.{name}" if owner else name
        if owner in self._places and self.is_dictionary(owner) and self._is_module(path):
            return f"{text}[{quote(name)}]"
        return f"{text}.{name}" if is_plain(name) else f"getattr({text}, {quote(name)})"

    def _tree(self, nodes: Sequence[Node]) -> Place:
        """Places in the order in which `Network` makes them, so that state dicts have the same order."""
        root = Place("")
        for node in nodes:
            if node.operator == "input" or node.signature.pure:
                continue
            place = _reach(root, slot(node))
            place.node = place.node or node
        for node in self.aliases:
            _reach(root, node.name.rpartition(".")[0])
        return root

    # ---- folders that can be called ----------------------------------------------------------------------

    def _folder_of(self, name: str) -> str:
        """The deepest folder with weights that a node's name lies in."""
        folder = name.rpartition(".")[0]
        while folder and not (folder in self._places and self._places[folder].children):
            folder = folder.rpartition(".")[0]
        return folder

    def _gather(self) -> dict[str, set[str]]:
        members: dict[str, set[str]] = {p.path: set() for p in self._places.values() if p.children or not p.path}
        for name, folder in self._home.items():
            while folder:
                members[folder].add(name)
                folder = folder.rpartition(".")[0]
            members[""].add(name)
        return members

    def _may_be_class(self, path: str) -> bool:
        place, members = self._places[path], self._members[path]
        if place.node is not None or not all(map(is_plain, place.children)):
            return False
        while len(outward := self._outward(members)) > 1:
            movable = [n for n in outward if self._is_entry(n, members)]
            if not movable:
                return False
            for name in movable:  # a function of outside values, shared with others: the folder around it computes it
                members.discard(name)
                self._home[name] = path.rpartition(".")[0]
        return len(outward) == 1 and len({self._item(n, path) for n in members}) > 1

    def _is_entry(self, name: str, members: set[str]) -> bool:
        node = self.graph[name]
        return (node.signature.pure or node.operator == "again") and members.isdisjoint(node.inputs)

    def _outward(self, members: set[str]) -> list[str]:
        return sorted((n for n in members if self._users[n] - members), key=self._position.__getitem__)

    def _item(self, name: str, scope: str) -> Item:
        """The node itself, or the outermost class below the scope that computes it."""
        item, folder = (name, False), self._home[name]
        while folder and folder != scope:
            item = (folder, True) if folder in self.classes else item
            folder = folder.rpartition(".")[0]
        return item

    def _statement(self, name: str, is_folder: bool) -> Statement:
        if is_folder:
            return Statement(name, True, self.arguments(name), self.results(name)[0])
        return Statement(name, False, self.graph[name].inputs, name)


def _reach(place: Place, path: str) -> Place:
    for name in filter(None, path.split(".")):
        place = place.children.setdefault(name, Place(f"{place.path}.{name}" if place.path else name))
    return place


def _walk(place: Place) -> Iterator[Place]:
    yield place
    for child in place.children.values():
        yield from _walk(child)


def _inside(path: str, folder: str) -> bool:
    return not folder or path.startswith(f"{folder}.")


def _ordered(waits: dict[Item, set[Item]], rank: dict[Item, int]) -> Iterator[Item]:
    """Items in topological order, the lowest rank first among those that are ready."""
    followers: dict[Item, list[Item]] = defaultdict(list)
    for item, needs in waits.items():
        for need in needs:
            followers[need].append(item)
    ready = [(rank[item], item) for item, needs in waits.items() if not needs]
    heapq.heapify(ready)
    while ready:
        _, item = heapq.heappop(ready)
        yield item
        for follower in followers[item]:
            waits[follower].discard(item)
            if not waits[follower]:
                heapq.heappush(ready, (rank[follower], follower))

"""What every search space must do, as a test class to inherit.

The checks walk random members and ask only for what the contract of `SearchSpace` promises, so they know
no space; costs and shapes are held against torch itself.
"""

from __future__ import annotations

import copy
import pickle
import string
from typing import ClassVar

import numpy as np
import pytest
import torch

from search_spaces import Architecture, Graph, Network, Shape, SpaceError, make_space, spaces

from .measure import counted_macs, counted_params, example_inputs, outputs
from .members import Members
from .supernets import SupernetContract


class _Members(Members):
    """Checks of choices and architectures; nothing here builds a graph."""

    enumerable: ClassVar[int] = 20_000

    def assert_member(self, architecture: Architecture) -> None:
        """An architecture is a member if the space makes an equal one from its indices."""
        assert architecture.space == self.space.name
        assert self.space.from_indices(architecture.indices) == architecture

    def differing(self, one: Architecture, other: Architecture) -> list[int]:
        """Positions of the choices that count in both and differ."""
        both = set(self.space.counting(one)) & set(self.space.counting(other))
        return [i for i in sorted(both) if one.indices[i] != other.indices[i]]

    def test_is_registered_under_its_name(self) -> None:
        assert self.space.name, "decorate the space with @register_space(name)"
        assert isinstance(self.space, spaces[self.space.name])

    def test_size_is_the_number_of_members(self) -> None:
        if self.space.size > self.enumerable:
            pytest.skip(f"{self.space.size:.3g} members are too many to enumerate")
        codes = [a.code for a in self.space.enumerate()]
        assert len(codes) == self.space.size
        assert codes == sorted(set(codes)), "members are enumerated once each, in the order of their codes"

    def test_samples_are_members(self, sampled: list[Architecture]) -> None:
        for architecture in sampled:
            self.assert_member(architecture)

    def test_samples_follow_the_generator(self, sampled: list[Architecture]) -> None:
        rng = np.random.default_rng(0)
        assert [self.space.sample(rng) for _ in sampled] == sampled
        if self.space.size > 1:
            more = sampled + [self.space.sample(rng) for _ in range(100)]
            assert len(set(more)) > 1, "141 samples are all the same member"

    def test_mutants_are_other_members(self, sampled: list[Architecture]) -> None:
        if self.space.size == 1:
            with pytest.raises(SpaceError):
                self.space.mutate(sampled[0], np.random.default_rng(0))
            return
        rng = np.random.default_rng(1)
        for architecture in sampled:
            mutant = self.space.mutate(architecture, rng)
            self.assert_member(mutant)
            assert mutant != architecture
            assert len(self.differing(architecture, mutant)) == 1, "one change moves one choice that counts"
            self.assert_member(self.space.mutate(architecture, rng, changes=3))

    def test_neighbours_differ_in_one_choice(self, sampled: list[Architecture]) -> None:
        for architecture in sampled[:10]:
            near = list(self.space.neighbours(architecture))
            options = [len(self.space.choices[i].options) for i in self.space.counting(architecture)]
            assert len(set(near)) == len(near) == sum(n - 1 for n in options)
            for neighbour in near:
                self.assert_member(neighbour)
                assert len(self.differing(architecture, neighbour)) == 1

    def test_resting_choices_settle(self, sampled: list[Architecture]) -> None:
        for architecture in sampled:
            for i in set(range(len(self.space.choices))) - set(self.space.counting(architecture)):
                for option in range(len(self.space.choices[i].options)):
                    indices = list(architecture.indices)
                    indices[i] = option
                    assert self.space.from_indices(indices) == architecture

    def test_codes_and_json_come_back(self, sampled: list[Architecture]) -> None:
        for architecture in sampled:
            assert self.space.decode(architecture.code) == architecture
            assert self.space.from_json(architecture.to_json()) == architecture
            assert self.space.architecture(architecture.values) == architecture
            assert pickle.loads(pickle.dumps(architecture)) == architecture

    def test_ids_are_equal_exactly_where_members_are(self, sampled: list[Architecture]) -> None:
        distinct = list(dict.fromkeys(sampled))
        ids = [a.id for a in distinct]
        assert len(set(ids)) == len(distinct)
        assert [self.space.from_json(a.to_json()).id for a in distinct] == ids
        assert all(len(i) == 16 and set(i) <= set(string.hexdigits) for i in ids)

    def test_foreign_values_are_refused(self, sampled: list[Architecture]) -> None:
        with pytest.raises(SpaceError, match="no-such-choice"):
            self.space.architecture({"no-such-choice": 0})
        with pytest.raises(SpaceError):
            self.space.architecture({self.space.choices[0].name: "no-such-option"})
        with pytest.raises(SpaceError):
            self.space.from_indices([])
        with pytest.raises(SpaceError, match="no-such-space"):
            self.space.from_json(sampled[0].to_json().replace(f'"{self.space.name}"', '"no-such-space"'))

    def test_canonical_is_a_member_and_idempotent(self, sampled: list[Architecture]) -> None:
        for architecture in sampled:
            canonical = self.space.canonical(architecture)
            self.assert_member(canonical)
            assert self.space.canonical(canonical) == canonical


class _Graphs(_Members):
    """Checks of the graphs and of the networks made from them."""

    networks: ClassVar[int] = 6
    output_shape: ClassVar[Shape | None] = None

    @pytest.fixture(scope="class")
    def graphs(self, sampled: list[Architecture]) -> list[Graph]:
        return [self.space.graph(a) for a in sampled]

    def network(self, graph: Graph) -> Network:
        """How a graph becomes a network; override where graphs hold traced modules."""
        return Network(graph)

    def test_graphs_take_and_give_what_the_space_says(self, graphs: list[Graph]) -> None:
        expected = self.output_shape or (self.space.classes,)
        for graph in graphs:
            assert graph.inputs[0].shape == self.space.input_shape
            assert graph[graph.outputs[0]].shape == expected

    def test_graphs_are_repeatable(self, sampled: list[Architecture], graphs: list[Graph]) -> None:
        for architecture, graph in zip(sampled, graphs, strict=True):
            again = self.space.graph(architecture)
            assert again == graph
            assert again.id == graph.id

    def test_graphs_come_back_from_json(self, graphs: list[Graph]) -> None:
        for graph in graphs:
            again = Graph.from_json(graph.to_json())
            assert again == graph
            assert again.cost == graph.cost
            assert pickle.loads(pickle.dumps(graph)) == graph

    def test_inlining_keeps_cost_and_output(self, graphs: list[Graph]) -> None:
        for graph in graphs:
            inlined = graph.inline()
            assert all(node.signature.body is None for node in inlined)
            assert inlined.cost == graph.cost
            assert shapes(inlined) == shapes(graph)
            assert inlined.inline() == inlined

    def test_simplifying_keeps_inputs_and_outputs(self, graphs: list[Graph]) -> None:
        for graph in graphs:
            simple = graph.simplify()
            assert shapes(simple) == shapes(graph)
            assert [n.shape for n in simple.inputs] == [n.shape for n in graph.inputs]
            assert simple.live() == simple
            assert simple.simplify() == simple
            assert simple.cost.macs <= graph.cost.macs
            assert simple.cost.params <= graph.cost.params

    def test_canonical_members_are_the_same_network_or_cheaper(self, sampled: list[Architecture]) -> None:
        for architecture in sampled:
            own = self.space.graph(architecture).simplify()
            representative = self.space.graph(self.space.canonical(architecture)).simplify()
            assert shapes(representative) == shapes(own)
            assert representative.cost.params <= own.cost.params
            assert representative.cost.macs <= own.cost.macs

    def test_sketches_are_graphs(self, sampled: list[Architecture]) -> None:
        for architecture in sampled:
            sketch = self.space.sketch(architecture)
            assert len(sketch) > 0
            assert sketch == self.space.sketch(architecture)
            assert Graph.from_json(sketch.to_json()) == sketch

    def test_other_data_give_other_ends(self) -> None:
        """A run fills `input_shape` and `classes` from the data."""
        shape = (self.space.input_shape[0] + 1, *self.space.input_shape[1:])
        space = make_space(self.space.name, {"input_shape": shape, "classes": self.space.classes + 1})
        graph = space.graph(space.sample(np.random.default_rng(0)))
        assert graph.inputs[0].shape == shape
        if self.output_shape is None:
            assert graph[graph.outputs[0]].shape == (space.classes,)

    def test_macs_are_those_torch_counts(self, graphs: list[Graph]) -> None:
        for graph in self.counted(graphs):
            assert graph.simplify().cost.macs == counted_macs(graph)

    def test_params_are_those_of_the_network(self, graphs: list[Graph]) -> None:
        for graph in self.counted(graphs):
            assert graph.simplify().cost.params == counted_params(graph)

    def counted(self, graphs: list[Graph]) -> list[Graph]:
        """Graphs whose cost is known in full; the check is skipped, by name, where there is none."""
        known = [g for g in graphs if not g.uncounted]
        if not known:
            pytest.skip(f"uncounted operators: {sorted({n.operator for g in graphs for n in g.uncounted})}")
        return known

    def test_networks_give_the_shape_of_the_graph(self, graphs: list[Graph]) -> None:
        generator = torch.Generator().manual_seed(0)
        for graph in graphs[: self.networks]:
            network = self.network(graph).eval()
            with torch.no_grad():
                results = outputs(network, example_inputs(graph, 2, generator))
            assert [tuple(r.shape) for r in results] == [(2, *s) for s in shapes(graph)]
            assert all(bool(r.isfinite().all()) for r in results)

    def test_networks_learn_and_are_copied(self, graphs: list[Graph]) -> None:
        """Every gradient is finite, and copies (as other processes get them) give the same outputs."""
        generator = torch.Generator().manual_seed(1)
        for graph in graphs[: self.networks]:
            network = self.network(graph)
            inputs = example_inputs(graph, 2, generator)
            sum(r.square().sum() for r in outputs(network, inputs)).backward()  # type: ignore[union-attr]
            assert all(bool(p.grad.isfinite().all()) for p in network.parameters() if p.grad is not None)
            network.eval()
            again = copy.deepcopy(network)
            with torch.no_grad():
                for one, other in zip(outputs(network, inputs), outputs(again, inputs), strict=True):
                    assert torch.equal(one, other)


class StandaloneSpaceContract(_Graphs):
    """Checks of a space whose members do not share weights; see `SpaceContract` for the rest.

    Attributes:
        space: the space to check, made with `make_space`.
        members: random members to look at.
        networks: members of which a real network is run.
        enumerable: spaces up to this size are enumerated.
        output_shape: shape of one output, `(classes,)` by default.
    """


class SpaceContract(StandaloneSpaceContract, SupernetContract):
    """Checks of a space, its graphs, its networks and its supernet.

    >>> class TestMine(SpaceContract):  # doctest: +SKIP
    ...     space = make_space("mine")
    """


def shapes(graph: Graph) -> list[Shape]:
    """Shapes of a graph's outputs."""
    return [graph[name].shape for name in graph.outputs]

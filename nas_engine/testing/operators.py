"""What every operator must do, as a test class to inherit: torch is asked whether shape and cost rules are right.

class TestBlur(OperatorContract):
    examples = (example("blur", (8, 16, 16), kernel_size=3),)
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from search_spaces import Graph, GraphBuilder, GraphError, Network, Operator, Shape, Signature, operators
from search_spaces.operators.base import FLOAT_BYTES, make_operator

from .measure import counted_macs, counted_params, outputs

_FORMS = ("expression", "constructor", "parameter", "body")


@dataclass(frozen=True)
class Example:
    """An operator with attributes and the shapes of its inputs, without the batch.

    Attributes:
        whole: for inputs that take whole numbers, by position: 0 up to this bound, exclusive.
        shared: positions of inputs that have a batch of one whatever the others have, as learned tensors do.
        counted_by_torch: False for operators whose MACs torch's FLOP counter does not see.
        mixes_batch: True for operators that normalise over the batch by intent.
    """

    operator: str
    inputs: tuple[Shape, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    whole: Mapping[int, int] = field(default_factory=dict)
    shared: frozenset[int] = frozenset()
    counted_by_torch: bool = True
    mixes_batch: bool = False

    def __str__(self) -> str:
        attributes = [f"{k}={v}" for k, v in self.attributes.items()]
        return "-".join([self.operator, *attributes, *(["shared"] if self.shared else [])])

    def graph(self) -> Graph:
        """The operator alone, between its inputs and its output."""
        builder = GraphBuilder()
        inputs = [
            builder.add("input", name=f"input{i}", size=shape, dtype="int64" if i in self.whole else "float32")
            for i, shape in enumerate(self.inputs)
        ]
        return builder.build(builder.add(self.operator, *inputs, name="node", **self.attributes))

    def tensors(self, batch: int) -> list[Tensor]:
        """Random inputs for a batch of this size."""
        generator = torch.Generator().manual_seed(batch)
        made = []
        for i, shape in enumerate(self.inputs):
            size = (1 if i in self.shared else batch, *shape)
            if i in self.whole:
                made.append(torch.randint(self.whole[i], size, generator=generator))
            else:
                made.append(torch.randn(size, generator=generator))
        return made


def example(operator: str, *inputs: Shape, **attributes: Any) -> Example:
    """An `Example` in the form of `GraphBuilder.add`; see `Example` for what else can be said of one.

    >>> str(example("conv2d", (3, 8, 8), out_channels=4))
    'conv2d-out_channels=4'
    """
    return Example(operator, inputs, attributes)


class OperatorContract:
    """Checks of operators, each on its examples.

    Attributes:
        examples: what to check; give one example for each way in which attributes change shape or cost.
    """

    examples: ClassVar[Sequence[Example]] = ()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "case" in metafunc.fixturenames:
            metafunc.parametrize("case", self.examples, ids=str)

    def test_registered(self, case: Example) -> None:
        operator = operators[case.operator]
        assert issubclass(operator, Operator)
        assert operator.name == case.operator

    def test_one_torch_form(self, case: Example) -> None:
        """One of expression, constructor, parameter and body says what the operator does."""
        operator = operators[case.operator]
        forms = [form for form in _FORMS if getattr(operator, form) is not getattr(Operator, form)]
        assert len(forms) == 1, forms

    def test_unknown_attributes_are_refused(self, case: Example) -> None:
        with pytest.raises(GraphError, match="no_such_attribute"):
            make_operator(case.operator, {**case.attributes, "no_such_attribute": 1})

    def test_signatures_are_shared_and_pickled(self, case: Example) -> None:
        signature = Signature.named(case.operator, case.attributes, case.inputs)
        assert Signature.named(case.operator, dict(case.attributes), tuple(case.inputs)) is signature
        assert pickle.loads(pickle.dumps(signature)) is signature

    def test_json(self, case: Example) -> None:
        graph = case.graph()
        again = Graph.from_json(graph.to_json())
        assert again == graph
        assert again.to_json() == graph.to_json()
        assert json.loads(graph.to_json())["nodes"][-1]["operator"] == case.operator

    def test_output_shape_is_that_of_torch(self, case: Example) -> None:
        graph = case.graph()
        network = Network(graph).eval()
        for batch in (1, 3):
            (result,) = outputs(network, case.tensors(batch))
            own = set(range(len(case.inputs))) - case.shared
            assert tuple(result.shape) == (batch if own else 1, *graph[graph.outputs[0]].shape)

    def test_params_are_those_of_torch(self, case: Example) -> None:
        graph = case.graph()
        if graph.cost.counted:
            assert graph.cost.params == counted_params(graph)

    def test_macs_are_those_of_torch(self, case: Example) -> None:
        graph = case.graph()
        if graph.cost.counted and case.counted_by_torch:
            assert graph.simplify().cost.macs == counted_macs(graph)

    def test_costs_are_whole_numbers(self, case: Example) -> None:
        cost = case.graph().cost
        figures = (cost.params, cost.macs, cost.adds, cost.shifts, cost.bytes_read, cost.bytes_written)
        assert all(isinstance(figure, int) and figure >= 0 for figure in figures)

    def test_results_are_written_once(self, case: Example) -> None:
        """A primitive operator that is counted writes its output to memory, unless it is a view of its input."""
        signature = Signature.named(case.operator, case.attributes, case.inputs)
        if signature.body is not None or not signature.cost.counted:
            return
        written = 0 if signature.operator.view else FLOAT_BYTES * math.prod(signature.shape)
        assert signature.cost.bytes_written == written

    def test_inlining_keeps_cost_and_shape(self, case: Example) -> None:
        graph = case.graph()
        inlined = graph.inline()
        assert all(node.signature.body is None for node in inlined)
        assert inlined.cost == graph.cost
        assert inlined[inlined.outputs[0]].shape == graph[graph.outputs[0]].shape

    def test_inputs_are_left_alone(self, case: Example) -> None:
        """Values are shared between nodes, so no operator may write into its inputs."""
        given = case.tensors(2)
        passed = [tensor.clone() for tensor in given]
        Network(case.graph()).train()(*passed)
        assert all(torch.equal(one, other) for one, other in zip(given, passed, strict=True))

    def test_examples_of_a_batch_do_not_mix(self, case: Example) -> None:
        """Outside training, an image's result does not depend on its neighbours in the batch."""
        own = set(range(len(case.inputs))) - case.shared
        if case.mixes_batch or not own:
            return
        network = Network(case.graph()).eval()
        given = case.tensors(3)
        with torch.no_grad():
            together = network(*given)
            alone = network(*[tensor[1:2] if i in own else tensor for i, tensor in enumerate(given)])
        torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5, equal_nan=True)

    def test_plain_functions_are_plain(self, case: Example) -> None:
        """What may be run once for several nodes has neither weights nor chance."""
        if not Signature.named(case.operator, case.attributes, case.inputs).pure:
            return
        network = Network(case.graph()).train()
        assert not network.state_dict()
        first, again = network(*case.tensors(2)), network(*case.tensors(2))
        torch.testing.assert_close(first, again, rtol=0, atol=0, equal_nan=True)

"""The registry of cost models and its errors."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from predictors.cost import CostModel, LatencyModel, cost_models, make_cost_model
from search_spaces import GraphBuilder
from search_spaces.errors import ConfigError


def test_the_registered_models_have_a_unit_and_a_known_source() -> None:
    assert {"params", "macs", "bytes_moved", "activation_bytes", "latency_ms"} <= set(cost_models)
    for name, cls in cost_models.items():
        assert cls.name == name
        assert cls.unit
        assert cls.source in ("analytic", "table", "measured", "predicted")


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown cost model 'mac': did you mean 'macs'"):
        make_cost_model("mac")


def test_a_model_that_is_measured_is_not_made_from_its_name() -> None:
    with pytest.raises(ConfigError, match=r"LatencyModel\.build"):
        make_cost_model("latency_ms")
    assert LatencyModel.source == "table"


def test_costs_are_those_of_each_graph_by_default() -> None:
    class Nodes(CostModel):
        name, unit = "nodes", "nodes"

        def cost(self, graph):  # type: ignore[no-untyped-def]
            return len(graph)

    g = GraphBuilder((1, 2, 2))
    one = g.build(g.input)
    two = g.build(g.add("activation", g.input))
    assert Nodes().costs(iter([one, two])).tolist() == [1.0, 2.0]
    assert Nodes().costs([]).dtype == np.float64


def test_importing_the_package_imports_no_heavy_library() -> None:
    heavy = "('torch', 'sklearn', 'scipy', 'onnx', 'onnxruntime')"
    code = f"import sys, predictors.cost; sys.exit(any(m in sys.modules for m in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

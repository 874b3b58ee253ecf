"""Bundles of networks of graphs: several named inputs, graphs of any size, PyTorch Geometric in the source."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from nas_engine.export import FORMATS, BundleReport, Exporter, export_bundle, load_bundle, refused
from nas_engine.export.inputs import cut, ports
from nas_engine.export.onnx import Onnx
from nas_engine.export.source import model_source
from nas_engine.export.torch_export import TorchExport
from search_spaces import GraphBuilder, Network
from search_spaces.errors import ExportError
from search_spaces.inputs import GraphInput
from search_spaces.operators.message_passing import CONVOLUTIONS
from tests.nas_engine.export.networks import card, graph_network, made, random_graph

NODES = {"mean": (), "std": (), "classes": tuple("abcde"), "task": "node classification"}
MIXED = ("gen", "gat", "gcn")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Network, BundleReport]:
    """A reversible network of graphs with features of edges, in all forms."""
    network = graph_network(MIXED, features=4)
    directory = tmp_path_factory.mktemp("export") / "net"
    return network, export_bundle(network, directory, samples=random_graph(features=4), card=card(**NODES))


def test_all_forms_agree_on_graphs_of_two_sizes(bundle: tuple[Network, BundleReport]) -> None:
    network, report = bundle
    assert set(report.differences) == {"model.py", "torch_export", "onnx"}
    assert max(report.differences.values()) < 1e-5
    told = json.loads((report.path / "verification.json").read_text())
    assert told["shapes"] == [
        {"x": [1, 30, 6], "edges": [1, 2, 80], "attributes": [1, 80, 4]},
        {"x": [1, 15, 6], "edges": [1, 2, 40], "attributes": [1, 40, 4]},
    ]
    given = random_graph(features=4)
    with torch.inference_mode():
        torch.testing.assert_close(load_bundle(report.path)(given), network(given), rtol=0, atol=0)


def test_inputs_are_told_by_name(bundle: tuple[Network, BundleReport], tmp_path: Path) -> None:
    _, report = bundle
    described = json.loads((report.path / "architecture.json").read_text())
    assert [(i["name"], i["dtype"], i["free"]) for i in described["inputs"]] == [
        ("x", "float32", {"1": "nodes"}),
        ("edges", "int64", {"2": "edges"}),
        ("attributes", "float32", {"1": "edges"}),
    ]
    text = (report.path / "card.md").read_text()
    assert "- input: `edges`, int64 (1, 2, E)\n" in text
    assert "the real graph of 30 nodes and 80 edges, and on one of 15 nodes and 40 edges made from it" in text
    assert '{"x": x.numpy(), "edges": edges.numpy(), "attributes": attributes.numpy()}' in text
    assert "images" not in text.partition("## Forms")[2]
    source = (report.path / "model.py").read_text()
    assert "def forward(self, x: Tensor, edges: Tensor, attributes: Tensor) -> Tensor:" in source
    assert "Needs torch and torch_geometric." in source
    assert "import json\nimport math\nimport struct\nimport warnings\nfrom functools import cache\n" in source
    command = [sys.executable, "-I", str(report.path / "model.py")]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "'edges': (2, 80)" in ended.stdout
    assert "output (1, 30, 5)" in ended.stdout


def test_the_card_tells_how_to_run_each_form(
    bundle: tuple[Network, BundleReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, report = bundle
    monkeypatch.chdir(report.path)
    monkeypatch.syspath_prepend(report.path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    snippets = [part.split("```")[0] for part in (report.path / "card.md").read_text().split("```python\n")[1:]]
    assert len(snippets) == 3
    given = random_graph(11, 17, features=4)
    wanted = network(given).detach()
    for snippet in snippets:
        names = dict(zip(("x", "edges", "attributes"), given.tensors, strict=True))
        exec(snippet, names)
        torch.testing.assert_close(torch.as_tensor(names["logits"]), wanted, rtol=0, atol=1e-4)
    sys.modules.pop("model")


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_source_of_every_convolution(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = graph_network((kind, kind), norm="batch" if kind == "gin" else "layer", tied=kind == "sage")
    source = model_source(network.graph, card(**NODES))
    assert "search_spaces" not in source
    written = ModuleType("model")
    monkeypatch.setitem(sys.modules, "model", written)  # where PyTorch Geometric looks up what its classes name
    written.__file__ = "model.py"
    exec(source, written.__dict__)
    again = written.Network()
    again.load_state_dict(network.state_dict())
    given = random_graph(9, 21).tensors
    with torch.inference_mode():  # training runs reversible layers in another order
        torch.testing.assert_close(again.eval()(*given), network(*given), rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "connection"), [*((k, "reversible") for k in CONVOLUTIONS), ("gcn", "plain"), ("gen", "residual")]
)
def test_programs_of_every_convolution(kind: str, connection: str, tmp_path: Path) -> None:
    """Exported on a small graph, run on others: one larger, one of a single node and edge."""
    network = graph_network((kind,) * 2, connection=connection)
    graphs = [random_graph(n, e).tensors for n, e in ((200, 999), (9, 21), (1, 1))]
    for form in (TorchExport(), Onnx()):
        form.write(network, random_graph().tensors, card(**NODES), tmp_path)
        for given, found in zip(graphs, form.run(tmp_path, graphs), strict=True):
            torch.testing.assert_close(found, network(*given), rtol=0, atol=1e-5)


def test_a_fixed_point_is_left_to_source(tmp_path: Path) -> None:
    """A solver runs until it is near enough, which programs cannot."""
    g = GraphBuilder()
    x = g.add("input", name="x", size=(30, 6))
    edges = g.add("input", name="edges", size=(2, 80), dtype="int64")
    network = made(g.build(g.add("graph_equilibrium", x, edges, name="deep", kind="gcn")))
    assert set(refused(FORMATS, network.graph)) == {"torch_export", "onnx"}
    report = export_bundle(network, tmp_path / "net", samples=random_graph(), card=card(**NODES), formats=["model.py"])
    assert report.differences["model.py"] < 1e-6
    with pytest.raises(ExportError, match="form 'onnx' cannot hold this network: node 'deep' iterates until"):
        export_bundle(network, tmp_path / "other", samples=random_graph(), card=card(**NODES), formats=["onnx"])


@pytest.mark.parametrize("form", [TorchExport, Onnx])
def test_inputs_that_are_not_read_are_taken(form: type[Exporter], tmp_path: Path) -> None:
    """A member whose convolutions read no features of edges is called like those that do."""
    g = GraphBuilder()
    x = g.add("input", name="x", size=(30, 6))
    edges = g.add("input", name="edges", size=(2, 80), dtype="int64")
    g.add("input", name="attributes", size=(80, 3))
    network = made(g.build(g.add("graph_conv", x, edges, name="conv", kind="gcn", channels=5)))
    assert len(network.graph.inputs) == 3
    given = random_graph(9, 21, features=3).tensors
    written = form()
    written.write(network, random_graph(features=3).tensors, card(**NODES), tmp_path)
    torch.testing.assert_close(written.run(tmp_path, [given])[0], network(*given), rtol=0, atol=1e-5)


def test_smaller_graphs_are_whole() -> None:
    network = graph_network(("gcn",))
    given = random_graph().tensors
    x, edges = cut(given, ports(network.graph), {"nodes": 40, "edges": 20})
    assert x.shape == (1, 40, 6)
    assert edges.shape == (1, 2, 20)
    torch.testing.assert_close(x[:, 30:], given[0][:, :10])
    _, edges = cut(given, ports(network.graph), {"nodes": 3, "edges": 80})
    assert int(edges.max()) == 2


def test_other_inputs_are_refused(tmp_path: Path) -> None:
    g = GraphBuilder((4,), (4,))
    twofold = made(g.build(g.add("add", *g.inputs)))
    with pytest.raises(ExportError, match="one input, or a graph as x, edges, attributes; this network takes input0"):
        export_bundle(twofold, tmp_path / "net", samples=torch.zeros(2, 4), card=card(**NODES))
    network = graph_network(("gcn",))
    wrong = GraphInput(torch.zeros(1, 5, 7), torch.zeros(1, 2, 9, dtype=torch.int64))
    with pytest.raises(ExportError, match=r"shapes \(1, 5, 7\), \(1, 2, 9\); x \(1, N, 6\), edges \(1, 2, E\)"):
        export_bundle(network, tmp_path / "net", samples=wrong, card=card(**NODES))
    with pytest.raises(ExportError, match="a graph of shapes"):
        export_bundle(network, tmp_path / "net", samples=torch.zeros(2, 30, 6), card=card(**NODES))

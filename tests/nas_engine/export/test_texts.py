"""Bundles of networks of texts: whole numbers come in, modules of the engine's own go along, states carry on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nas_engine.export import BundleReport, export_bundle, load_bundle
from nas_engine.export.source import model_source
from nas_engine.export.source.modules import module_imports, module_sources, names_of
from search_spaces import GraphBuilder, Network, carrying
from search_spaces.errors import ExportError
from search_spaces.network import OWN_MODULES
from search_spaces.recurrent import Recurrent, plain
from tests.nas_engine.export.networks import card, made

SPACE = Recurrent(input_shape=(3,), classes=9, nodes=4, hidden=5, word_dropout=0.1)
CELL = SPACE.from_cell([(0, "relu"), (0, "tanh"), (2, "sigmoid"), (1, "identity")])
NETWORKS = {
    "cell": lambda: SPACE.graph(CELL),
    "pairs": lambda: Recurrent(input_shape=(3,), classes=9, nodes=4, hidden=5, tied=False, weights="pair").graph(CELL),
    "lstm": lambda: plain(SPACE, "lstm"),
    "gru": lambda: plain(SPACE, "gru"),
}


def windows(count: int = 4) -> Tensor:
    return torch.randint(9, (count, 3), generator=torch.Generator().manual_seed(0))


def texts() -> dict[str, object]:
    return {"mean": (), "std": (), "classes": (), "task": "language modelling"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Network, BundleReport]:
    """A member in all forms."""
    network = made(NETWORKS["cell"]())
    directory = tmp_path_factory.mktemp("export") / "net"
    report = export_bundle(network, directory, samples=windows(), card=card(**texts()), architecture=CELL)
    return network, report


def test_all_forms_agree(bundle: tuple[Network, BundleReport]) -> None:
    network, report = bundle
    assert set(report.differences) == {"model.py", "torch_export", "onnx"}
    assert max(report.differences.values()) < 1e-5
    torch.testing.assert_close(load_bundle(report.path)(windows()), network(windows()), rtol=0, atol=0)


def test_what_comes_in_is_told(bundle: tuple[Network, BundleReport], tmp_path: Path) -> None:
    _, report = bundle
    described = json.loads((report.path / "architecture.json").read_text())
    (given,) = described["inputs"]
    assert given == {"name": "tokens", "dtype": "int64", "shape": [3], "free": {"0": "batch"}}
    text = (report.path / "card.md").read_text()
    assert "- input: `tokens`, int64 (N, 3), any batch size from 1" in text
    assert '{"tokens": tokens.numpy()}' in text
    assert "images" not in text.partition("## Cost")[2]
    command = [sys.executable, "-I", str(report.path / "model.py")]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "input (1, 3), output (1, 3, 9)" in ended.stdout


@pytest.mark.parametrize("name", NETWORKS)
def test_source_has_what_it_needs_and_nothing_of_this_project(name: str) -> None:
    network = made(NETWORKS[name]())
    source = model_source(network.graph, card(**texts()))
    assert not {"search_spaces", "type: ignore"} & {
        word for word in ("search_spaces", "type: ignore") if word in source
    }
    assert ("class Recurrence(Stateful)" in source) == (name in ("cell", "pairs"))
    assert ("class Lstm(" in source) == (name == "lstm")
    scope: dict[str, object] = {"__file__": "model.py", "__name__": "model"}
    exec(source, scope)
    again = scope["Network"]()  # type: ignore[operator]
    again.load_state_dict(network.state_dict())
    torch.testing.assert_close(again.eval()(windows()), network(windows()), rtol=0, atol=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_exported_networks_carry_their_state(name: str) -> None:
    network = made(NETWORKS[name]())
    scope: dict[str, object] = {"__file__": "model.py", "__name__": "model"}
    exec(model_source(network.graph, card(**texts())), scope)
    again = scope["Network"]()  # type: ignore[operator]
    again.load_state_dict(network.state_dict())
    (part,) = [m for m in again.eval().modules() if isinstance(m, scope["Stateful"])]  # type: ignore[arg-type]
    part.carry = True
    with carrying(network):
        for window in windows().split(1, 1):
            torch.testing.assert_close(again(window), network(window), rtol=0, atol=0)


def test_sources_run_by_themselves() -> None:
    """Every class that a constructor may name, with what it uses, on torch, nn, F, Tensor and the imports told."""
    for name, wanted in OWN_MODULES.items():
        scope = {"torch": torch, "nn": torch.nn, "F": torch.nn.functional, "Tensor": Tensor}
        for line in module_imports([name]):
            exec(line, scope)
        for source in module_sources([name]).values():
            exec(source, scope)
        assert scope[name].__name__ == wanted.__name__  # type: ignore[union-attr]
    assert list(module_sources(["Lstm"])) == ["Memory", "Stateful", "layer_weights", "Lstm"]


def test_classes_do_not_take_the_names_of_modules() -> None:
    """A folder `lstm` that holds two things becomes a class, which must not be called Lstm."""
    g = GraphBuilder((3, 4))
    x = g.add("lstm", g.input, name="lstm.layer", hidden=4)
    network = made(g.build(g.add("linear", x, name="lstm.linear", out_features=2)))
    assert names_of(network.graph) == ["Lstm"]
    scope: dict[str, object] = {"__file__": "model.py", "__name__": "model"}
    exec(model_source(network.graph, card(**texts())), scope)
    again = scope["Network"]()  # type: ignore[operator]
    again.load_state_dict(network.state_dict())
    x = torch.randn(2, 3, 4)
    torch.testing.assert_close(again.eval()(x), network(x), rtol=0, atol=0)


def test_samples_are_called_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"two or more tokens \(N, 3\)"):
        export_bundle(made(NETWORKS["cell"]()), tmp_path / "net", samples=windows(1), card=card(**texts()))

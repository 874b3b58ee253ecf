"""Graphs: the file, its checks, features and splits, and the walks through it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nas_engine.config import Data
from nas_engine.data import GraphSplits, GraphWalk, NodeSet, load_data, load_graph
from nas_engine.data.graphs import IGNORED
from nas_engine.data.load import resolve
from nas_engine.data.partition import pieces, random_partition
from nas_engine.train.candidate import shared_data
from search_spaces.errors import ConfigError, DataError
from search_spaces.inputs import GraphInput

NODES = 60


def arrays(**changes: Any) -> dict[str, np.ndarray]:
    """A ring of 60 nodes with 4 features and 3 classes; None leaves an array out."""
    rng = np.random.default_rng(0)
    start = np.arange(NODES)
    ring = np.stack([np.concatenate([start, (start + 1) % NODES]), np.concatenate([(start + 1) % NODES, start])])
    given = {"edge_index": ring, "y": start % 3, "x": rng.normal(size=(NODES, 4)), **changes}
    return {key: array for key, array in given.items() if array is not None}


def written(folder: Path, **changes: Any) -> str:
    np.savez(folder / "g.npz", **arrays(**changes))
    return f"graph:{folder / 'g.npz'}"


def mask(*nodes: int) -> np.ndarray:
    return np.isin(np.arange(NODES), nodes)


@pytest.fixture(scope="module")
def digits() -> GraphSplits:
    return load_graph("digits-knn")


def same(one: GraphInput, other: GraphInput) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.tensors, other.tensors, strict=True))


# ---- sources ---------------------------------------------------------------------------------------------


def test_the_embedded_digits(digits: GraphSplits) -> None:
    edges = digits.graph.edges[0]
    pairs = {(int(a), int(b)) for a, b in edges.T}
    assert len(pairs) == digits.edges == edges.shape[1]
    assert all((b, a) in pairs and a != b for a, b in pairs)
    assert int(edges[1].bincount().min()) >= 8
    assert digits.input_shape == (1797, 64)
    assert (digits.edge_features, digits.multilabel, len(digits.classes)) == (0, False, 10)
    alike = float((digits.labels[edges[0]] == digits.labels[edges[1]]).float().mean())
    assert alike > 0.9  # neighbours are mostly the same digit


@pytest.mark.parametrize(
    ("name", "nodes", "features", "edges", "classes", "sizes"),
    [
        ("cora", 2708, 1433, 10_556, 7, (140, 500, 1000)),
        ("citeseer", 3327, 3703, 9104, 6, (120, 500, 1000)),
        ("pubmed_graph_labels_partial_features", 19_717, 500, 88_648, 3, (60, 500, 1000)),
    ],
)
def test_citation_graphs_have_their_published_numbers(
    shared_file: Callable[[str], Path], name: str, nodes: int, features: int, edges: int, classes: int, sizes: Any
) -> None:
    data = shared_data(Data(source=f"graph:{shared_file(f'planetoid/{name}.npz')}"), 0)
    assert (data.input_shape, data.edges, len(data.classes)) == ((nodes, features), edges, classes)
    assert tuple(len(part) for part in (data.train, data.validation, data.test)) == sizes
    total = data.graph.x[0].sum(1)
    assert bool(((total - 1).abs().lt(1e-5) | total.eq(0)).all())  # bags of words, divided by their size
    assert len(set(data.labels[data.train.nodes].bincount().tolist())) == 1  # so many of each class


def test_yeast_has_several_labels_and_features_of_edges(shared_file: Callable[[str], Path]) -> None:
    section = Data(source=f"graph:{shared_file('yeast_string_mips/yeast_string_mips.npz')}", target="y_level1")
    data = shared_data(section, 0)
    assert section.labels == "several"
    assert section.quality is data.quality
    assert data.quality.name == "ROC-AUC"
    assert (data.input_shape, data.edges, data.edge_features, len(data.classes)) == ((6400, 4), 157_152, 4, 17)
    assert sum(len(part) for part in (data.train, data.validation, data.test)) == 3400  # with an edge and a label
    end = data.graph.edges[0, 1]
    wanted = data.graph.attributes[0, end == 17].mean(0)
    torch.testing.assert_close(data.graph.x[0, 17], wanted)
    assert "1,043" in data.description


def test_a_set_of_pyg_that_needs_no_file() -> None:
    data = shared_data(Data(source="pyg:KarateClub"), 0)
    assert (data.input_shape, data.edges, len(data.classes)) == ((34, 34), 156, 4)


def test_named_sets_of_pyg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from torch_geometric import datasets
    from torch_geometric.data import Data as Graph

    asked = []

    class Fake:
        def __init__(self, root: str, name: str) -> None:
            asked.append((Path(root), name))

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> Graph:
            given = arrays(train_mask=mask(*range(30)), val_mask=mask(*range(30, 40)), test_mask=mask(*range(40, 60)))
            names = {"edge_index": "edge_index", "y": "y", "x": "x"}
            held = {names.get(k, k): torch.from_numpy(v) for k, v in given.items()}
            return Graph(**{**held, "train_mask": torch.stack([held["train_mask"]] * 2, 1)})

    monkeypatch.setattr(datasets, "Planetoid", Fake)
    data = load_graph("planetoid:cora", root=tmp_path)
    assert asked == [(tmp_path / "graphs" / "Planetoid", "Cora")]
    assert [len(part) for part in (data.train, data.validation, data.test)] == [30, 10, 20]
    assert "the first is taken" in data.description
    with pytest.raises(DataError, match=r"'corra'.* did you mean 'Cora'"):
        load_graph("planetoid:corra")
    with pytest.raises(DataError, match=r"write pyg:Planetoid/NAME"):
        load_graph("pyg:Planetoid")
    with pytest.raises(DataError, match=r"no data set 'Plantoid': did you mean 'Planetoid'"):
        load_graph("pyg:Plantoid/Cora")

    def fails(self: Any, root: str, name: str) -> None:
        raise OSError("no network\nat all")

    monkeypatch.setattr(Fake, "__init__", fails)
    with pytest.raises(DataError, match=r"no network at all.*root='DIR', name='Cora'\) and copy DIR to \S+, or write"):
        load_graph("planetoid:cora", root=tmp_path)


def test_sets_of_ogb_are_kept_as_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys
    import types

    class Fake:
        def __init__(self, name: str, root: str) -> None:
            assert (name, Path(root)) == ("ogbn-proteins", tmp_path / "graphs")
            try:
                input("a question that nobody can answer")
            except EOFError:
                return
            raise AssertionError

        def __getitem__(self, index: int) -> tuple[dict[str, Any], np.ndarray]:
            edges = arrays()["edge_index"]
            attributes = np.arange(edges.shape[1], dtype=np.float32)[:, None]
            labels = np.stack([np.arange(NODES) % 2, np.arange(NODES) % 3 == 0], axis=1)
            return {"edge_index": edges, "node_feat": None, "edge_feat": attributes}, labels

        def get_idx_split(self) -> dict[str, np.ndarray]:
            return {"train": np.arange(40), "valid": np.arange(40, 50), "test": np.arange(50, 60)}

    module = types.ModuleType("ogb.nodeproppred")
    module.NodePropPredDataset = Fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ogb", types.ModuleType("ogb"))
    monkeypatch.setitem(sys.modules, "ogb.nodeproppred", module)
    data = load_graph("ogb:proteins", root=tmp_path)
    assert data.multilabel
    assert [len(part) for part in (data.train, data.validation, data.test)] == [40, 10, 10]  # zeros are known, too
    assert Data(source="ogb:proteins").quality.name == "ROC-AUC"
    monkeypatch.setitem(sys.modules, "ogb.nodeproppred", None)
    assert load_graph("ogb:ogbn-proteins", root=tmp_path).fingerprint == data.fingerprint
    with pytest.raises(ConfigError, match=r"ogbn-arxiv needs the package ogb: pip install 'nas-engine\[ogb\]'"):
        load_graph("ogb:arxiv", root=tmp_path)


# ---- the file --------------------------------------------------------------------------------------------


def test_sparse_features_are_those_of_the_dense(tmp_path: Path) -> None:
    from scipy.sparse import csr_matrix

    words = (np.random.default_rng(1).random((NODES, 40)) < 0.1).astype(np.float32)
    sparse = csr_matrix(words)
    parts = {"x_data": sparse.data, "x_indices": sparse.indices, "x_indptr": sparse.indptr, "x_shape": words.shape}
    read = load_graph(written(tmp_path, x=None, **parts))
    assert read.fingerprint == load_graph(written(tmp_path, x=words)).fingerprint
    torch.testing.assert_close(read.graph.x[0], torch.from_numpy(words / words.sum(1, keepdims=True).clip(1)))
    raw = load_graph(written(tmp_path, x=words), features="raw")
    assert torch.equal(raw.graph.x[0], torch.from_numpy(words))
    columns = load_graph(written(tmp_path, x=words), features="columns").graph.x[0]
    torch.testing.assert_close(columns.std(0, correction=0), torch.ones(40))
    with pytest.raises(DataError, match="x_data alone"):
        load_graph(written(tmp_path, x=None, x_data=sparse.data))
    with pytest.raises(DataError, match="do not fit together"):
        load_graph(written(tmp_path, x=None, **{**parts, "x_indices": sparse.indices + 40}))


def test_features_where_there_are_none(tmp_path: Path) -> None:
    edges = np.array([[0, 1, 2, 2], [1, 2, 1, 2]])
    degrees = load_graph(written(tmp_path, x=None, edge_index=np.concatenate([arrays()["edge_index"], edges], 1)))
    assert degrees.graph.x[0, :4, 0].tolist() == pytest.approx(np.log([3, 5, 5, 3]).tolist())
    assert "edges that are loops: 1" in degrees.description
    assert "edges that are doubled: 3" in degrees.description
    ring = arrays()["edge_index"]
    values = np.arange(2.0 * NODES)
    means = load_graph(written(tmp_path, x=None, edge_attr=values))
    assert means.edge_features == 1
    assert means.graph.x[0, 5, 0] == values[ring[1] == 5].mean()


def test_nodes_of_which_nothing_is_known_are_left_out(tmp_path: Path) -> None:
    ring = arrays()["edge_index"]
    ring = ring[:, (ring != 7).all(0)]
    data = load_graph(written(tmp_path, x=None, edge_index=ring))
    assert sum(len(part) for part in (data.train, data.validation, data.test)) == NODES - 1
    assert int(data.labels[7]) == IGNORED
    assert "nothing is known of them: 1" in data.description
    assert "nodes without an edge: 1" in data.description
    assert sum(len(p) for p in (load_graph(written(tmp_path, edge_index=ring)).train,)) == 38  # it has features


def test_edges_can_be_made_to_lead_both_ways(tmp_path: Path) -> None:
    edges = np.array([[0, 1, 3], [1, 0, 4]])
    source = written(tmp_path, edge_index=edges, edge_attr=np.array([[1.0], [3.0], [5.0]]))
    assert load_graph(source).edges == 3
    assert "one way only, and stay so: 1" in load_graph(source).description
    both = load_graph(source, undirected=True)
    assert both.graph.edges[0].tolist() == [[0, 1, 3, 4], [1, 0, 4, 3]]
    assert both.graph.attributes[0, :, 0].tolist() == [2, 2, 5, 5]


def test_unknown_labels_do_not_count(tmp_path: Path) -> None:
    several = np.stack([np.arange(NODES) % 2, np.arange(NODES) % 3 == 0], 1)
    whole = load_graph(written(tmp_path, y=several))
    assert sum(len(part) for part in (whole.train, whole.validation, whole.test)) == several.any(1).sum()
    floats = several.astype(float)
    floats[0] = np.nan
    floats[1, 0] = np.nan
    known = load_graph(written(tmp_path, y=floats))
    assert sum(len(part) for part in (known.train, known.validation, known.test)) == NODES - 1
    assert known.labels[1].isnan().tolist() == [True, False]
    numbers = np.arange(NODES) % 3
    numbers[:6] = -1
    one = load_graph(written(tmp_path, y=numbers, train_mask=mask(*range(30)), test_mask=mask(*range(40, 60))))
    assert (len(one.train) + len(one.validation), len(one.test)) == (24, 20)
    assert "train nodes without a label, which do not count: 6" in one.description
    names = load_graph(written(tmp_path, classes=np.array(["a", "b", "c"])))
    assert names.classes == ("a", "b", "c")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"edge_index": None}, "has no edge_index .*it needs edge_index"),
        ({"y": None}, "has no y"),
        ({"edge_index": np.zeros((3, 2), int)}, r"shape \(3, 2\).*\(2, E\)"),
        ({"edge_index": np.zeros((2, 0), int)}, "no edges"),
        ({"edge_index": np.array([[0], [60]])}, "leads to node 60, but the nodes are 0 to 59"),
        ({"edge_index": np.array([[0], [-1]])}, "leads to node -1"),
        ({"y": np.full(NODES, 0.5)}, "numbered 0, 1, 2"),
        ({"y": np.full((NODES, 2), 3)}, "each must be 0 or 1"),
        ({"y": np.zeros(NODES, int)}, "at least 2 are needed"),
        ({"y": np.where(np.arange(NODES) % 2, 2, 0)}, r"class 1 \(0\)"),
        ({"y": np.full(NODES, -1)}, "no node .* has a label"),
        ({"y": np.zeros((NODES, 3), int)}, "no node .* has a label"),
        ({"y": np.ones((NODES, 3), int)}, "no label is both there and not there"),
        ({"x": np.zeros((3, 4))}, r"shape \(3, 4\).*60 nodes"),
        ({"x": np.full((NODES, 1), np.nan)}, "NaN or infinite in 60 rows, first in number 0"),
        ({"edge_attr": np.zeros((3, 4))}, r"edges .*shape \(3, 4\).*120 edges"),
        ({"train_mask": mask(1, 2)}, "train_mask alone: give train_mask and test_mask"),
        ({"train_mask": mask(1), "test_mask": np.arange(NODES)}, "one bool a node"),
        ({"train_mask": mask(1), "test_mask": np.ones(3, bool)}, "test mask .* is for 3 nodes"),
        ({"train_mask": mask(*range(30)), "test_mask": mask(*range(29, 60))}, "1 nodes .* two parts at once"),
        (
            {"train_mask": mask(*range(30)), "val_mask": mask(*range(31, 40)), "test_mask": mask()},
            "no node of the test part",
        ),
        ({"classes": np.array(["a", "b"])}, "3 classes and 2 names"),
        ({"classes": np.array(["a", "b", "b"])}, "same name"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_a_line(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        load_graph(written(tmp_path, **changes))
    assert "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="names no file"):
        load_graph("graph:")
    with pytest.raises(DataError, match="there is no file"):
        load_graph(f"graph:{tmp_path / 'absent.npz'}")
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(DataError, match="cannot be read as npz"):
        load_graph(f"graph:{tmp_path / 'text.npz'}")
    with pytest.raises(DataError, match="has no z: .*given as data.target"):
        load_graph(written(tmp_path), target="z")
    with pytest.raises(DataError, match="takes nothing behind the colon"):
        load_graph("digits-knn:9")
    with pytest.raises(DataError, match="is a graph, and images were asked for"):
        load_data("digits-knn")
    assert resolve("planetoid:cora") == ("planetoid", "cora")


# ---- splits ----------------------------------------------------------------------------------------------


def test_the_test_part_does_not_depend_on_the_seed(tmp_path: Path) -> None:
    source = written(tmp_path)
    one, other = load_graph(source, seed=0), load_graph(source, seed=1)
    assert torch.equal(one.test.nodes, other.test.nodes)
    assert not torch.equal(one.validation.nodes, other.validation.nodes)
    assert one.fingerprint != other.fingerprint
    assert one.fingerprint == load_graph(source, seed=0).fingerprint
    for part in (one.train, one.validation, one.test):
        assert len(set(one.labels[part.nodes].bincount(minlength=3).tolist())) <= 2  # in proportion
    together = torch.cat([one.train.nodes, one.validation.nodes, one.test.nodes])
    assert sorted(together.tolist()) == list(range(NODES))
    limited = load_graph(source, limit=20)
    assert len(limited.train) + len(limited.validation) == 20
    assert torch.equal(limited.test.nodes, one.test.nodes)
    given = written(tmp_path, train_mask=mask(*range(30)), test_mask=mask(*range(40, 60)))
    assert load_graph(given).test.nodes.tolist() == list(range(40, 60))
    assert len(load_graph(given, validation=0.5).validation) == 15


def test_arguments_out_of_range(tmp_path: Path) -> None:
    source = written(tmp_path)
    for wrong, words in (
        ({"validation": 1.0}, "between 0 and 1"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"limit": 0}, "1 or more"),
        ({"features": "row"}, "did you mean 'rows'"),
        ({"labels": "several"}, "has one class: leave data.labels out, or write one"),
        ({"parts": 40}, "data.parts is 1 to 38"),
        ({"view_parts": 61}, "data.view_parts is 1 to 60"),
        ({"views": 2}, "give data.view_parts"),
        ({"parts": 2, "neighbours": (5,)}, "two ways to make batches"),
        ({"neighbours": (5,)}, "needs pyg-lib or torch-sparse"),
    ):
        with pytest.raises(ConfigError, match=words):
            load_graph(source, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"names an array of a file.*leave it out"):
        load_graph("digits-knn", target="y")


def test_halves_and_samples(digits: GraphSplits) -> None:
    first, second = digits.validation.halves()
    assert sorted([*first.nodes.tolist(), *second.nodes.tolist()]) == digits.validation.nodes.tolist()
    few = digits.validation.halves(10)
    assert [len(half) for half in few] == [5, 5]
    assert digits.samples(3) is digits.graph
    moved = digits.to("cpu")
    assert moved.graph is digits.graph
    assert isinstance(moved.train, NodeSet)


# ---- walks -----------------------------------------------------------------------------------------------


def test_an_epoch_is_the_whole_graph_with_the_training_labels(digits: GraphSplits) -> None:
    walk = digits.epoch(64, seed=0, epoch=0)
    assert len(walk) == 1
    ((graph, targets),) = walk
    assert graph is digits.graph
    assert targets.shape == (1, 1797)
    assert targets[0, digits.train.nodes].equal(digits.labels[digits.train.nodes])
    assert int((targets != IGNORED).sum()) == len(digits.train)


def test_parts_share_out_nodes_and_the_edges_between_them(tmp_path: Path) -> None:
    data = load_graph(written(tmp_path, edge_attr=np.arange(2.0 * NODES)), parts=4)
    start, end = data.graph.edges[0]
    place = {(int(a), int(b)): k for k, (a, b) in enumerate(zip(start, end, strict=True))}
    names = {tuple(row): node for node, row in enumerate(data.graph.x[0].tolist())}
    seen: list[int] = []
    for graph, targets in data.epoch(1, seed=0, epoch=0):
        nodes = [names[tuple(row)] for row in graph.x[0].tolist()]
        assert nodes == sorted(nodes)
        seen += nodes
        edges = [(nodes[a], nodes[b]) for a, b in graph.edges[0].T.tolist()]
        inside = [edge for edge in place if edge[0] in nodes and edge[1] in nodes]
        assert sorted(edges) == sorted(inside)
        assert graph.attributes[0, :, 0].tolist() == [place[edge] for edge in edges]
        assert targets[0].equal(data.targets(data.train)[nodes])
        assert 9 <= int((targets != IGNORED).sum()) <= 10  # 38 training nodes are dealt out evenly
    assert sorted(seen) == list(range(NODES))

    def first(seed: int, epoch: int) -> GraphInput:
        return next(iter(data.epoch(1, seed=seed, epoch=epoch)))[0]

    assert same(first(0, 3), first(0, 3))
    assert not torch.equal(first(0, 3).x, first(0, 4).x)
    assert not torch.equal(first(0, 3).x, first(1, 3).x)


def test_one_partition_is_the_full_batch(digits: GraphSplits) -> None:
    ((piece, nodes),) = pieces(digits.graph, random_partition(1797, 1, [0]))
    assert same(piece, digits.graph)
    assert nodes.tolist() == list(range(1797))


def test_the_beginning_of_an_epoch(digits: GraphSplits) -> None:
    parted = digits.walked(4, 1, 1, ())
    begun = parted.beginning(64, 3).epoch(64, seed=0, epoch=0)
    assert len(begun) == len(list(begun)) == 3
    assert len(parted.beginning(64, 9).epoch(64, seed=0, epoch=0)) == 4
    whole = list(parted.epoch(64, seed=0, epoch=0))
    assert all(same(a, b) for (a, _), (b, _) in zip(whole, begun, strict=False))


def test_views_are_averaged(digits: GraphSplits) -> None:
    def call(graph: GraphInput) -> torch.Tensor:  # what a network says of a node depends on its neighbours in the view
        degree = graph.edges[0, 1].bincount(minlength=graph.x.shape[1]).float()
        return torch.stack([graph.x[0, :, 20], degree], -1)[None]

    def walked(view_parts: int, views: int, seed: int | None = None) -> GraphWalk:
        return digits.walked(1, view_parts, views, ()).walk(digits.test, 64, seed=seed)

    whole, targets = walked(1, 1).outputs(call)
    assert torch.equal(whole, call(digits.graph))
    assert int((targets >= 0).sum()) == len(digits.test)
    one, _ = walked(3, 1).outputs(call)
    assert torch.equal(one[..., 0], whole[..., 0])  # each node once, at its place
    assert float(one[..., 1].sum()) == sum(graph.edges.shape[2] for graph, _ in walked(3, 1))
    many, _ = walked(3, 40).outputs(call)
    error = ((many - whole / torch.tensor([1.0, 3.0]))[..., 1]).abs().mean()
    assert float(error) < 0.3  # the mean over views is near a third of the neighbours
    assert len(list(walked(3, 2))) == 6
    assert torch.equal(walked(3, 2).outputs(call)[0], walked(3, 2).outputs(call)[0])
    assert not torch.equal(walked(3, 2).outputs(call)[0], walked(3, 2, seed=1).outputs(call)[0])


def test_neighbours_are_drawn_around_training_nodes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """PyTorch Geometric's loader runs; only the compiled function that draws is replaced, by one that takes all."""
    from torch_geometric import typing
    from torch_geometric.sampler import neighbor_sampler

    def draw(colptr: torch.Tensor, row: torch.Tensor, seed: torch.Tensor, counts: list[int], *rest: Any) -> Any:
        nodes, edges = seed.tolist(), []
        at, front = {node: place for place, node in enumerate(nodes)}, seed.tolist()
        for _ in counts:
            reached = []
            for node in front:
                for edge in range(int(colptr[node]), int(colptr[node + 1])):
                    other = int(row[edge])
                    if other not in at:
                        at[other] = len(nodes)
                        nodes.append(other)
                        reached.append(other)
                    edges.append((at[other], at[node], edge))
            front = reached
        ends = torch.tensor(edges).T
        return ends[0], ends[1], torch.tensor(nodes), ends[2]

    class Ops:
        neighbor_sample = staticmethod(draw)

    monkeypatch.setattr(typing, "WITH_PYG_LIB", True)
    monkeypatch.setattr(neighbor_sampler.torch.ops, "pyg", Ops, raising=False)
    data = load_graph(written(tmp_path, edge_attr=np.arange(2.0 * NODES)), neighbours=(2, 2))
    names = {tuple(row): node for node, row in enumerate(data.graph.x[0].tolist())}
    known = {(int(a), int(b)): k for k, (a, b) in enumerate(data.graph.edges[0].T)}
    walk = data.epoch(10, seed=0, epoch=0)
    assert len(walk) == 4  # 38 training nodes
    trained: list[int] = []
    for graph, targets in walk:
        nodes = [names[tuple(row)] for row in graph.x[0].tolist()]
        wanted = [node for node, target in zip(nodes, targets[0].tolist(), strict=True) if target != IGNORED]
        assert wanted == nodes[: len(wanted)]
        assert targets[0, : len(wanted)].equal(data.labels[wanted])
        near = {(node + step) % NODES for node in wanted for step in (-2, -1, 0, 1, 2)}
        assert set(nodes) == near
        ends = [(nodes[a], nodes[b]) for a, b in graph.edges[0].T.tolist()]
        assert graph.attributes[0, :, 0].tolist() == [known[pair] for pair in ends]
        trained += wanted
    assert sorted(trained) == data.train.nodes.tolist()
    assert len(data.beginning(10, 2).epoch(10, seed=0, epoch=0)) == 2


# ---- the section -----------------------------------------------------------------------------------------


def test_settings_belong_to_their_sources(tmp_path: Path) -> None:
    for wrong, words in (
        ({"source": "digits", "parts": 2}, "parts is a setting of a graph, but 'digits' is images; leave it out"),
        ({"source": "digits-knn", "steps": 3}, "steps is a setting of a text, but 'digits-knn' is a graph"),
        ({"source": "digits-knn", "image_size": 8}, "image_size is a setting of images"),
        ({"source": "pydoc", "views": 2}, "views is a setting of a graph, but 'pydoc' is a text"),
        ({"source": "digits-knn", "views": 2}, "give view_parts 2 or more"),
        ({"source": "digits-knn", "parts": 2, "neighbours": [3]}, "leave one out"),
    ):
        with pytest.raises(ValueError, match=words):
            Data(**wrong)
    source = written(tmp_path, y=np.eye(2, dtype=int)[np.arange(NODES) % 2])
    section = Data(source=source)
    assert section.labels == "several"
    assert Data.model_validate_json(section.model_dump_json()) == section
    assert "each node has one label only" in shared_data(section, 0).description
    assert Data(source=f"graph:{tmp_path / 'absent.npz'}").labels is None
    assert shared_data(Data(source="digits-knn", parts=3), 0).parts == 3

"""Graphs are judged node by node, by accuracy or the area under the ROC curve, and trained by what their labels are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nas_engine.config import Optimizer, make_config
from nas_engine.data import GraphSplits, NodeSet, load_graph
from nas_engine.evaluate import MemberScorer, judge, recalibrate, roc_auc
from nas_engine.quality import NODES, ROC_AUC
from nas_engine.train.loop import train
from nas_engine.train.parts import Parts
from nas_engine.train.programs import DistilledProgram, NetworkProgram, loss_by_answer, loss_of, softened_answer
from search_spaces import SearchSpace, Supernet, make_space
from search_spaces.errors import ConfigError
from search_spaces.inputs import GraphInput


class Gcn(nn.Module):
    """Two layers, with a norm between."""

    def __init__(self, features: int, classes: int) -> None:
        from torch_geometric.nn import GCNConv

        super().__init__()
        self.first, self.norm, self.last = GCNConv(features, 16), nn.BatchNorm1d(16), GCNConv(16, classes)

    def forward(self, graph: GraphInput) -> torch.Tensor:
        x, edges = graph.x[0], graph.edges[0]
        result: torch.Tensor = self.last(self.norm(self.first(x, edges)).relu(), edges)[None]
        return result


@pytest.fixture(scope="module")
def digits() -> GraphSplits:
    return load_graph("digits-knn")


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> GraphSplits:
    """The digits with three labels each, of which some are not known: even, above 4, a multiple of 3."""
    data = load_graph("digits-knn")
    y = data.labels.numpy()
    labels = np.stack([y % 2 == 0, y > 4, y % 3 == 0], axis=1).astype(float)
    labels[np.random.default_rng(0).random(labels.shape) < 0.2] = np.nan
    path = tmp_path_factory.mktemp("graph") / "several.npz"
    np.savez(path, edge_index=data.graph.edges[0].numpy(), x=data.graph.x[0].numpy(), y=labels)
    return load_graph(f"graph:{path}")


def small_space(data: GraphSplits) -> SearchSpace:
    shape = {"input_shape": data.input_shape, "edges": data.edges, "classes": len(data.classes)}
    small = {"kinds": ("gcn", "sage"), "connections": ("plain",), "depths": (2,), "widths": (16,)}
    return make_space("gnn", {**shape, **small, "norms": ("batch",), "dropouts": (0.0,)})


def trained(data: GraphSplits, epochs: int = 15) -> Gcn:
    torch.manual_seed(0)
    network = Gcn(data.input_shape[1], len(data.classes))
    list(train(NetworkProgram(network), data, Optimizer(learning_rate=0.3), epochs=epochs, seed=0))
    return network


def test_accuracy_is_the_share_of_nodes(digits: GraphSplits) -> None:
    network = trained(digits)
    judged = judge(network, digits, digits.test)
    with torch.no_grad():
        logits = network.eval()(digits.graph)[0, digits.test.nodes]
    labels = digits.labels[digits.test.nodes]
    assert judged.accuracy == pytest.approx(float((logits.argmax(-1) == labels).float().mean()))
    assert judged.loss == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)
    assert judged.images == len(digits.test)
    assert judged.accuracy > 0.85
    viewed = judge(network, digits.walked(1, 3, 4, ()), digits.test)
    assert viewed.images == len(digits.test)  # each node counts once, whatever the views
    assert viewed.accuracy > 0.85
    assert viewed.loss != judged.loss


def test_training_in_parts(digits: GraphSplits) -> None:
    assert judge(trained(digits.walked(4, 1, 1, ()), 5), digits, digits.test).accuracy > 0.85


def test_several_labels_are_judged_by_the_area_under_the_curve(several: GraphSplits) -> None:
    from sklearn.metrics import roc_auc_score

    assert several.quality is ROC_AUC
    network = trained(several, 30)
    judged = judge(network, several, several.test)
    with torch.no_grad():
        logits = network.eval()(several.graph)[0, several.test.nodes]
    labels = several.labels[several.test.nodes]
    known = ~labels.isnan()
    areas = [roc_auc_score(labels[k, i], logits[k, i]) for i, k in enumerate(known.T)]
    assert judged.accuracy == pytest.approx(np.mean(areas))
    assert judged.loss == pytest.approx(
        float(F.binary_cross_entropy_with_logits(logits[known], labels[known])), rel=1e-5
    )
    assert judged.accuracy > 0.85


def test_labels_that_do_not_vary_are_left_out() -> None:
    scores = np.array([[0.1, 5.0, 1.0], [0.2, 4.0, 2.0], [0.3, 3.0, 3.0], [0.4, 2.0, np.nan]])
    targets = np.array([[0, 1, 1], [1, 1, 0], [0, 1, np.nan], [1, 1, np.nan]], dtype=float)
    assert roc_auc(scores, targets) == pytest.approx((0.75 + 0.0) / 2)
    assert roc_auc(scores[:, 1:2], targets[:, 1:2]) == 0.5


def test_losses_follow_from_what_the_targets_are() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 5, 3)
    classes = torch.tensor([[0, -100, 2, -100, 1]])
    assert float(loss_of(logits, classes)) == pytest.approx(float(F.cross_entropy(logits[0, ::2], classes[0, ::2])))
    labels = torch.tensor([[[1.0, 0, torch.nan]] * 5])
    wanted = F.binary_cross_entropy_with_logits(logits[..., :2], labels[..., :2])
    assert float(loss_of(logits, labels)) == pytest.approx(float(wanted))
    with pytest.raises(ConfigError, match="label_smoothing is for one class"):
        loss_of(logits, labels, 0.1)
    assert softened_answer(logits, classes).sum(-1).tolist() == [pytest.approx([1.0] * 5)]
    answer = softened_answer(logits, labels)
    assert torch.equal(answer, logits.sigmoid())
    moved = logits.clone().requires_grad_()
    loss_by_answer(moved, answer, labels).backward()
    assert moved.grad is not None
    assert float(moved.grad.abs().max()) < 1e-7  # nothing is to be learned from oneself


def test_a_teacher_of_classes_does_not_teach_labels(several: GraphSplits) -> None:
    network = Gcn(64, 3)
    program = DistilledProgram(network, network)
    with pytest.raises(ConfigError, match="of one class a case"):
        program.backward(several.graph, several.labels[None], 0, 0)


def test_members_of_a_supernet_are_scored_by_one_run_a_member(digits: GraphSplits, several: GraphSplits) -> None:
    for data in (digits, several):
        space = small_space(data)
        member = space.sample(np.random.default_rng(0))
        supernet = Supernet(space)
        scorer = MemberScorer(supernet, data)
        calls: list[object] = []
        supernet.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        score = scorer.score(member)
        runs = len(calls) - len(scorer._calibration)
        assert scorer._calibration
        whole = judge(supernet.extract(member), data, data.validation)
        assert score.accuracy == pytest.approx(whole.accuracy, abs=0.005)
        assert score.loss == pytest.approx(whole.loss, rel=1e-3)
        assert runs == 1
        first, second = data.validation.halves()
        half = judge(supernet.extract(member), data, first)
        assert score.first_half == pytest.approx(half.accuracy, abs=0.01)
        assert len(second) > 0


@pytest.mark.parametrize("parts", [1, 3])
def test_a_supernet_learns_labels_and_from_its_largest_member(several: GraphSplits, parts: int) -> None:
    from nas_engine.config import Supernet as Settings
    from nas_engine.train import supernet_program

    torch.manual_seed(0)
    supernet = Supernet(small_space(several))
    settings = Settings(distill=True, optimizer=Optimizer(learning_rate=0.1))
    program = supernet_program(supernet, 0, settings)
    epochs = list(train(program, several.walked(parts, 1, 1, ()), settings.optimizer, epochs=60 // parts, seed=0))
    assert epochs[-1].loss < epochs[0].loss
    for member in (program.members(0, 0)[0], supernet.space.sample(np.random.default_rng(1))):
        assert MemberScorer(supernet, several).score(member).accuracy > 0.9


def test_batch_norms_are_recalibrated_on_the_graph(digits: GraphSplits) -> None:
    network = Gcn(64, 10)
    recalibrate(network, (inputs for inputs, _ in digits.walk(digits.train, 64, seed=0)))
    with torch.no_grad():
        seen = network.first(digits.graph.x[0], digits.graph.edges[0])
    torch.testing.assert_close(network.norm.running_mean, seen.mean(0))


def test_a_graph_has_no_micro_batches(digits: GraphSplits) -> None:
    with pytest.raises(ConfigError, match=r"accumulate 2 .*data.parts"):
        list(Parts(nn.Linear(1, 1), 2).of(digits.graph, digits.labels[None]))
    base = {"data": {"source": "digits-knn"}}
    for wrong, words in (
        ({"supernet": {"optimizer": {"accumulate": 2}}}, "accumulate is for batches of many"),
        ({"supernet": {"processes": 2}}, "processes share out batches, and a graph is one"),
        ({"baselines": ["resnet18"]}, "networks for images"),
    ):
        with pytest.raises(ConfigError, match=words):
            make_config({**base, **wrong})


def test_smoothing_is_of_classes(tmp_path: Path) -> None:
    np.savez(tmp_path / "g.npz", y=np.eye(3, dtype=int))
    base = {"data": {"source": f"graph:{tmp_path / 'g.npz'}"}}
    with pytest.raises(ConfigError, match="label_smoothing is for one class a node"):
        make_config({**base, "search": {"optimizer": {"label_smoothing": 0.1}}})
    assert make_config(base).data.quality is ROC_AUC
    assert make_config({"data": {"source": "digits-knn"}}).data.quality is NODES


def test_a_part_of_nothing_is_chance(several: GraphSplits) -> None:
    one = replace(several, validation=NodeSet(several.validation.nodes[:1]))
    assert judge(Gcn(64, 3), one, one.validation).accuracy == 0.5

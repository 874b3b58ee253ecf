"""The GCN predictor: its arithmetic against a plain loop, its contract, and how well it ranks."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from predictors import Predictor, kendall_tau, load_predictor, make_predictor
from predictors.encoding import Encoder, GraphBatch
from predictors.gcn import GCNPredictor, GCNSettings, Networks, _tensors
from predictors.ranked import folds_of, targets_of
from predictors.training import LOSSES, batches
from search_spaces import Architecture, Choice, Graph, GraphBuilder, SearchSpace, make_space
from search_spaces.errors import ConfigError, EngineError

SMALL = {"hidden": 16, "head": 64, "epochs": 20, "members": 3, "folds": 3}


def score(space: SearchSpace, architecture: Architecture) -> float:
    """A smooth made-up accuracy: more computation is better, with falling returns; pooling costs a little."""
    graph = space.sketch(architecture)
    return float(np.log2(1 + graph.cost.macs) + len(graph) - 2 * sum(n.operator == "avg_pool2d" for n in graph))


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return make_space("nasbench201")


@pytest.fixture(scope="module")
def data(space: SearchSpace) -> tuple[list[Architecture], np.ndarray]:
    rng = np.random.default_rng(0)
    members = [space.canonical(space.sample(rng)) for _ in range(300)]
    return members, np.array([score(space, a) for a in members])


@pytest.fixture(scope="module")
def fitted(space: SearchSpace, data: tuple[list[Architecture], np.ndarray]) -> Predictor:
    members, scores = data
    return make_predictor("gcn", space, **SMALL).fit(members[:60], scores[:60])


# ---- arithmetic --------------------------------------------------------------------------------------------


def by_loops(net: Networks, m: int, encoder: Encoder, batch: GraphBatch, b: int) -> float:
    """The ranking score of graph b by network m, node by node."""
    weights = {k: v[m].detach().numpy().astype(np.float64) for k, v in net.named_parameters()}
    size = int(batch.sizes[b])
    edges = batch.adjacency[b]
    h = [
        encoder.table[batch.rows[b, i]] @ weights["enter"]
        + weights["enter_bias"][0]
        + batch.depth[b, i] * weights["depth"][0, 0]
        for i in range(size)
    ]
    width = len(h[0])

    def normal(x: np.ndarray) -> np.ndarray:
        return (x - x.mean()) / np.sqrt(x.var() + 1e-5)

    for layer in range(len(net.mix)):
        messages = [normal(x) @ weights[f"mix.{layer}"] + weights[f"mix_bias.{layer}"][0] for x in h]
        after = []
        for i in range(size):
            total = messages[i][2 * width :].copy()
            reads = [messages[j][:width] for j in range(size) if edges[i, j]]
            readers = [messages[j][width : 2 * width] for j in range(size) if edges[j, i]]
            total += sum(reads) / max(1, len(reads)) + sum(readers) / max(1, len(readers))
            after.append(h[i] + np.maximum(total, 0))
        h = after
    read = np.concatenate([np.mean([normal(x) for x in h], axis=0), batch.totals[b]])
    hidden = np.maximum(read @ weights["head"] + weights["head_bias"][0], 0)
    return float((hidden @ weights["out"] + weights["out_bias"][0])[0])


def test_stacked_networks_against_loops(space: SearchSpace, data: tuple[list[Architecture], np.ndarray]) -> None:
    """All graphs through all networks at once, padded, equals one graph through one network by hand."""
    encoder = Encoder(space)
    batch = encoder.encode([space.sketch(a) for a in data[0][:5]])
    generator = torch.Generator().manual_seed(0)
    table = torch.from_numpy(encoder.table)
    net = Networks(3, table.shape[1], batch.totals.shape[1], GCNSettings(hidden=8, head=5, layers=2), generator)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        parts = _tensors(batch)
        together = net(table, *(p.unsqueeze(0) for p in parts))
        apart = net(table, *(p.unsqueeze(0).expand(3, *p.shape) for p in parts))
    expected = [[by_loops(net, m, encoder, batch, b) for b in range(5)] for m in range(3)]
    assert together.numpy() == pytest.approx(np.array(expected), abs=1e-4)
    assert torch.allclose(apart, together, atol=1e-5)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        # targets 0, 2, 0.5; pairs that count are (b, a) weight 1, (c, a) .5, (b, c) 1; predicted 0, 1, 2
        ("hinge", (0 + 0 + 1.1) / 2.5),
        ("logistic", (np.log1p(np.exp(-1)) + 0.5 * np.log1p(np.exp(-2)) + np.log1p(np.exp(1))) / 2.5),
        ("mse", (0 + 1 + 2.25) / 3),
    ],
)
def test_losses_by_hand(loss: str, expected: float) -> None:
    predicted, target = torch.tensor([[0.0, 1.0, 2.0]] * 2), torch.tensor([[0.0, 2.0, 0.5]] * 2)
    assert LOSSES[loss](predicted, target, 0.1).item() == pytest.approx(2 * expected)


def test_targets_keep_the_order_and_no_unit() -> None:
    scores = np.array([93.1, 10.0, 94.0, 93.9, 90.0])
    targets = targets_of(scores)
    assert (targets.argsort() == scores.argsort()).all()
    assert targets.mean() == pytest.approx(0)
    assert targets.std() == pytest.approx(1)
    np.testing.assert_allclose(targets_of(scores / 100 - 3), targets)
    assert targets[2] - targets[0] > 0.1 * (targets[0] - targets[1])  # small differences near the best count
    for constant in (np.ones(4), np.array([1.0, 1.0, 1.0, 1.0, 0.0])):
        assert np.isfinite(targets_of(constant)).all()


def test_folds_keep_groups_whole() -> None:
    groups = np.random.default_rng(0).integers(30, size=200)
    folds = folds_of(groups, 5, np.random.default_rng(1))
    assert all(len(set(folds[groups == g])) == 1 for g in range(30))
    counts = np.bincount(folds)
    assert len(counts) == 5
    assert counts.max() - counts.min() <= np.bincount(groups).max()
    assert folds_of(np.array([0, 0, 1, 1]), 5, np.random.default_rng(1)).max() == 1
    assert (folds_of(np.zeros(4, dtype=int), 5, np.random.default_rng(1)) == -1).all()


def test_batches_stay_in_their_pools() -> None:
    pools = [np.arange(10), np.arange(4)]
    walk = batches(pools, 5, torch.Generator().manual_seed(0))
    first, second = next(walk), next(walk)
    assert first.shape == (2, 5)
    assert sorted([*first[0].tolist(), *second[0].tolist()]) == list(range(10))
    assert {*first[1].tolist(), *second[1].tolist()} == set(range(4))


# ---- the contract ------------------------------------------------------------------------------------------


def test_it_ranks_what_it_has_not_seen(fitted: Predictor, data: tuple[list[Architecture], np.ndarray]) -> None:
    members, scores = data
    mean, std = fitted.predict(members[60:])
    assert mean.shape == std.shape == (240,)
    assert kendall_tau(scores[60:], mean) > 0.75
    assert (std > 0).all()
    assert np.median(np.abs(mean - scores[60:])) < scores.std() / 3  # in the unit of the scores
    assert 0.5 < (np.abs(mean - scores[60:]) < std).mean() < 0.95
    assert fitted.held_out is not None
    assert fitted.held_out.n == 60
    assert fitted.held_out.tau > 0.6


def test_same_seed_same_predictions(
    space: SearchSpace, fitted: Predictor, data: tuple[list[Architecture], np.ndarray]
) -> None:
    members, scores = data
    again = GCNPredictor(space, **SMALL).fit(members[:60], scores[:60])
    assert (again.predict(members)[0] == fitted.predict(members)[0]).all()
    assert again.id == fitted.id
    other = GCNPredictor(space, **SMALL, seed=1).fit(members[:60], scores[:60])
    assert (other.predict(members)[0] != fitted.predict(members)[0]).any()


def test_company_does_not_matter(fitted: Predictor, data: tuple[list[Architecture], np.ndarray]) -> None:
    mean, std = fitted.predict(data[0])
    for i in (0, 17, 299):
        alone = fitted.predict([data[0][i]])
        assert (alone[0][0], alone[1][0]) == pytest.approx((mean[i], std[i]), rel=1e-4)


def test_given_sketches_are_used(
    space: SearchSpace, fitted: Predictor, data: tuple[list[Architecture], np.ndarray]
) -> None:
    mean = fitted.predict(data[0][:5], sketches=[space.sketch(a) for a in data[0][:5]])[0]
    assert (mean == fitted.predict(data[0][:5])[0]).all()


def test_unit_of_the_scores(space: SearchSpace, fitted: Predictor, data: tuple[list[Architecture], np.ndarray]) -> None:
    members, scores = data
    scaled = GCNPredictor(space, **SMALL).fit(members[:60], 100 + 0.01 * scores[:60])
    (mean, std), (same_mean, same_std) = fitted.predict(members), scaled.predict(members)
    assert same_mean == pytest.approx(100 + 0.01 * mean, rel=1e-6)
    assert same_std == pytest.approx(0.01 * std, rel=1e-4)


def test_a_failed_network_does_not_bend_the_ranking(
    space: SearchSpace, fitted: Predictor, data: tuple[list[Architecture], np.ndarray]
) -> None:
    members, scores = data
    failed = scores[:60].copy()
    failed[failed.argmin()] = -1e6
    bent = GCNPredictor(space, **SMALL).fit(members[:60], failed)
    assert kendall_tau(fitted.predict(members)[0], bent.predict(members)[0]) > 0.93


@pytest.mark.parametrize("copied", ["disk", "pickle"])
def test_copies_predict_the_same(
    fitted: Predictor,
    space: SearchSpace,
    data: tuple[list[Architecture], np.ndarray],
    tmp_path: Path,
    copied: str,
) -> None:
    if copied == "disk":
        fitted.save(tmp_path)
        again = load_predictor(tmp_path, space)
        assert again.held_out == fitted.held_out
    else:
        again = pickle.loads(pickle.dumps(fitted))
    for one, two in zip(again.predict(data[0]), fitted.predict(data[0]), strict=True):
        assert (one == two).all()


def test_weights_of_another_shape_are_damage(fitted: Predictor, space: SearchSpace, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    path = tmp_path / "predictor.json"
    path.write_text(path.read_text().replace('"layers": 3', '"layers": 2'))
    with pytest.raises(EngineError, match="damaged"):
        load_predictor(tmp_path, space)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"hiden": 3}, "did you mean 'hidden'"),
        ({"hidden": 0}, "hidden > 0"),
        ({"hidden": "wide"}, "wrong type"),
        ({"folds": 1}, "2 folds or more"),
        ({"loss": "hindge"}, "no loss 'hindge'"),
    ],
)
def test_settings_are_checked(space: SearchSpace, settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        GCNPredictor(space, **settings)


@pytest.mark.parametrize(
    "scores",
    [lambda n: np.arange(n), lambda n: np.ones(n), lambda n: np.arange(n) % 2],
    ids=["ten", "constant", "two values"],
)
def test_little_data(
    space: SearchSpace,
    data: tuple[list[Architecture], np.ndarray],
    scores: Callable[[int], np.ndarray],
) -> None:
    y = scores(10)
    mean, std = GCNPredictor(space, **SMALL).fit(data[0][:10], y).predict(data[0])
    assert np.isfinite(mean).all()
    assert np.isfinite(std).all()
    assert (std > 0).all()
    assert np.abs(mean - y.mean()).max() <= 20 * (y.std() + 1e-6)


def test_copies_of_one_network_only(space: SearchSpace, data: tuple[list[Architecture], np.ndarray]) -> None:
    """Nothing can be held out then; the mean of the scores is all there is to say."""
    predictor = GCNPredictor(space, **SMALL).fit([data[0][0]] * 6, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0])
    assert predictor.held_out is None
    assert predictor.predict([data[0][0]])[0] == pytest.approx([2], abs=0.2)


@pytest.mark.parametrize("loss", ["logistic", "mse"])
def test_other_losses_learn(space: SearchSpace, data: tuple[list[Architecture], np.ndarray], loss: str) -> None:
    members, scores = data
    predictor = GCNPredictor(space, **SMALL, loss=loss).fit(members[:60], scores[:60])
    assert kendall_tau(scores[60:], predictor.predict(members[60:])[0]) > 0.65


class Wide(SearchSpace):
    """A user's space: two convolutions of chosen width and kernel, joined or not."""

    name = "wide"

    def __init__(self) -> None:
        choices = [Choice(f"{n}{i}", o) for i in (1, 2) for n, o in (("kernel", (1, 3, 5)), ("width", (8, 16, 32, 64)))]
        super().__init__([*choices, Choice("joined", (False, True))])

    def graph(self, architecture: Architecture) -> Graph:
        a = architecture.values
        g = GraphBuilder(self.input_shape)
        x = g.add("conv_bn_act", g.input, name="one", out_channels=a["width1"], kernel_size=a["kernel1"])
        y = g.add("conv_bn_act", x, name="two", out_channels=a["width2"], kernel_size=a["kernel2"])
        if a["joined"]:
            y = g.add("concat", x, y, name="join")
        return g.build(g.add("classifier", y, name="head", classes=self.classes))


@pytest.mark.parametrize("make", [Wide, lambda: make_space("mobile")], ids=["user", "mobile"])
def test_other_spaces(make: Callable[[], SearchSpace]) -> None:
    space = make()
    rng = np.random.default_rng(0)
    members = [space.sample(rng) for _ in range(160)]
    scores = np.array([score(space, a) for a in members])
    predictor = GCNPredictor(space, **SMALL).fit(members[:60], scores[:60])
    assert kendall_tau(scores[60:], predictor.predict(members[60:])[0]) > 0.75


@pytest.mark.slow
def test_nasbench201_without_leaks(shared_file: Callable[[str], Path], space: SearchSpace) -> None:
    """The tuned plain GCN has tau 0.728 at 100 cells (CIFAR-10); ours 0.76, with standard deviations that hold."""
    frame = pd.read_parquet(shared_file("nasbench201/nasbench201.parquet")).drop_duplicates("unique_str")
    names = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
    edges = ("0_1", "0_2", "1_2", "0_3", "1_3", "2_3")
    codes = frame[[f"op_{e}" for e in edges]].to_numpy()
    members = [
        space.architecture({f"edge{e.replace('_', '')}": names[c] for e, c in zip(edges, row, strict=True)})
        for row in codes
    ]
    y = frame["cifar10_test_acc_200ep"].to_numpy(dtype=float)
    taus, inside = [], []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(y))
        seen, unseen = order[:100], order[100:3100]
        predictor = GCNPredictor(space, seed=seed).fit([members[i] for i in seen], y[seen])
        mean, std = predictor.predict([members[i] for i in unseen])
        taus.append(kendall_tau(y[unseen], mean))
        inside.append((np.abs(mean - y[unseen]) < std).mean())
        assert predictor.held_out is not None
        assert abs(predictor.held_out.tau - taus[-1]) < 0.15
    assert np.mean(taus) > 0.728
    assert 0.6 < np.mean(inside) < 0.85

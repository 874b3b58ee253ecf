"""The reversible trunk of the GCN predictor: its arithmetic, its gradients, what it keeps, and how well it ranks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from predictors import kendall_tau, load_predictor, make_predictor
from predictors.gcn import GCNPredictor, GCNSettings, Networks
from search_spaces import Architecture, SearchSpace, make_space
from search_spaces.errors import ConfigError, EngineError
from search_spaces.reversible import Layers, Replay, couple

SMALL = {"trunk": "reversible", "hidden": 16, "head": 64, "epochs": 20, "members": 3, "folds": 3, "layers": 4}
M, B, N, F, K = 3, 4, 7, 10, 5


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return make_space("nasbench201")


@pytest.fixture(scope="module")
def data(space: SearchSpace) -> tuple[list[Architecture], np.ndarray]:
    rng = np.random.default_rng(0)
    members = [space.canonical(space.sample(rng)) for _ in range(200)]
    graphs = [space.sketch(a) for a in members]
    return members, np.array([np.log2(1 + g.cost.macs) + len(g) for g in graphs])


def networks(layers: int, trunk: str = "reversible", *, hidden: int = 12, groups: int = 2) -> Networks:
    """Networks whose weights, biases too, are all away from zero."""
    generator = torch.Generator().manual_seed(0)
    settings = GCNSettings(hidden=hidden, head=8, layers=layers, trunk=trunk, groups=groups)
    made = Networks(M, F, K, settings, generator)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return made


def graphs(dtype: torch.dtype = torch.float32, *, nodes: int = N) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Table, rows, adjacency, depth and totals of graphs of each network's own; the last nodes are padding."""
    g = torch.Generator().manual_seed(1)
    rows = torch.randint(1, 20, (M, B, nodes), generator=g)
    rows[..., -2:] = 0
    edges = (torch.rand(M, B, nodes, nodes, generator=g) < 0.4).tril(-1) & (rows > 0).unsqueeze(-1)
    depth, totals = torch.rand(M, B, nodes, generator=g), torch.randn(M, B, K, generator=g)
    return torch.randn(20, F, generator=g).to(dtype), rows, edges.to(dtype), depth.to(dtype), totals.to(dtype)


class Coupled(Networks):
    """The same networks, whose couplings are differentiated as any other operators are."""

    def _through(self, layers: Layers, h: Tensor) -> Tensor:
        return torch.cat(couple(layers, list(h.double().tensor_split(self.groups, -1)), Replay(h)), -1).to(h.dtype)


def differentiated(net: Networks, dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
    net.zero_grad()
    scores = net(*graphs(dtype))
    scores.square().sum().backward()
    return scores.detach(), {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("groups", [2, 3])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_gradients_are_those_of_the_plain_execution(groups: int, dtype: torch.dtype, error: float) -> None:
    net = networks(16, groups=groups).to(dtype)
    scores, found = differentiated(net, dtype)
    net.__class__ = Coupled
    expected_scores, expected = differentiated(net, dtype)
    assert torch.equal(scores, expected_scores)
    assert found.keys() == expected.keys() == dict(net.named_parameters()).keys()
    for name, slope in expected.items():
        assert float((found[name] - slope).norm()) <= error * float(slope.norm()), name


def by_loops(net: Networks, m: int, b: int) -> float:
    """The ranking score of graph b by network m: groups one after the other, node by node."""
    weights = {k: v[m].detach().numpy().astype(np.float64) for k, v in net.named_parameters()}
    table, rows, edges, depth, totals = (p.numpy() if p.ndim == 2 else p[m, b].numpy() for p in graphs())
    real = np.flatnonzero(rows > 0)
    h = table[rows[real]] @ weights["enter"] + weights["enter_bias"] + depth[real, None] * weights["depth"][0]

    def normal(x: np.ndarray) -> np.ndarray:
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    def convolved(x: np.ndarray, number: int) -> np.ndarray:
        down, up, own = np.split(normal(x) @ weights[f"mix.{number}"] + weights[f"mix_bias.{number}"], 3, axis=1)
        for i in range(len(real)):
            reads = [down[j] for j in range(len(real)) if edges[i, j]]
            readers = [up[j] for j in range(len(real)) if edges[j, i]]
            own[i] += sum(reads) / max(1, len(reads)) + sum(readers) / max(1, len(readers))
        return np.maximum(own, 0)

    for layer in range(len(net.mix) // net.groups):
        parts = np.split(h, net.groups, axis=1)
        y, after = np.sum(parts[1:], axis=0), []
        for group, x in enumerate(parts):
            y = x + convolved(y, layer * net.groups + group)
            after.append(y)
        h = np.concatenate(after, axis=1)
    read = np.concatenate([normal(h).mean(0), totals])
    hidden = np.maximum(read @ weights["head"] + weights["head_bias"][0], 0)
    return float((hidden @ weights["out"] + weights["out_bias"][0])[0])


@pytest.mark.parametrize("groups", [2, 3])
def test_against_loops(groups: int) -> None:
    net = networks(3, groups=groups)
    with torch.inference_mode():
        together = net(*graphs())
    expected = [[by_loops(net, m, b) for b in range(B)] for m in range(M)]
    assert together.numpy() == pytest.approx(np.array(expected), abs=1e-4)


def test_networks_do_not_touch_one_another() -> None:
    net = networks(4)
    net(*graphs())[1].sum().backward()
    for name, parameter in net.named_parameters():
        slope = parameter.grad.flatten(1).abs().sum(1)
        assert slope[1] > 0, name
        assert slope[0] == slope[2] == 0, name


# ---- what is kept ------------------------------------------------------------------------------------------


@contextmanager
def saved(given: set[int]) -> Iterator[dict[int, int]]:
    """Bytes that automatic differentiation keeps, by storage, beside those given."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in given:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


def kept_bytes(layers: int, trunk: str) -> int:
    """Bytes saved for the gradient of one forward pass, weights apart."""
    net = networks(layers, trunk)
    with saved({p.untyped_storage().data_ptr() for p in net.parameters()}) as kept:
        scores = net(*graphs(nodes=30))
    assert scores.requires_grad
    return sum(kept.values())


def allocated_bytes(layers: int, trunk: str) -> int:
    """Bytes that a forward pass has allocated and not freed, by the events of torch's allocator."""
    net, given = networks(layers, trunk), graphs(nodes=30)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        scores = net(*given)
    assert scores.requires_grad
    return sum(e.nbytes() for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]")


@pytest.mark.parametrize("held", [kept_bytes, allocated_bytes])
def test_memory_held_does_not_grow_with_layers(held: Callable[[int, str], int]) -> None:
    features = 4 * M * B * 30 * 12
    assert held(64, "reversible") <= held(4, "reversible") + 1024
    assert held(64, "plain") > held(4, "plain") + 60 * 3 * features


def test_the_callers_random_numbers_neither_matter_nor_are_drawn(
    space: SearchSpace, data: tuple[list[Architecture], np.ndarray]
) -> None:
    found = []
    for seed in (7, 8):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append(GCNPredictor(space, **SMALL | {"layers": 1, "max_steps": 3}).fit(data[0][:8], data[1][:8]).id)
        assert torch.equal(torch.get_rng_state(), before)
    assert found[0] == found[1]


# ---- as a predictor ----------------------------------------------------------------------------------------


def test_it_ranks_and_survives_storage(
    space: SearchSpace, data: tuple[list[Architecture], np.ndarray], tmp_path: Path
) -> None:
    members, scores = data
    fitted = make_predictor("gcn", space, **SMALL | {"groups": 4, "max_steps": 50}).fit(members[:60], scores[:60])
    assert kendall_tau(scores[60:], fitted.predict(members[60:])[0]) > 0.8
    fitted.save(tmp_path)
    again = load_predictor(tmp_path, make_space("nasbench201"))
    assert again.settings == fitted.settings
    assert again.id == fitted.id
    for one, two in zip(again.predict(members), fitted.predict(members), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("change", [{"trunk": "plain"}, {"layers": 3}, {"groups": 4}])
def test_weights_of_another_trunk_are_damage(
    space: SearchSpace, data: tuple[list[Architecture], np.ndarray], tmp_path: Path, change: dict[str, object]
) -> None:
    make_predictor("gcn", space, **SMALL | {"max_steps": 2}).fit(data[0][:8], data[1][:8]).save(tmp_path)
    path = tmp_path / "predictor.json"
    about = json.loads(path.read_text())
    assert change.keys() <= about["settings"].keys()
    path.write_text(json.dumps(about | {"settings": about["settings"] | change}))
    with pytest.raises(EngineError, match="damaged"):
        load_predictor(tmp_path, space)


def test_a_file_from_before_there_were_trunks_is_a_plain_one(
    space: SearchSpace, data: tuple[list[Architecture], np.ndarray], tmp_path: Path
) -> None:
    plain = make_predictor("gcn", space, **SMALL | {"trunk": "plain", "max_steps": 2})
    plain.fit(data[0][:8], data[1][:8]).save(tmp_path)
    path = tmp_path / "predictor.json"
    about = json.loads(path.read_text())
    del about["settings"]["trunk"], about["settings"]["groups"]
    path.write_text(json.dumps(about))
    again = load_predictor(tmp_path, space)
    np.testing.assert_array_equal(again.predict(data[0])[0], plain.predict(data[0])[0])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"trunk": "reversable"}, "no trunk 'reversable': did you mean 'reversible'"),
        ({"trunk": 3}, "no trunk 3"),
        ({"trunk": "reversible", "groups": 1}, "got hidden=32 and groups=1"),
        ({"trunk": "reversible", "groups": 5}, "got hidden=32 and groups=5; let groups divide hidden"),
        ({"trunk": "reversible", "hidden": 4, "groups": 4}, "2 at least; got hidden=4 and groups=4"),
        ({"groups": 4}, "only a reversible trunk has groups; got groups=4"),
        ({"trunk": "reversible", "layers": 0}, "layers > 0"),
    ],
)
def test_settings_are_checked(space: SearchSpace, settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        GCNPredictor(space, **settings)


@pytest.mark.slow
def test_deep_reversible_trunks_rank_as_the_plain_one_does(
    shared_file: Callable[[str], Path], space: SearchSpace
) -> None:
    """Kendall tau on cells of NAS-Bench-201 that were not among the 100 learned from, leak-free; means of 2 seeds."""
    frame = pd.read_parquet(shared_file("nasbench201/nasbench201.parquet")).drop_duplicates("unique_str")
    y = frame["cifar10_test_acc_200ep"].to_numpy(dtype=float)
    members = [space.from_text(text) for text in frame["arch_str"]]

    def tau(seed: int, **settings: object) -> float:
        order = np.random.default_rng(seed).permutation(len(y))
        seen, unseen = order[:100], order[100:2100]
        predictor = GCNPredictor(space, seed=seed, members=3, folds=2, **settings)
        predictor.fit([members[i] for i in seen], y[seen])
        return kendall_tau(y[unseen], predictor.predict([members[i] for i in unseen])[0])

    plain, shallow, deep = (
        np.mean([tau(seed, **settings) for seed in range(2)])
        for settings in ({}, {"trunk": "reversible", "layers": 4}, {"trunk": "reversible", "layers": 16})
    )
    assert shallow > plain - 0.02
    assert deep > plain - 0.02

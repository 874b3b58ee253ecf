"""What holds of every predictor that learns to rank: gcn, gp, boosting, ridge, nao, and ensembles of them."""

import numpy as np
import pytest

from predictors import RankPredictor, kendall_tau, load_predictor, make_predictor, predictors
from search_spaces import Choice, Graph, GraphBuilder, SearchSpace, make_space
from search_spaces.errors import ConfigError, DataError

QUICK = {
    "gcn": {"members": 2, "epochs": 30},
    "gp": {},
    "boosting": {"members": 2, "trees": 80},
    "ridge": {},
    "nao": {"members": 2, "epochs": 30},
    "ensemble": {"members": ("gp", "ridge")},
}


class Towers(SearchSpace):
    """A user's space: two towers of convolutions side by side."""

    name = "towers"

    def __init__(self, *, input_shape=(3, 8, 8), classes=4):
        choices = [Choice(f"{side}{i}", (0, 3, 5)) for side in "ab" for i in range(3)]
        super().__init__(choices, input_shape=input_shape, classes=classes)

    def graph(self, architecture) -> Graph:
        g = GraphBuilder(self.input_shape)
        x = g.add("conv_bn_act", g.input, name="stem", out_channels=8)
        ends = []
        for side in "ab":
            y = x
            for i in range(3):
                if size := architecture[f"{side}{i}"]:
                    y = g.add("conv_bn_act", y, name=f"{side}{i}.{size}", out_channels=8, kernel_size=size)
            ends.append(y)
        return g.build(g.add("classifier", g.add("add", *ends, name="sum"), name="head", classes=self.classes))


@pytest.fixture(scope="module")
def towers():
    space = Towers()
    members = list(space.enumerate())
    quality = np.array([sum(o * (2 if n.startswith("a") else 1) for n, o in a.values.items()) for a in members])
    rows = np.random.default_rng(0).permutation(len(members))
    return space, [members[i] for i in rows], 50 + quality[rows].astype(float)


def made(name, space, **more):
    return make_predictor(name, space, **{**QUICK[name], **more})


@pytest.mark.parametrize("name", QUICK)
class TestEveryRanker:
    def test_ranks_members_it_has_not_seen_of_a_space_of_the_user(self, name, towers):
        space, members, quality = towers
        predictor = made(name, space).fit(members[:80], quality[:80])
        mean, std = predictor.predict(members[80:])
        assert kendall_tau(quality[80:], mean) > (0.4 if name == "nao" else 0.6)
        assert (std > 0).all()
        assert np.abs(mean - quality[80:]).mean() < quality.std()
        assert predictor.held_out.n == 80

    def test_survives_storage_unchanged(self, name, towers, tmp_path):
        space, members, quality = towers
        predictor = made(name, space).fit(members[:40], quality[:40])
        predictor.save(tmp_path)
        again = load_predictor(tmp_path, Towers())
        for before, after in zip(predictor.predict(members), again.predict(members), strict=True):
            np.testing.assert_array_equal(before, after)
        assert again.id == predictor.id
        assert again.held_out == predictor.held_out

    def test_equal_seeds_give_equal_predictions(self, name, towers):
        space, members, quality = towers
        first, second = (made(name, space, seed=3).fit(members[:30], quality[:30]) for _ in range(2))
        np.testing.assert_array_equal(first.predict(members)[0], second.predict(members)[0])

    def test_uses_further_inputs_and_asks_for_them_again(self, name, towers):
        space, members, _ = towers
        told = np.random.default_rng(1).normal(size=(len(members), 2))
        scores = told[:, 0]
        predictor = made(name, space).fit(members[:100], scores[:100], extra=told[:100])
        assert kendall_tau(scores[100:], predictor.predict(members[100:], extra=told[100:])[0]) > 0.5
        with pytest.raises(DataError, match="learned from 2 further inputs an architecture; got 0"):
            predictor.predict(members[:3])
        with pytest.raises(DataError, match=r"extra of shape \(3,\) for 4 architectures"):
            predictor.fit(members[:4], scores[:4], extra=np.zeros(3))

    def test_learns_from_four_and_from_one_group(self, name, towers):
        space, members, quality = towers
        predictor = made(name, space).fit(members[:4], quality[:4], groups=["same"] * 4)
        assert predictor.held_out is None
        assert np.isfinite(predictor.predict(members[:50])).all()

    def test_repeated_members_with_different_scores_are_allowed(self, name, towers):
        space, members, quality = towers
        scores = np.concatenate([quality[:20], quality[:20] + 1])
        assert np.isfinite(made(name, space).fit(members[:20] * 2, scores).predict(members[:9])).all()


def test_all_are_registered_with_a_docstring():
    for name in QUICK:
        assert issubclass(predictors[name], RankPredictor)
        assert predictors[name].__doc__


class TestEnsemble:
    def test_the_member_that_ranks_counts(self, towers):
        space, members, quality = towers
        told = np.random.default_rng(1).normal(size=(len(members), 1))
        predictor = made("ensemble", space, members=("ridge", "gp")).fit(members[:60], quality[:60], extra=told[:60])
        assert sum(predictor.weights.values()) == pytest.approx(1)
        assert min(predictor.weights.values()) > 0

    def test_ranks_as_well_as_its_members(self, towers):
        space, members, quality = towers
        taus = {}
        for name in ("ridge", "boosting"):
            mean, _ = made(name, space).fit(members[:60], quality[:60]).predict(members[60:])
            taus[name] = kendall_tau(quality[60:], mean)
        settings = {"boosting": QUICK["boosting"]}
        both = made("ensemble", space, members=("ridge", "boosting"), settings=settings)
        mean, _ = both.fit(members[:60], quality[:60]).predict(members[60:])
        assert kendall_tau(quality[60:], mean) > min(taus.values())

    def test_members_that_make_no_sense_are_refused(self, towers):
        space = towers[0]
        for members in ((), ("gp", "gp"), ("ensemble",)):
            with pytest.raises(ConfigError, match="an ensemble needs members"):
                made("ensemble", space, members=members)
        with pytest.raises(ConfigError, match="settings for"):
            made("ensemble", space, settings={"gcn": {}})
        with pytest.raises(ConfigError, match="did you mean 'ridge'"):
            made("ensemble", space, members=("ridges",)).fit(towers[1][:5], towers[2][:5])


def test_settings_out_of_range_are_refused(towers):
    for name, settings in {
        "gp": {"scale_spreads": ()},
        "boosting": {"trees": 0},
        "gcn": {"hidden": 0},
        "ridge": {"folds": 1},
    }.items():
        with pytest.raises(ConfigError, match="needs"):
            make_predictor(name, towers[0], **settings)


def test_a_gaussian_process_is_less_sure_far_from_what_it_saw():
    space = make_space("nasbench201")
    members = [space.from_indices([i, j, 0, 3, 0, 0]) for i in range(5) for j in range(5)]
    predictor = make_predictor("gp", space).fit(members, np.arange(25.0))
    near = predictor.rank(predictor.reader.read(members))[1].mean()
    far = predictor.rank(predictor.reader.read([space.from_indices([4] * 6), space.from_indices([3] * 6)]))[1].mean()
    assert far > 2 * near

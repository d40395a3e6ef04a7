"""Baselines against plain scikit-learn and explicit loops on hand-made arrays."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from scipy import sparse
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold
from torch_geometric.data import Data

from nh2st_graph import ConfigError, DataError
from nh2st_graph.config import Config
from nh2st_graph.models import BASELINES, Estimator, find_method, make_baseline, section_groups
from nh2st_graph.nn import Rows

ALL = ("mean", "ridge", "ridge_neighbours", "reduced_rank_ridge", "kernel_ridge", "pca_ridge", "knn", "random_forest")

#: Settings of baselines that take long, where a test is not about what they say.
QUICK: dict[str, dict[str, Any]] = {"random_forest": {"trees": 10}}

WEIGHTS = np.random.default_rng(7).normal(size=(6, 3))


def make_section(n: int, seed: int, noise: float = 1.0, n_genes: int = 3) -> Data:
    """A row of spots, each with edges from both sides, whose expression follows its six features."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6))
    y = 2 + x @ WEIGHTS[:, :n_genes] + noise * rng.normal(size=(n, n_genes))
    left = np.arange(n - 1)
    return Data(
        x=torch.tensor(x, dtype=torch.float32),
        y=torch.tensor(y, dtype=torch.float32),
        pos=torch.tensor(np.column_stack([np.arange(n), np.zeros(n)])),
        edge_index=torch.tensor(np.hstack([[left, left + 1], [left + 1, left]])),
        section=f"s{seed}",
    )


@pytest.fixture
def sections() -> list[Data]:
    return [make_section(n, seed) for seed, n in enumerate((20, 30, 25))]


def fitted(name: str, sections: list[Data], seed: int = 0, **settings: Any) -> Estimator:
    method = find_method(name)
    baseline = method(method.Settings(**QUICK.get(name, {}) | settings), seed)
    baseline.fit(sections)
    return baseline


def joined(sections, name):
    return torch.cat([section[name] for section in sections]).double().numpy()


# What is read


def own(section: Data) -> np.ndarray:
    """The features of each spot."""
    return section.x.numpy()


def with_neighbours(section: Data) -> np.ndarray:
    """Beside them the mean over the spots that each spot hears, one spot at a time; of nobody, zeros."""
    sender, receiver = section.edge_index.numpy()
    heard = [own(section)[sender[receiver == i]].astype(float) for i in range(len(section.x))]
    around = [each.mean(axis=0) if len(each) else np.zeros(section.x.shape[1]) for each in heard]
    return np.hstack([own(section), np.stack(around)])


# Large sections


@pytest.mark.parametrize("name", ALL)
def test_a_large_section_is_learned_from_a_sample_and_predicted_in_parts(name, monkeypatch):
    first, second = make_section(60, 0, noise=0.1), make_section(90, 1, noise=0.1)
    rows = copy.copy(second)
    rows.x, rows.y = Rows(second.x.numpy()), Rows(sparse.csr_matrix(second.y.numpy()))
    rows.num_nodes = 90
    for part in ("_baselines.LARGE", "_reduced_rank.LARGE", "_reduced_rank.MOST_SPOTS"):
        monkeypatch.setattr(f"nh2st_graph.models.{part}", 80)
    dense, held = (fitted(name, [first, each]) for each in (second, rows))
    assert dense.chosen == held.chosen
    expected = dense.predict(second)
    monkeypatch.setattr("nh2st_graph.models._baselines._ROWS", 7)
    predicted = held.predict(rows)
    np.testing.assert_allclose(predicted, expected, rtol=1e-5)
    assert predicted.dtype == np.float32
    kept = held.memory()
    assert all(len(kept[key]) == 80 for key in ("x", "y") if key in kept)


# Against scikit-learn and numpy


def test_mean_is_the_training_mean(sections):
    baseline = fitted("mean", sections)
    mean = joined(sections, "y").mean(axis=0)
    np.testing.assert_allclose(baseline.predict(make_section(9, 5)), np.tile(mean, (9, 1)))
    assert baseline.chosen == {}


def widened(section: Data, width: int = 3000) -> Data:
    """Give a spot far more features than there are spots, about a mean that is not 0."""
    wide = copy.copy(section)
    turn = torch.from_numpy(np.random.default_rng(3).normal(size=(6, width))).float()
    wide.x = 5 + torch.tanh(section.x @ turn)
    return wide


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(("name", "features"), [("ridge", own), ("ridge_neighbours", with_neighbours)])
def test_ridge_equals_the_normal_equations_at_the_penalty_of_an_explicit_loop(sections, name, features, wide):
    test = make_section(12, 9)
    if wide:
        *sections, test = (widened(each) for each in (*sections, test))
    groups, y = section_groups(sections), joined(sections, "y")
    x = np.vstack([features(section) for section in sections]).astype(np.float64)
    errors = {}
    for alpha in np.logspace(0, 5, 11).tolist():
        squared = []
        for held in range(3):
            learned = Ridge(alpha).fit(x[groups != held], y[groups != held])
            squared.append(((learned.predict(x[groups == held]) - y[groups == held]) ** 2).mean())
        errors[alpha] = np.mean(squared)
    baseline = fitted(name, sections)
    alpha = min(errors, key=errors.get)
    assert baseline.chosen == {"alpha": alpha}

    centred = x - x.mean(axis=0)
    weights = centred.T @ np.linalg.solve(centred @ centred.T + alpha * np.eye(len(x)), y - y.mean(axis=0))
    # As on an array; spot 0 hears 1 and 2, spot 1 hears 2, and the others nobody; and no edge at all.
    for edges in (test.edge_index, torch.tensor([[1, 2, 2], [0, 0, 1]]), torch.zeros(2, 0, dtype=torch.long)):
        test.edge_index = edges
        expected = (features(test) - x.mean(axis=0)) @ weights + y.mean(axis=0)
        np.testing.assert_allclose(baseline.predict(test), expected, rtol=1e-8)


def test_nearest_spots_equal_a_loop_at_the_number_of_an_explicit_loop(sections):
    groups, x, y = section_groups(sections), joined(sections, "x"), joined(sections, "y")

    def nearest(train_x, train_y, test_x, k):
        order = np.linalg.norm(test_x[:, None] - train_x[None], axis=2).argsort(axis=1)
        return train_y[order[:, :k]].mean(axis=1)

    def error(k):
        parts = [(nearest(x[groups != g], y[groups != g], x[groups == g], k) - y[groups == g]) ** 2 for g in range(3)]
        return np.mean([part.mean() for part in parts])

    k = min((5, 10, 20, 40, 80), key=error)
    baseline = fitted("knn", sections)
    assert baseline.chosen == {"n_neighbors": k}
    test = make_section(12, 9)
    np.testing.assert_allclose(baseline.predict(test), nearest(x, y, own(test), k))


def test_fewer_spots_than_nearest_spots_give_the_mean_of_all():
    tiny = [make_section(2, seed) for seed in range(2)]
    baseline = fitted("knn", tiny)
    np.testing.assert_allclose(baseline.predict(make_section(3, 4)), np.tile(joined(tiny, "y").mean(axis=0), (3, 1)))


def test_the_penalty_follows_the_noise():
    chosen = []
    for noise in (0.01, 3.0, 100.0):
        noisy = [make_section(20, seed, noise) for seed in range(6)]
        chosen.append(fitted("ridge", noisy).chosen["alpha"])
    assert chosen == sorted(chosen)
    assert chosen[0] == 1
    assert chosen[-1] >= 100


def by_singular_values(sections, test, n_components):
    """Standardised features and their leading components, of training and of test spots."""
    x, y = joined(sections, "x"), joined(sections, "y")
    scaled, of_test = ((each - x.mean(axis=0)) / x.std(axis=0) for each in (x, own(test)))
    _, _, directions = np.linalg.svd(scaled, full_matrices=False)
    return scaled @ directions[:n_components].T, of_test @ directions[:n_components].T, y


@pytest.mark.parametrize(("components", "used"), [(4, 4), (256, 6)])
def test_pca_ridge_as_published_has_its_rule_for_the_penalty_and_no_intercept(sections, components, used):
    test = make_section(12, 9)
    x, of_test, y = by_singular_values(sections, test, used)
    penalty = 100 / (used * 3)
    expected = of_test @ np.linalg.solve(x.T @ x + penalty * np.eye(used), x.T @ y)
    baseline = fitted("pca_ridge", sections, components=components)
    assert baseline.chosen == {}
    # Six features are few steps of LSQR, which then stops close to the solution.
    np.testing.assert_allclose(baseline.predict(test), expected, atol=1e-3)


def test_repaired_pca_ridge_chooses_its_penalty_and_keeps_the_mean(sections):
    test = make_section(12, 9)
    x, of_test, y = by_singular_values(sections, test, 4)
    baseline = fitted("pca_ridge", sections, components=4, repaired=True, alphas=(0.1, 1000.0))
    assert baseline.chosen == {"alpha": 0.1}
    expected = of_test @ np.linalg.solve(x.T @ x + 0.1 * np.eye(4), x.T @ (y - y.mean(axis=0))) + y.mean(axis=0)
    np.testing.assert_allclose(baseline.predict(test), expected, rtol=1e-8)


def test_components_are_no_more_than_the_spots_allow():
    tiny = [make_section(2, seed) for seed in range(2)]
    for repaired in (False, True):
        assert np.isfinite(fitted("pca_ridge", tiny, repaired=repaired).predict(make_section(3, 4))).all()


def test_a_forest_of_one_leaf_is_a_mean_of_training_spots_and_a_deep_one_follows_the_features(sections):
    test = make_section(40, 9, noise=0.1)
    observed, mean = test.y.numpy(), joined(sections, "y").mean(axis=0)
    flat = fitted("random_forest", sections, trees=200, min_leaf=(38,)).predict(test)
    assert np.ptp(flat, axis=0).max() == 0
    np.testing.assert_allclose(flat[0], mean, atol=0.3)
    deep = fitted("random_forest", sections, trees=50)
    assert deep.chosen == {"min_samples_leaf": 5}
    assert ((deep.predict(test) - observed) ** 2).mean() < 0.8 * ((mean - observed) ** 2).mean()


def test_a_forest_is_its_seeds(sections):
    test = make_section(9, 5)
    first, again, other = (fitted("random_forest", sections, seed).predict(test) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert find_method("random_forest").random


def test_ridge_on_the_mean_colour_reads_bytes(sections):
    """As ``pixels:1`` gives them."""
    for section in sections:
        section.x = torch.randint(0, 256, (section.num_nodes, 3), generator=torch.Generator().manual_seed(0)).byte()
    as_numbers = [section.clone() for section in sections]
    for section in as_numbers:
        section.x = section.x.float()
    for name in ALL:
        baseline, expected = fitted(name, sections), fitted(name, as_numbers)
        assert baseline.chosen == expected.chosen
        np.testing.assert_array_equal(baseline.predict(sections[0]), expected.predict(as_numbers[0]))
    assert fitted("ridge", sections).memory()["x"].dtype == torch.uint8


# Folds


class Watched(Ridge):
    """A ridge that notes which groups it learns from, and from which it predicts; feature 0 is the group."""

    seen: ClassVar[list[tuple[str, set[int]]]] = []

    def fit(self, X, y, sample_weight=None):
        self.seen.append(("fit", set(X[:, 0].astype(int).tolist())))
        return super().fit(X, y, sample_weight)

    def predict(self, X):
        self.seen.append(("predict", set(X[:, 0].astype(int).tolist())))
        return super().predict(X)


class WatchedBaseline(find_method("random_forest")):
    """A baseline that tries its values one by one; those of other baselines are given to them in the same place."""

    def regression(self):
        return Watched()

    def grid(self):
        return {"alpha": (1.0, 10.0)}


def watched(sections):
    """Fit with a choice of two penalties; return what was learned from and predicted."""
    Watched.seen.clear()
    WatchedBaseline(find_method("random_forest").Settings()).fit(sections)
    return Watched.seen


def test_no_spot_of_a_section_is_on_both_sides_of_a_fold(sections):
    for number, section in enumerate(sections):
        section.x[:, 0] = number
    *folds, refit = watched(sections)
    assert refit == ("fit", {0, 1, 2})
    pairs = list(zip(folds[::2], folds[1::2], strict=True))
    assert len(pairs) == 2 * 3
    for (did, learned), (then, held) in pairs:
        assert (did, then) == ("fit", "predict")
        assert len(held) == 1
        assert learned == {0, 1, 2} - held


def test_one_training_section_falls_back_to_bands(sections):
    section = sections[1]
    assert section_groups([section]).tolist() == [0] * 10 + [1] * 10 + [2] * 10
    for name in ALL:
        assert fitted(name, [section]).predict(sections[0]).shape == (20, 3)


def test_many_sections_are_held_out_several_at_a_time():
    many = [make_section(4, seed) for seed in range(12)]
    for number, section in enumerate(many):
        section.x[:, 0] = number
    held = [numbers for did, numbers in watched(many) if did == "predict"][::2]  # of one of the penalties
    assert sorted(number for numbers in held for number in numbers) == list(range(12))


def test_a_repaired_head_chooses_as_a_search_of_all_its_steps_does(sections):
    x, y = (joined(sections, name).astype(np.float64) for name in ("x", "y"))
    baseline = fitted("pca_ridge", sections, repaired=True, components=3)
    groups, folds = section_groups(sections), GroupKFold(3)
    search = GridSearchCV(baseline.regression(), baseline.grid(), cv=folds, scoring="neg_mean_squared_error")
    search.fit(x, y, groups=groups)
    assert baseline.chosen == search.best_params_
    candidates = search.cv_results_["params"]
    errors = [baseline._errors(candidates, (x, y), *each) for each in folds.split(x, groups=groups)]
    np.testing.assert_allclose(np.mean(errors, axis=0), -search.cv_results_["mean_test_score"], rtol=1e-12)


def test_a_penalty_that_is_nothing_beside_the_features_is_tried_too(sections):
    """Equations of features that stand twice have no solution without a penalty, and scikit-learn finds one."""
    for section in sections:
        section.x = 1e8 * section.x[:, [0, 0, 1, 1]]
    x, y = (joined(sections, name).astype(np.float64) for name in ("x", "y"))
    penalties = {"alpha": [1e-300, 1e17]}
    search = GridSearchCV(Ridge(), penalties, cv=GroupKFold(3), scoring="neg_mean_squared_error")
    expected = search.fit(x, y, groups=section_groups(sections)).best_params_
    assert fitted("ridge", sections, alphas=penalties["alpha"]).chosen == expected


def test_a_single_value_needs_no_folds_and_too_few_spots_for_folds_are_refused():
    one = [make_section(1, 0)]
    assert fitted("ridge", one, alphas=(3.0,)).chosen == {"alpha": 3.0}
    with pytest.raises(DataError, match=r"'ridge': 1 training spots .* alpha"):
        fitted("ridge", one)


# Every baseline


@pytest.mark.filterwarnings("ignore:invalid value encountered in divide:RuntimeWarning")
@pytest.mark.parametrize("name", ALL)
def test_constant_features_give_the_training_mean(name, sections):
    for section in sections:
        section.x[:] = 4.0
        section.edge_index = torch.arange(section.num_nodes).expand(2, -1)
    predicted = fitted(name, sections).predict(sections[0])
    assert np.isfinite(predicted).all()
    # All spots are equally near: which are taken is open, but they are spots of training.
    if name == "knn":
        assert (predicted == predicted[0]).all()
    elif name == "pca_ridge":  # without an intercept
        np.testing.assert_allclose(predicted, 0)
    elif name == "random_forest":  # of spots that are drawn
        np.testing.assert_allclose(predicted, np.tile(joined(sections, "y").mean(axis=0), (20, 1)), atol=0.3)
    else:
        np.testing.assert_allclose(predicted, np.tile(joined(sections, "y").mean(axis=0), (20, 1)))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("n_genes", [1, 3])
def test_predictions_have_a_row_for_each_spot_and_a_column_for_each_gene(name, n_genes):
    train = [make_section(20, seed, n_genes=n_genes) for seed in range(2)]
    baseline = fitted(name, train)
    for n in (1, 7):
        predicted = baseline.predict(make_section(n, 5))
        assert predicted.shape == (n, n_genes)
        assert predicted.dtype == np.float64


@pytest.mark.parametrize("name", ALL)
def test_a_prediction_depends_on_features_and_not_on_targets(name, sections):
    baseline = fitted(name, sections)
    test = make_section(8, 5)
    expected = baseline.predict(test)
    test.y = -test.y
    np.testing.assert_array_equal(baseline.predict(test), expected)
    del test.y
    np.testing.assert_array_equal(baseline.predict(test), expected)


def test_each_baseline_is_made_new(sections):
    first = make_baseline("ridge")
    first.fit(sections)
    assert first.chosen
    assert make_baseline("ridge").chosen == {}
    assert make_baseline("ridge").memory() is None


def test_a_method_that_is_no_baseline_is_refused():
    with pytest.raises(ConfigError, match=r"name='nh2st_graph' is no baseline.* mean, ridge"):
        make_baseline("nh2st_graph")


@pytest.mark.parametrize("name", ALL)
def test_a_restored_baseline_predicts_the_same_bits(name, sections):
    baseline, restored = make_baseline(name, seed=3), make_baseline(name, seed=3)
    baseline.fit(sections)
    restored.restore(load(save(baseline.memory())))
    assert restored.chosen == baseline.chosen
    assert {key: type(value) for key, value in restored.chosen.items()} == {
        key: type(value) for key, value in baseline.chosen.items()
    }
    test = make_section(9, 5)
    np.testing.assert_array_equal(restored.predict(test), baseline.predict(test))


@pytest.mark.parametrize("name", ALL)
def test_each_baseline_is_a_method_of_the_configuration(name):
    config = Config().override([f"model.name={name}"])
    assert type(config.model) is find_method(name).Settings
    assert Config.parse(config.model_dump(mode="json")) == config
    assert set(BASELINES) <= set(ALL)

"""Floors against plain scikit-learn and explicit loops on hand-made arrays."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch_geometric.data import Data

from nh2st_graph.models._floors import FLOORS, Floor, make_floor, own_features, with_neighbours
from nh2st_graph.tl._folds import section_groups

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
    )


@pytest.fixture
def sections() -> list[Data]:
    return [make_section(n, seed) for seed, n in enumerate((20, 30, 25))]


def joined(sections, name):
    return torch.cat([section[name] for section in sections]).double().numpy()


# What is read


def test_neighbours_are_averaged_by_receiver_and_isolated_spots_get_zeros():
    """Spot 0 hears 1 and 2, spot 1 hears 2, spots 2 and 3 hear nobody."""
    x = torch.tensor([[1.0, 10.0], [2.0, 20.0], [6.0, 60.0], [5.0, 50.0]])
    section = Data(x=x, edge_index=torch.tensor([[1, 2, 2], [0, 0, 1]]))
    np.testing.assert_array_equal(own_features(section), x)
    np.testing.assert_array_equal(with_neighbours(section)[:, :2], x)
    np.testing.assert_array_equal(with_neighbours(section)[:, 2:], [[4, 40], [6, 60], [0, 0], [0, 0]])


def test_without_any_edge_all_surroundings_are_zeros():
    section = Data(x=torch.ones(3, 2), edge_index=torch.zeros(2, 0, dtype=torch.long))
    np.testing.assert_array_equal(with_neighbours(section), [[1, 1, 0, 0]] * 3)


# Against scikit-learn and numpy


def test_mean_is_the_training_mean(sections):
    floor = make_floor("mean").fit(sections, section_groups(sections))
    mean = joined(sections, "y").mean(axis=0)
    np.testing.assert_allclose(floor.predict(make_section(9, 5)), np.tile(mean, (9, 1)))
    assert floor.chosen == {}


@pytest.mark.parametrize(("name", "features"), [("ridge", own_features), ("ridge_neighbours", with_neighbours)])
def test_ridge_equals_the_normal_equations_at_the_penalty_of_an_explicit_loop(sections, name, features):
    groups, x, y = section_groups(sections), np.vstack([features(s) for s in sections]), joined(sections, "y")
    errors = {}
    for alpha in np.logspace(0, 5, 11).tolist():
        squared = []
        for held in range(3):
            learned = Ridge(alpha).fit(x[groups != held], y[groups != held])
            squared.append(((learned.predict(x[groups == held]) - y[groups == held]) ** 2).mean())
        errors[alpha] = np.mean(squared)
    floor = make_floor(name).fit(sections, groups)
    alpha = min(errors, key=errors.get)
    assert floor.chosen == {"alpha": alpha}

    test = make_section(12, 9)
    centred = x - x.mean(axis=0)
    weights = np.linalg.solve(centred.T @ centred + alpha * np.eye(x.shape[1]), centred.T @ (y - y.mean(axis=0)))
    expected = (features(test) - x.mean(axis=0)) @ weights + y.mean(axis=0)
    np.testing.assert_allclose(floor.predict(test), expected, rtol=1e-8)


def test_nearest_spots_equal_a_loop_at_the_number_of_an_explicit_loop(sections):
    groups, x, y = section_groups(sections), joined(sections, "x"), joined(sections, "y")

    def nearest(train_x, train_y, test_x, k):
        order = np.linalg.norm(test_x[:, None] - train_x[None], axis=2).argsort(axis=1)
        return train_y[order[:, :k]].mean(axis=1)

    def error(k):
        parts = [(nearest(x[groups != g], y[groups != g], x[groups == g], k) - y[groups == g]) ** 2 for g in range(3)]
        return np.mean([part.mean() for part in parts])

    k = min((5, 10, 20, 40, 80), key=error)
    floor = make_floor("knn").fit(sections, groups)
    assert floor.chosen == {"n_neighbors": k}
    test = make_section(12, 9)
    np.testing.assert_allclose(floor.predict(test), nearest(x, y, own_features(test), k))


def test_fewer_spots_than_nearest_spots_give_the_mean_of_all():
    tiny = [make_section(2, seed) for seed in range(2)]
    floor = make_floor("knn").fit(tiny, section_groups(tiny))
    np.testing.assert_allclose(floor.predict(make_section(3, 4)), np.tile(joined(tiny, "y").mean(axis=0), (3, 1)))


def test_the_penalty_follows_the_noise():
    chosen = []
    for noise in (0.01, 3.0, 100.0):
        noisy = [make_section(20, seed, noise) for seed in range(6)]
        chosen.append(make_floor("ridge").fit(noisy, section_groups(noisy)).chosen["alpha"])
    assert chosen == sorted(chosen)
    assert chosen[0] == 1
    assert chosen[-1] >= 100


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


def test_no_spot_of_a_section_is_on_both_sides_of_a_fold(sections):
    for number, section in enumerate(sections):
        section.x[:, 0] = number
    Watched.seen.clear()
    Floor(Watched(), own_features, {"alpha": [1.0, 10.0]}).fit(sections, section_groups(sections))
    *folds, refit = Watched.seen
    assert refit == ("fit", {0, 1, 2})
    pairs = list(zip(folds[::2], folds[1::2], strict=True))
    assert len(pairs) == 2 * 3
    for (did, learned), (then, held) in pairs:
        assert (did, then) == ("fit", "predict")
        assert len(held) == 1
        assert learned == {0, 1, 2} - held


def test_one_training_section_falls_back_to_bands(sections):
    section = sections[1]
    groups = section_groups([section])
    assert groups.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    for name in FLOORS:
        assert make_floor(name).fit([section], groups).predict(sections[0]).shape == (20, 3)


# Every floor


@pytest.mark.parametrize("name", FLOORS)
def test_constant_features_give_the_training_mean(name, sections):
    for section in sections:
        section.x[:] = 4.0
        section.edge_index = torch.arange(section.num_nodes).expand(2, -1)
    predicted = make_floor(name).fit(sections, section_groups(sections)).predict(sections[0])
    assert np.isfinite(predicted).all()
    # All spots are equally near: which are taken is open, but they are spots of training.
    if name == "knn":
        assert (predicted == predicted[0]).all()
    else:
        np.testing.assert_allclose(predicted, np.tile(joined(sections, "y").mean(axis=0), (20, 1)))


@pytest.mark.parametrize("name", FLOORS)
@pytest.mark.parametrize("n_genes", [1, 3])
def test_predictions_have_a_row_for_each_spot_and_a_column_for_each_gene(name, n_genes):
    train = [make_section(20, seed, n_genes=n_genes) for seed in range(2)]
    floor = make_floor(name).fit(train, section_groups(train))
    for n in (1, 7):
        predicted = floor.predict(make_section(n, 5))
        assert predicted.shape == (n, n_genes)
        assert predicted.dtype == np.float64


@pytest.mark.parametrize("name", FLOORS)
def test_a_prediction_depends_on_features_and_not_on_targets(name, sections):
    floor = make_floor(name).fit(sections, section_groups(sections))
    test = make_section(8, 5)
    expected = floor.predict(test)
    test.y = -test.y
    np.testing.assert_array_equal(floor.predict(test), expected)
    del test.y
    np.testing.assert_array_equal(floor.predict(test), expected)


def test_each_floor_is_made_new(sections):
    first = make_floor("ridge").fit(sections, section_groups(sections))
    assert make_floor("ridge").estimator is not first.estimator
    assert make_floor("ridge").chosen == {}

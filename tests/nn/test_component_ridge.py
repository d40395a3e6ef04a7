"""Ridge regression into components against scikit-learn, a linear system and explicit loops."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.preprocessing import KernelCenterer

from nh2st_graph.nn import RidgeSpots, fit_component_ridge

from ..examples import draws

SIZES, N_FEATURES, N_GENES = (14, 9, 11), 6, 4
PENALTIES = (0.001, 0.03, 0.5)


def make_spots(seed: int = 0, sizes=SIZES, n_genes: int = N_GENES, noise: float = 1.0, equal: bool = False):
    """Spots whose expression follows a few functions of their descriptions; every section is a fold."""
    rng = np.random.default_rng(seed)
    h = rng.normal(size=(sum(sizes), N_FEATURES))
    means = np.column_stack([h[:, 0], np.sin(h[:, 1]), h[:, 2] * h[:, 3]])
    y = 2 + 3 * means @ np.random.default_rng(99).normal(size=(3, n_genes)) + noise * rng.normal(size=(len(h), n_genes))
    weights = np.ones(len(h)) if equal else rng.uniform(0.5, 2, len(h))
    section = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return RidgeSpots(torch.from_numpy(h), torch.from_numpy(y), section, section, torch.from_numpy(weights))


def fitted(spots: RidgeSpots, sharpness=0.0, n_components=N_GENES, penalties=(0.03,), by_component=False, price=None):
    return fit_component_ridge(
        spots,
        sharpness=np.atleast_1d(sharpness).tolist(),
        n_components=np.atleast_1d(n_components).tolist(),
        penalties=penalties,
        by_component=by_component,
        price=price,
    )


def centred(values, groups, weights=None):
    """Take off each group's mean, in a loop."""
    values, weights = np.array(values), np.ones(len(values)) if weights is None else np.asarray(weights)
    for group in np.unique(groups):
        values[groups == group] -= np.average(values[groups == group], axis=0, weights=weights[groups == group])
    return values


def as_numpy(spots: RidgeSpots):
    h, y, section, fold, w = (each.numpy() for each in spots)
    return h, y, section, fold, w / w.sum() * len(w)


# Against slow formulations


def test_the_linear_kernel_is_scikit_learns_ridge():
    spots = make_spots()
    h, y, section, _, w = as_numpy(spots)
    expected = Ridge(0.03 * len(h)).fit(h, centred(y, section), sample_weight=w).predict(h)
    fit = fitted(spots)
    assert_allclose(fit.ridge(spots.described), y.mean(axis=0) + expected, rtol=1e-8)
    assert fit.ridge.points.shape == (0, N_FEATURES)


def test_the_gaussian_kernel_is_scikit_learns_kernel_ridge_on_a_centred_kernel():
    spots, new = make_spots(equal=True), make_spots(seed=1).described
    h, y, section, _, _ = as_numpy(spots)
    centre = KernelCenterer().fit(rbf_kernel(h, gamma=0.2))
    model = KernelRidge(alpha=0.03 * len(h), kernel="precomputed")
    model.fit(centre.transform(rbf_kernel(h, gamma=0.2)), centred(y, section))
    expected = y.mean(axis=0) + model.predict(centre.transform(rbf_kernel(new, h, gamma=0.2)))
    assert_allclose(fitted(spots, 0.2).ridge(new), expected, rtol=1e-8)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_weights_and_intercept_are_those_of_the_whole_linear_system(penalty):
    spots, new = make_spots(), make_spots(seed=1).described
    h, y, section, _, w = as_numpy(spots)
    kernel, ones = rbf_kernel(h, gamma=0.4) + penalty * len(h) * np.diag(1 / w), np.ones((len(h), 1))
    system = np.block([[kernel, ones], [ones.T, np.zeros((1, 1))]])
    solved = np.linalg.solve(system, np.vstack([centred(y, section), np.zeros((1, N_GENES))]))
    expected = y.mean(axis=0) + rbf_kernel(new, h, gamma=0.4) @ solved[:-1] + solved[-1]
    assert_allclose(fitted(spots, 0.4, penalties=(penalty,)).ridge(new), expected, rtol=1e-8)


def test_components_are_singular_vectors_within_sections():
    spots = make_spots(equal=True)
    _, y, section, _, _ = as_numpy(spots)
    _, _, loadings = np.linalg.svd(centred(y, section), full_matrices=False)
    basis = fitted(spots, n_components=3).ridge.basis
    assert_allclose(basis.abs(), np.abs(loadings[:3]), atol=1e-10)
    assert (basis.gather(1, basis.abs().argmax(dim=1, keepdim=True)) > 0).all()


def held_out(spots: RidgeSpots, sharpness: float, penalty: float):
    """Predict every fold's scores from the other folds, in a loop, and centre them; also what was to be predicted.

    The last value is the prediction of a mean spot.
    """
    h, y, section, fold, w = as_numpy(spots)
    _, _, loadings = np.linalg.svd(np.sqrt(w)[:, None] * centred(y, section), full_matrices=False)
    signs = np.sign(np.take_along_axis(loadings, np.abs(loadings).argmax(axis=1)[:, None], axis=1))
    scores = centred(y, section) @ (signs * loadings).T
    predicted, level = np.zeros_like(scores), np.zeros_like(scores)
    for out in np.unique(fold):
        learn, alpha = fold != out, penalty * w[fold != out].sum()
        level[~learn] = np.average(scores[learn], axis=0, weights=w[learn])
        if sharpness:
            kernel = rbf_kernel(h[learn], gamma=sharpness) + alpha * np.diag(1 / w[learn])
            ones = np.ones((learn.sum(), 1))
            solved = np.linalg.solve(
                np.block([[kernel, ones], [ones.T, np.zeros((1, 1))]]), np.vstack([scores[learn], 0 * scores[:1]])
            )
            predicted[~learn] = rbf_kernel(h[~learn], h[learn], gamma=sharpness) @ solved[:-1] + solved[-1]
        else:
            predicted[~learn] = Ridge(alpha).fit(h[learn], scores[learn], sample_weight=w[learn]).predict(h[~learn])
    part = section * 100 + fold
    return predicted, centred(predicted, part, w), centred(scores, part, w), w, level


@pytest.mark.parametrize("noise", [0.3, 3.0, 30.0])
@pytest.mark.parametrize("bands", [False, True])
def test_kernel_components_and_penalty_are_those_of_an_explicit_loop(noise, bands):
    spots = make_spots(noise=noise)
    if bands:  # of single sections
        spots = spots._replace(folds=torch.arange(len(spots.targets)) % 3)
    errors = {}
    for sharpness, k, penalty in product((0.0, 0.3), (1, 2, 4), PENALTIES):
        _, found, wanted, w, _ = held_out(spots, sharpness, penalty)
        found[:, k:] = 0
        errors[sharpness, k, penalty] = np.sum(w[:, None] * (found - wanted) ** 2)
    best = min(errors, key=errors.get)
    fit = fitted(spots, (0.0, 0.3), (1, 2, 4), PENALTIES)
    assert tuple(fit.chosen[name] for name in ("sharpness", "components", "penalty")) == best
    predicted, *_ = held_out(spots, best[0], best[2])
    assert_allclose(fit.held_out, predicted[:, : best[1]], rtol=1e-7, atol=1e-9)


def test_a_penalty_and_a_slope_for_each_component():
    spots = make_spots(noise=5.0)
    parts = [held_out(spots, 0.0, penalty) for penalty in PENALTIES]
    chosen, columns = [], []
    for k in range(N_GENES):
        errors, predictions = [], []
        for predicted, found, wanted, w, level in parts:
            slope = max(np.sum(w * found[:, k] * wanted[:, k]) / np.sum(w * found[:, k] ** 2), 0)
            errors.append(np.sum(w * (slope * found[:, k] - wanted[:, k]) ** 2))
            predictions.append(level[:, k] + slope * (predicted - level)[:, k])
        chosen.append(PENALTIES[int(np.argmin(errors))])
        columns.append(predictions[int(np.argmin(errors))])
    fit = fitted(spots, penalties=PENALTIES, by_component=True)
    level = parts[0][-1]
    alive = [k for k in range(N_GENES) if np.any(columns[k] != level[:, k])]  # without, all penalties are as good
    assert alive
    assert [fit.chosen["penalty"][k] for k in alive] == [chosen[k] for k in alive]
    assert_allclose(fit.held_out, np.column_stack(columns), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("price", [0.0, 0.02, 0.05])
def test_a_larger_penalty_may_cost_a_share_of_the_error(price):
    spots = make_spots(noise=0.3)
    errors = [fitted(spots, penalties=[each], by_component=True).error for each in PENALTIES]
    assert errors[-1] > 1.02 * errors[1]
    fit = fitted(spots, penalties=PENALTIES, by_component=True, price=price)
    expected = max(each for each, error in zip(PENALTIES, errors, strict=True) if error <= (1 + price) * min(errors))
    assert set(fit.chosen["penalty"]) == {expected}
    assert fit.least == pytest.approx(min(errors))
    assert fit.error == pytest.approx(errors[PENALTIES.index(expected)])
    alone = fitted(spots, penalties=[expected], by_component=True)
    assert_allclose(fit.ridge.coefficients, alone.ridge.coefficients, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sharpness", [0.0, 0.2])
def test_other_spots_are_predicted_by_the_regression_without_their_part(sharpness):
    spots = make_spots(noise=5.0)
    fit = fitted(spots, sharpness, penalties=PENALTIES, by_component=True)
    assert sorted(fit.without) == [0, 1, 2]
    found = fit.held_out_scores(spots.described.split(10), spots.folds)
    assert_allclose(found, fit.held_out, atol=1e-5)
    # A part that no fitted spot is of has not been seen by any regression.
    found = fit.held_out_scores(spots.described.float().split(10), torch.full_like(spots.folds, 7))
    assert_allclose(found, fit.ridge.scores(spots.described), atol=1e-4)


def test_given_components_are_kept():
    spots = make_spots()
    own = fitted(spots, n_components=2)
    turned = own.ridge.basis.flip(0)
    fit = fit_component_ridge(
        spots, sharpness=[0.0], n_components=[2], penalties=[0.03], by_component=False, basis=turned
    )
    assert torch.equal(fit.ridge.basis, turned)
    assert_allclose(fit.ridge(spots.described), own.ridge(spots.described))


# Fewer points than spots


def test_a_linear_solution_is_exact_on_any_points_that_span_it(monkeypatch):
    spots = make_spots(sizes=(40, 40))
    exact = fitted(spots).ridge(spots.described)
    monkeypatch.setattr("nh2st_graph.nn._ridge_paths._MOST_POINTS", 20)
    assert_allclose(fitted(spots).ridge(spots.described), exact, rtol=1e-8)


def test_fewer_points_come_close(monkeypatch):
    spots, new = make_spots(sizes=(150, 150)), make_spots(seed=1).described
    exact = fitted(spots, 0.05).ridge
    monkeypatch.setattr("nh2st_graph.nn._ridge_paths._MOST_POINTS", 100)
    close = fitted(spots, 0.05).ridge
    assert close.points.shape == (100, N_FEATURES)
    spread = (exact(new) - exact.mean).square().mean()
    assert 0 < (close(new) - exact(new)).square().mean() < 1e-3 * spread


def test_rows_are_computed_in_parts(monkeypatch):
    spots = make_spots()
    whole = fitted(spots, 0.2).ridge
    monkeypatch.setattr("nh2st_graph.nn._ridge_paths._ROWS", 10)
    parts = fitted(spots, 0.2).ridge
    assert_allclose(parts(spots.described), whole(spots.described), rtol=1e-8)


# What changes nothing


@pytest.mark.parametrize("most_points", [20, 400])
def test_the_number_of_threads_changes_no_bit(monkeypatch, most_points):
    monkeypatch.setattr("nh2st_graph.nn._ridge_paths._MOST_POINTS", most_points)
    spots = make_spots(sizes=(130, 140, 130))  # so many that LAPACK's tridiagonal form is taken
    options = {"sharpness": [0.2], "n_components": [3], "penalties": PENALTIES, "by_component": True}
    one, three = (fit_component_ridge(spots, **options, threads=threads) for threads in (1, 3))
    assert torch.equal(three.held_out, one.held_out)
    assert torch.equal(three.ridge.coefficients, one.ridge.coefficients)


@pytest.mark.parametrize("sharpness", [0.0, 0.2])
@draws(8)
@given(offsets=st.lists(st.floats(-100, 100), min_size=len(SIZES), max_size=len(SIZES)), gene=st.integers(0, 3))
def test_an_offset_between_sections_changes_the_mean_alone(sharpness, offsets, gene):
    spots = make_spots()
    moved = spots.targets.clone()
    moved[:, gene] += torch.tensor(offsets, dtype=torch.float64)[spots.sections]
    before, after = (
        fitted(each, sharpness, (2, 4), PENALTIES).ridge for each in (spots, spots._replace(targets=moved))
    )
    assert_allclose(after.mean, moved.mean(dim=0))
    assert_allclose(after(spots.described) - after.mean, before(spots.described) - before.mean, atol=1e-6)


@pytest.mark.parametrize("sharpness", [0.0, 0.2])
@draws(8)
@given(order=st.permutations(range(sum(SIZES))))
def test_the_order_of_training_spots_changes_nothing(sharpness, order):
    spots = make_spots()
    shuffled = RidgeSpots(*(each[torch.tensor(order)] for each in spots))
    before, after = (fitted(each, sharpness, (2, 4), PENALTIES) for each in (spots, shuffled))
    assert before.chosen == after.chosen
    assert_allclose(after.ridge(spots.described), before.ridge(spots.described), rtol=1e-6)
    assert_allclose(after.held_out, before.held_out[torch.tensor(order)], rtol=1e-6)


def test_the_unit_of_weights_is_of_no_consequence():
    spots = make_spots()
    before, after = (fitted(spots._replace(weights=factor * spots.weights)).ridge for factor in (1, 40))
    assert_allclose(after(spots.described), before(spots.described), rtol=1e-10)
    none = fitted(spots._replace(weights=0 * spots.weights)).ridge
    equal = fitted(spots._replace(weights=torch.ones_like(spots.weights))).ridge
    assert_allclose(none(spots.described), equal(spots.described))


# Little to learn from


def test_without_parts_nothing_is_held_out_and_the_largest_penalty_is_taken():
    spots = make_spots()
    for by_component in (False, True):
        fit = fitted(spots._replace(folds=0 * spots.folds), penalties=PENALTIES, by_component=by_component)
        assert set(np.atleast_1d(fit.chosen["penalty"])) == {0.5}
        assert not fit.held_out.any()
        assert_allclose(fit.ridge.expand(fit.held_out), fit.ridge.mean.expand_as(spots.targets))


@pytest.mark.parametrize("by_component", [False, True])
@pytest.mark.parametrize(
    ("sizes", "n_genes"), [((14, 9), 1), ((14, 9), 3), ((2, 2), 5), ((1, 1), 3)], ids=["gene", "genes", "spots", "two"]
)
def test_more_components_than_genes_or_spots(by_component, sizes, n_genes):
    spots = make_spots(sizes=sizes, n_genes=n_genes)
    for sharpness in (0.0, 0.2):
        fit = fitted(spots, sharpness, 16, PENALTIES, by_component)
        assert 1 <= fit.chosen["components"] <= n_genes
        assert fit.ridge(spots.described).shape == fit.ridge.expand(fit.held_out).shape == spots.targets.shape
        assert torch.isfinite(fit.ridge(spots.described)).all()


def test_spots_that_are_all_alike_give_the_mean():
    spots = make_spots(equal=True)
    for sharpness in (0.0, 0.2):
        for described in (torch.zeros_like(spots.described), torch.ones_like(spots.described)):
            ridge = fitted(spots._replace(described=described), sharpness, penalties=PENALTIES).ridge
            assert_allclose(ridge(described), spots.targets.mean(dim=0).expand_as(spots.targets), atol=1e-8)


def test_a_steep_slope_does_not_move_the_mean():
    """A penalty so strong that the slope is in thousands, and bands whose means differ."""
    spots = make_spots(sizes=(60,), noise=0.1)
    spots = spots._replace(
        folds=torch.arange(60) // 20, targets=spots.targets + (torch.arange(60) // 20)[:, None] * 3.0
    )
    fit = fitted(spots, penalties=(1e4,), by_component=True)
    assert fit.held_out.abs().max() < 3 * (spots.targets - spots.targets.mean(dim=0)).norm(dim=1).max()

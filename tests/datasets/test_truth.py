from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import PolynomialFeatures, scale

from nh2st_graph.datasets._truth import (
    draw_counts,
    draw_depth,
    draw_genes,
    expected_counts,
    patch_means,
    selected_neighbour,
    surroundings,
)


def random_array(rng: np.random.Generator, n: int = 90) -> np.ndarray:
    """Row and column of spots on a grid with gaps."""
    sites = np.argwhere(np.ones((11, 10), dtype=bool))
    return sites[np.sort(rng.choice(len(sites), n, replace=False))]


@given(seed=st.integers(0, 10_000))
def test_surroundings_equal_a_loop_over_spots(seed: int) -> None:
    rng = np.random.default_rng(seed)
    array = random_array(rng)
    own = scale(rng.standard_normal((len(array), 4)))
    domains = rng.dirichlet(np.ones(4), len(array))
    mean = np.zeros_like(own)
    for i, (row, col) in enumerate(array):
        around = [
            j
            for j, (r, c) in enumerate(array)
            if j != i and abs(int(r) - int(row)) <= 1 and abs(int(c) - int(col)) <= 1
        ]
        assert len(around) <= 8
        mean[i] = own[around].mean(axis=0) if around else 0
    known = np.column_stack(
        [np.ones(len(own)), own, domains, *[own[:, a] * own[:, b] for a in range(4) for b in range(a, 4)]]
    )
    rest = mean - known @ np.linalg.lstsq(known, mean, rcond=None)[0]
    np.testing.assert_allclose(surroundings(own, domains, array), scale(rest), atol=1e-6)


@given(seed=st.integers(0, 10_000))
def test_the_selected_neighbour_equals_a_loop_over_spots(seed: int) -> None:
    rng = np.random.default_rng(seed)
    array = random_array(rng)
    own = scale(rng.standard_normal((len(array), 4)))
    domains = rng.dirichlet(np.ones(4), len(array))
    selected, mean = np.zeros_like(own), np.zeros_like(own)
    for i, place in enumerate(array):
        steps = np.abs(array - place)
        around = [j for j in range(len(array)) if j != i and steps[j].max() == 1]
        if around:
            weights = np.array([np.exp(2 * own[j, 0] - (steps[j].sum() == 2)) for j in around])
            selected[i], mean[i] = weights @ own[around] / weights.sum(), own[around].mean(axis=0)
    squares = [own[:, a] * own[:, b] for a in range(4) for b in range(a, 4)]
    known = np.column_stack([np.ones(len(own)), own, domains, mean, *squares])
    rest = selected - known @ np.linalg.lstsq(known, selected, rcond=None)[0]
    np.testing.assert_allclose(selected_neighbour(own, domains, array), scale(rest), atol=1e-6)


def test_surroundings_are_orthogonal_to_the_patch(sections: dict[str, AnnData]) -> None:
    for adata in sections.values():
        own = adata.obsm["truth_morphology"].to_numpy()
        around = adata.obsm["truth_neighbourhood"].to_numpy()
        known = PolynomialFeatures(degree=2, include_bias=False).fit_transform(own)
        assert np.abs(scale(known).T @ around / len(own)).max() < 1e-8
        np.testing.assert_allclose(around.std(axis=0), 1)
        np.testing.assert_allclose(own.std(axis=0), 1)


def test_patch_means_equal_slices() -> None:
    field = np.random.default_rng(0).uniform(size=(3, 80, 90))
    centres = np.array([[60.0, 64.0], [100.0, 90.0]])
    means = patch_means(field, centres, 2.0)
    np.testing.assert_allclose(means[0], field[:, 4:60, 2:58].mean(axis=(1, 2)))
    np.testing.assert_allclose(means[1], field[:, 17:73, 22:78].mean(axis=(1, 2)))


def test_genes_are_named_and_balanced() -> None:
    genes = draw_genes(np.random.default_rng(0), {"own": 6, "neighbour": 0, "noise": 3}, strength=0.5)
    assert list(genes.names) == [*(f"OWN0{i}" for i in range(1, 7)), "NOISE01", "NOISE02", "NOISE03"]
    assert list(genes.kind) == ["own"] * 6 + ["noise"] * 3
    np.testing.assert_allclose(np.linalg.norm(genes.loadings[:6], axis=1), 0.5)
    assert not genes.loadings[6:].any()
    assert np.abs(genes.loadings.sum(axis=0)).max() < 0.5


@given(seed=st.integers(0, 10_000))
def test_each_kind_keeps_its_share_and_follows_its_own_variables(seed: int) -> None:
    rng = np.random.default_rng(seed)
    genes = draw_genes(rng, {"own": 5, "neighbour": 4, "noise": 3}, strength=0.8)
    own, around = rng.standard_normal((2, 30, 4))
    depth = draw_depth(rng, 30, 1000.0, 0.3)
    mean = expected_counts(genes, {"own": own, "neighbour": around}, depth)
    np.testing.assert_allclose(mean.sum(axis=1), depth)
    share = mean / depth[:, None]
    for kind in ("own", "neighbour", "noise"):
        assert np.ptp(share[:, genes.kind == kind].sum(axis=1)) < 1e-12
    # Between two genes of a kind, the log-ratio is linear in the variables of that kind.
    ratio = np.log(share[:, 0] / share[:, 1])
    linear = own @ (genes.loadings[0] - genes.loadings[1])
    np.testing.assert_allclose(ratio - ratio.mean(), linear - linear.mean(), atol=1e-9)

    elsewhere = expected_counts(genes, {"own": own, "neighbour": rng.standard_normal((30, 4))}, depth)
    np.testing.assert_array_equal(elsewhere[:, genes.kind != "neighbour"], mean[:, genes.kind != "neighbour"])


@pytest.mark.parametrize("dispersion", [0.0, 0.3])
def test_counts_have_the_negative_binomial_mean_and_variance(dispersion: float) -> None:
    mean = np.repeat([[2.0, 20.0, 200.0]], 40_000, axis=0)
    counts = draw_counts(np.random.default_rng(0), mean, dispersion)
    assert counts.dtype.kind == "i"
    np.testing.assert_allclose(counts.mean(axis=0), mean[0], rtol=0.02)
    np.testing.assert_allclose(counts.var(axis=0), mean[0] + dispersion * mean[0] ** 2, rtol=0.05)


def test_depth_is_log_normal_around_the_section() -> None:
    log_depth = np.log(draw_depth(np.random.default_rng(0), 20_000, 500.0, 0.0))
    assert log_depth.mean() == pytest.approx(np.log(500), abs=0.02)
    assert log_depth.std() == pytest.approx(0.35, abs=0.02)
    levels = [np.log(np.median(draw_depth(np.random.default_rng(s), 400, 500.0, 0.5))) for s in range(200)]
    assert np.std(levels) == pytest.approx(0.5, abs=0.1)

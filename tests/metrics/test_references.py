"""References against explicit loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from nh2st_graph import DataError, metrics


@given(st.integers(1, 12), st.floats(0, 0.6), st.integers(0, 1000))
def test_neighbour_mean_equals_a_loop(n_spots: int, density: float, seed: int) -> None:
    """Over graphs with one-way edges, weights, explicit zeros, a diagonal and spots without neighbours."""
    rng = np.random.default_rng(seed)
    observed = rng.normal(size=(n_spots, 3))
    weights = rng.normal(size=(n_spots, n_spots)) * (rng.random((n_spots, n_spots)) < density)
    expected = np.empty_like(observed)
    for i in range(n_spots):
        neighbours = [j for j in range(n_spots) if weights[i, j] and j != i]
        expected[i] = observed[neighbours].mean(axis=0) if neighbours else observed.mean(axis=0)
    row, column = weights.nonzero()
    with_zero = (np.append(weights[row, column], 0.0), (np.append(row, 0), np.append(column, n_spots - 1)))
    stored = sparse.csr_matrix(with_zero, shape=weights.shape)
    for connectivities in (weights, sparse.csr_matrix(weights), stored):
        np.testing.assert_allclose(metrics.neighbour_mean(observed, connectivities), expected, atol=1e-12)


def test_neighbour_mean_of_another_graph_is_refused() -> None:
    with pytest.raises(DataError, match=r"expression of shape \(4, 2\) and a graph of \(3, 3\)"):
        metrics.neighbour_mean(np.ones((4, 2)), sparse.eye(3))


def test_neighbour_mean_of_many_spots_goes_by_blocks_of_genes() -> None:
    """On a ring, where each spot has the one after it as its neighbour."""
    observed = np.random.default_rng(0).normal(size=(140_000, 33)).astype(np.float32)
    ring = sparse.eye_array(len(observed), k=1, format="lil")
    ring[-1, 0] = 1
    means = metrics.neighbour_mean(observed, ring)
    assert means.dtype == np.float32
    np.testing.assert_array_equal(means, np.roll(observed, -1, axis=0))


def test_neighbour_mean_of_counts_is_no_count() -> None:
    np.testing.assert_array_equal(metrics.neighbour_mean([[1], [2], [4]], np.ones((3, 3))), [[3], [2.5], [1.5]])

"""The grid of a large section, which comes from array positions: it is squidpy's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from nh2st_graph.gr import spatial_graph
from nh2st_graph.section import fit_array

KEYS = ("spatial_connectivities", "spatial_distances")


def chessboard(make_section):
    array = np.array([(row, col) for row in range(12) for col in range(12) if (row + col) % 2 == 0])
    return make_section(array[:, ::-1] * [100.0, 105.0], array)


@pytest.mark.parametrize("n_rings", [1, 2])
@pytest.mark.parametrize("lattice", ["square", "hexagonal", "chessboard"])
@pytest.mark.parametrize("turned", [False, True])
def test_is_the_grid_that_squidpy_finds(make_section, square, hexagonal, monkeypatch, lattice, turned, n_rings):
    made = {"square": square, "hexagonal": hexagonal, "chessboard": lambda: chessboard(make_section)}[lattice]()
    rng = np.random.default_rng(3)
    section = made[rng.permutation(made.n_obs)[: made.n_obs * 9 // 10]].copy()
    if turned:
        turn = np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
        section.obsm["spatial"] = section.obsm["spatial"] @ turn
    by_search, by_array = section.copy(), section.copy()
    spatial_graph(by_search, n_rings=n_rings)
    monkeypatch.setattr("nh2st_graph.gr._lattice._LARGE", 1)
    with monkeypatch.context() as without:
        without.setattr("sklearn.neighbors.NearestNeighbors.kneighbors", None)  # nothing is searched for
        spatial_graph(by_array, n_rings=n_rings)
    for key in KEYS:
        assert (by_array.obsp[key] != by_search.obsp[key]).nnz == 0
        assert by_array.obsp[key].dtype == by_search.obsp[key].dtype
    assert by_array.uns["spatial_neighbors"] == by_search.uns["spatial_neighbors"]


def is_searched(section, n_neighs):
    """Whether neighbours of the first ring are searched for."""
    search, searches = NearestNeighbors.kneighbors, []

    def watched(self, *args, **kwargs):
        searches.append(self)
        return search(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NearestNeighbors, "kneighbors", watched)
        spatial_graph(section, n_neighs=n_neighs, copy=True)
    return bool(searches)


def test_spots_off_their_array_and_other_rings_are_searched_for(square, monkeypatch):
    monkeypatch.setattr("nh2st_graph.gr._lattice._LARGE", 1)
    section = square()
    array = fit_array(section)
    assert not is_searched(section, n_neighs=8)
    assert is_searched(section, n_neighs=4)
    section.obsm["spatial"][10, 0] += 0.15 * array.pitch
    assert is_searched(section, n_neighs=8)

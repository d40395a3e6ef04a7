from __future__ import annotations

import logging
from itertools import combinations

import anndata as ad
import numpy as np
import pytest
import squidpy as sq
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from scipy.sparse.csgraph import shortest_path
from scipy.spatial import Delaunay
from scipy.spatial.distance import cdist

from nh2st_graph import ConfigError, DataError, gr, read

from ..examples import draws

MODES = ("grid", "knn", "radius", "delaunay")


def _adjacency(adata, **arguments):
    gr.spatial_graph(adata, **arguments)
    return adata.obsp["spatial_connectivities"].toarray() != 0


def _scattered(n, seed):
    return np.random.default_rng(seed).uniform(0, 1000, (n, 2))


# The four modes against their definitions


@pytest.mark.parametrize("with_array", [True, False])
@pytest.mark.parametrize("n_rings", [1, 2, 3])
def test_grid_on_a_square_array_is_the_ring_around_each_spot(square, with_array, n_rings):
    section = square(with_array=with_array)
    steps = cdist(section.obsm["spatial"], section.obsm["spatial"], "chebyshev") / 290
    expected = (steps > 0.5) & (steps < n_rings + 0.5)
    np.testing.assert_array_equal(_adjacency(section, n_rings=n_rings), expected)
    rings = section.obsp["spatial_distances"].toarray()
    np.testing.assert_array_equal(rings[expected], np.rint(steps[expected]))


@pytest.mark.parametrize("with_array", [True, False])
def test_grid_on_a_hexagonal_array_is_the_six_around_each_spot(hexagonal, with_array):
    section = hexagonal(with_array=with_array)
    distance = cdist(section.obsm["spatial"], section.obsm["spatial"]) / 100
    np.testing.assert_array_equal(_adjacency(section), (distance > 0.5) & (distance < 1.01))
    assert _adjacency(section).sum(axis=1).max() == 6


def test_grid_on_a_real_section_joins_spots_next_to_each_other_on_the_array(her2st_crops):
    section = read.her2st(her2st_crops, ["C6"])["C6"]
    array = section.obs[["array_row", "array_col"]].to_numpy()
    steps = cdist(array, array, "chebyshev")
    found = _adjacency(section)
    # Spots lie up to a tenth of a pitch off the array, so that squidpy's cut-off can miss or add single pairs.
    assert (steps[found] == 1).mean() > 0.99
    assert found[steps == 1].mean() > 0.99


@given(n=st.integers(2, 25), k=st.integers(1, 8), seed=st.integers(0, 1000))
def test_knn_is_each_spots_nearest_others(make_section, n, k, seed):
    centres = _scattered(n, seed)
    distance = cdist(centres, centres)
    np.fill_diagonal(distance, np.inf)
    expected = np.zeros((n, n), bool)
    nearest = np.argsort(distance, axis=1)[:, : min(k, n - 1)]
    np.put_along_axis(expected, nearest, True, axis=1)
    np.testing.assert_array_equal(_adjacency(make_section(centres), mode="knn", n_neighs=k), expected)


def test_knn_is_not_symmetric(make_section):
    found = _adjacency(make_section([[0, 0], [1, 0], [3, 0]]), mode="knn", n_neighs=1)
    np.testing.assert_array_equal(found, [[0, 1, 0], [1, 0, 0], [0, 1, 0]])


def test_radius_is_in_um(make_section):
    centres = _scattered(30, 0)
    section = make_section(centres, um_per_px=0.5)
    distance = cdist(centres, centres)
    expected = (distance <= 200 / 0.5) & (distance > 0)
    np.testing.assert_array_equal(_adjacency(section, mode="radius", radius_um=200), expected)
    assert 0 < expected.sum() < expected.size - len(expected)


def test_radius_without_a_number_reaches_the_diagonal_of_a_square(square):
    section = square()
    np.testing.assert_array_equal(_adjacency(section, mode="radius"), _adjacency(square(), mode="grid"))


def test_radius_in_um_needs_a_scale(make_section):
    section = make_section(_scattered(5, 0), um_per_px=None)
    with pytest.raises(DataError, match="section 'S1'"):
        gr.spatial_graph(section, "radius", radius_um=100)
    section.uns["spatial"] = {"S1": {"metadata": {}}}
    with pytest.raises(DataError, match=r"radius_um=.* needs metadata"):
        gr.spatial_graph(section, "radius", radius_um=100)
    assert not section.obsp


def test_a_radius_that_reaches_nobody_leaves_every_spot_alone(make_section):
    section = make_section(_scattered(5, 0), um_per_px=1.0)
    assert not _adjacency(section, mode="radius", radius_um=1e-3).any()


@pytest.mark.parametrize("n", [3, 4, 30])
def test_delaunay_is_the_sides_of_the_triangles(make_section, n):
    centres = _scattered(n, 1)
    expected = np.zeros((n, n), bool)
    for triangle in Delaunay(centres).simplices:
        for i, j in combinations(triangle, 2):
            expected[i, j] = expected[j, i] = True
    np.testing.assert_array_equal(_adjacency(make_section(centres), mode="delaunay"), expected)


def test_delaunay_of_spots_on_one_line_is_refused(make_section):
    section = make_section([[i * 10, 5] for i in range(6)])
    with pytest.raises(DataError, match=r"section 'S1': its 6 spots lie on one line.*mode='knn'"):
        gr.spatial_graph(section, "delaunay")
    assert not section.obsp


# Small sections, isolated spots


@pytest.mark.parametrize("mode", MODES)
def test_a_section_of_one_spot_has_a_graph_without_edges(make_section, mode):
    section = make_section([[10, 20]])
    assert not _adjacency(section, mode=mode).any()
    assert section.obsp["spatial_distances"].shape == (1, 1)
    assert gr.has_graph(section, mode)


@pytest.mark.parametrize("mode", MODES)
def test_two_spots_are_neighbours(make_section, mode):
    section = make_section([[10, 20], [13, 24]])
    joined = mode != "delaunay"  # which needs a triangle
    np.testing.assert_array_equal(_adjacency(section, mode=mode), [[0, joined], [joined, 0]])
    assert gr.has_graph(section, mode)


def test_a_spot_far_from_the_array_is_isolated(square):
    section = square()
    section.obsm["spatial"][3] = [1e5, 1e5]
    for mode in ("grid", "radius"):
        found = _adjacency(section, mode=mode)
        assert not found[3].any()
        assert not found[:, 3].any()
        assert np.delete(found, 3, axis=0).any(axis=1).all()


# What is written, and whether it is there already


def test_the_keys_are_squidpys(square):
    section = square()
    assert gr.spatial_graph(section) is None
    names = section.uns["spatial_neighbors"]
    assert names["connectivities_key"] == "spatial_connectivities"
    assert names["distances_key"] == "spatial_distances"
    assert sparse.issparse(section.obsp["spatial_distances"])
    one = section[[0]].copy()
    gr.spatial_graph(one)
    assert one.uns["spatial_neighbors"].keys() == names.keys()


def test_a_copy_leaves_the_section_alone(square):
    section = square()
    other = gr.spatial_graph(section, key_added="near", copy=True)
    assert not section.obsp
    assert not section.uns
    assert set(other.obsp) == {"near_connectivities", "near_distances"}
    assert not gr.has_graph(other), "another key's graph is not the one that is read"


def test_an_unknown_mode_names_the_nearest(square):
    with pytest.raises(ConfigError, match=r"mode='gird'.*'grid'"):
        gr.spatial_graph(square(), "gird")


@pytest.mark.parametrize(
    ("mode", "arguments", "others"),
    [
        ("grid", {"n_rings": 2}, [{"n_rings": 1}, {"n_rings": 2, "n_neighs": 4}]),
        ("knn", {"n_neighs": 4}, [{"n_neighs": 5}, {}]),
        ("radius", {"radius_um": 300.0}, [{"radius_um": 301.0}, {}]),
        ("delaunay", {}, []),
    ],
)
def test_a_graph_is_known_by_its_arguments_and_positions(square, tmp_path, mode, arguments, others):
    section = square(um_per_px=0.7)
    assert not gr.has_graph(section, mode, **arguments)
    gr.spatial_graph(section, mode, **arguments)
    assert gr.has_graph(section, mode, **arguments)
    for other in others:
        assert not gr.has_graph(section, mode, **other)
    for another in set(MODES) - {mode}:
        assert not gr.has_graph(section, another, **arguments)

    section.write_h5ad(tmp_path / "section.h5ad")
    assert gr.has_graph(ad.read_h5ad(tmp_path / "section.h5ad"), mode, **arguments)

    assert not gr.has_graph(section[::-1].copy(), mode, **arguments), "spots in another order"
    assert not gr.has_graph(section[:-1].copy(), mode, **arguments), "a spot left out"
    moved = section.copy()
    moved.obsm["spatial"][0] += 1e-6
    assert not gr.has_graph(moved, mode, **arguments)
    for key in ("spatial_connectivities", "spatial_distances"):
        lost = section.copy()
        del lost.obsp[key]
        assert not gr.has_graph(lost, mode, **arguments)


def test_a_radius_in_um_depends_on_the_scale(square):
    section = square(um_per_px=0.7)
    gr.spatial_graph(section, "radius", radius_um=300)
    section.uns["spatial"]["S1"]["metadata"]["microns_per_pixel"] = 0.3
    assert not gr.has_graph(section, "radius", radius_um=300)


@pytest.mark.parametrize("mode", MODES)
def test_permuting_the_spots_permutes_the_graph(make_section, mode):
    centres = _scattered(40, 2)
    order = np.random.default_rng(3).permutation(40)
    first, second = make_section(centres), make_section(centres[order])
    np.testing.assert_array_equal(_adjacency(second, mode=mode), _adjacency(first, mode=mode)[np.ix_(order, order)])
    np.testing.assert_allclose(
        second.obsp["spatial_distances"].toarray(), first.obsp["spatial_distances"].toarray()[np.ix_(order, order)]
    )


class TestControls:
    def test_random_keeps_every_degree_and_little_else(self, square):
        grid = _adjacency(square(12, 12), mode="grid")
        drawn = _adjacency(square(12, 12), mode="random")
        np.testing.assert_array_equal(drawn.sum(axis=0), grid.sum(axis=0))
        np.testing.assert_array_equal(drawn, drawn.T)
        assert not drawn.diagonal().any()
        assert set(np.unique(drawn)) == {0, 1}
        # Two random graphs of these degrees share about 8 / 144 of their edges.
        assert (drawn * grid).sum() < 0.15 * grid.sum()

    def test_random_follows_from_its_seed(self, square):
        first, again = (_adjacency(square(), mode="random", seed=1) for _ in range(2))
        np.testing.assert_array_equal(first, again)
        assert (first != _adjacency(square(), mode="random", seed=2)).any()
        section = square()
        gr.spatial_graph(section, "random", seed=1)
        assert gr.has_graph(section, "random", seed=1)
        assert not gr.has_graph(section, "random", seed=2)

    def test_distances_of_a_random_graph_are_those_of_the_spots_in_pixels(self, square):
        section = square(pitch=290.0)
        gr.spatial_graph(section, "random")
        edges = section.obsp["spatial_distances"].tocoo()
        step = section.obsm["spatial"][edges.row] - section.obsm["spatial"][edges.col]
        np.testing.assert_allclose(edges.data, np.linalg.norm(step, axis=1))
        assert (section.obsp["spatial_connectivities"] != 0).sum() == len(edges.data)

    @pytest.mark.parametrize("n_spots", [1, 2, 3])
    def test_where_nothing_can_be_swapped_the_grid_stays(self, make_section, n_spots):
        section = make_section([[0, 0], [0, 100], [100, 0]][:n_spots])
        drawn = _adjacency(section, mode="random")
        np.testing.assert_array_equal(drawn, _adjacency(section, mode="grid"))

    def test_none_has_no_edges_and_squidpys_keys(self, square):
        section = square()
        gr.spatial_graph(section, "none")
        assert section.obsp["spatial_connectivities"].nnz == section.obsp["spatial_distances"].nnz == 0
        assert section.uns["spatial_neighbors"]["params"] == {"mode": "none"}
        assert gr.to_pyg(section, np.zeros((section.n_obs, 2))).num_edges == 0


class TestHoles:
    """Arrays with many missing spots: squidpy alone joins spots over holes from about half on."""

    ARRAYS = ("square", "hexagonal", "chessboard")

    @pytest.fixture(scope="class")
    def whole(self, square, hexagonal, make_section):
        """Full arrays, and which of their spots are adjacent."""
        squares = np.argwhere(np.indices((14, 14)).sum(axis=0) % 2 == 0)
        made = {
            "square": square(11, 12),
            "hexagonal": hexagonal(11, 12),
            "chessboard": make_section(squares[:, ::-1] * [110.0, 100.0], squares),
        }
        return {name: (section, _adjacency(section)) for name, section in made.items()}

    @pytest.mark.parametrize("name", ARRAYS)
    @draws(12)
    @given(seed=st.integers(0, 10_000), kept=st.floats(0.08, 1))
    def test_no_edge_jumps_over_one(self, whole, name, seed, kept):
        section, adjacent = whole[name]
        spots = np.random.default_rng(seed).permutation(section.n_obs)[: max(12, int(kept * section.n_obs))]
        thinned = section[spots].copy()
        np.testing.assert_array_equal(_adjacency(thinned), adjacent[np.ix_(spots, spots)])
        rings = thinned.obsp["spatial_distances"].toarray()
        np.testing.assert_array_equal(rings, adjacent[np.ix_(spots, spots)])

    @pytest.mark.parametrize("name", ARRAYS)
    @draws(12)
    @given(seed=st.integers(0, 10_000), kept=st.floats(0.5, 1))
    def test_nor_without_array_positions(self, whole, make_section, name, seed, kept):
        section, adjacent = whole[name]
        spots = np.random.default_rng(seed).permutation(section.n_obs)[: int(kept * section.n_obs)]
        found = _adjacency(make_section(section.obsm["spatial"][spots]))
        joined = cdist(section.obsm["spatial"][spots], section.obsm["spatial"][spots])[found]
        assert not len(joined) or joined.max() <= 1.1 * np.sqrt(2 if name != "hexagonal" else 1) * gr.spot_pitch(
            section
        )
        assert (found <= adjacent[np.ix_(spots, spots)]).all()

    @pytest.mark.parametrize("name", ARRAYS)
    @draws(12)
    @given(seed=st.integers(0, 10_000), n_rings=st.integers(2, 3))
    def test_rings_are_steps_between_spots_that_are_there(self, whole, name, seed, n_rings):
        section, adjacent = whole[name]
        spots = np.random.default_rng(seed).permutation(section.n_obs)[: section.n_obs // 3]
        thinned = section[spots].copy()
        found = _adjacency(thinned, n_rings=n_rings)
        steps = shortest_path(adjacent[np.ix_(spots, spots)], unweighted=True)
        expected = np.where((steps > 0) & (steps <= n_rings), steps, 0)
        np.testing.assert_array_equal(thinned.obsp["spatial_distances"].toarray(), expected)
        np.testing.assert_array_equal(found, expected > 0)

    def test_what_is_cut_is_said(self, whole, caplog):
        section, adjacent = whole["hexagonal"]
        spots = np.arange(0, section.n_obs, 2)[::2]
        thinned = section[spots].copy()
        gr.spatial_graph(thinned)
        (said,) = [record for record in caplog.records if record.name == "nh2st_graph"]
        assert said.levelname == "WARNING"
        alone = (~adjacent[np.ix_(spots, spots)].any(axis=1)).sum()
        assert "section 'S1'" in said.message
        assert f"{alone} of {len(spots)} spots have no neighbour" in said.message

    @pytest.mark.parametrize("name", ARRAYS)
    @pytest.mark.parametrize("n_rings", [1, 2])
    def test_of_a_full_array_the_graph_is_squidpys_to_the_bit(self, whole, caplog, name, n_rings):
        section = whole[name][0].copy()
        gr.spatial_graph(section, n_rings=n_rings)
        sq.gr.spatial_neighbors_grid(
            section, n_neighs=gr.lattice_neighbours(section), n_rings=n_rings, key_added="squidpy"
        )
        for what in ("connectivities", "distances"):
            ours, theirs = section.obsp[f"spatial_{what}"], section.obsp[f"squidpy_{what}"]
            for part in ("data", "indices", "indptr"):
                np.testing.assert_array_equal(getattr(ours, part), getattr(theirs, part))
            assert ours.dtype == theirs.dtype
        assert not [record for record in caplog.records if record.name == "nh2st_graph"]

    def test_spots_that_are_no_lattice_keep_squidpys_edges(self, make_section):
        section = make_section(_scattered(60, 4))
        found = _adjacency(section)
        sq.gr.spatial_neighbors_grid(section, n_neighs=8, key_added="squidpy")
        np.testing.assert_array_equal(found, section.obsp["squidpy_connectivities"].toarray() != 0)

    def test_a_sample_of_a_real_array(self, shared_data):
        """100 spots of a Visium section, far apart: squidpy alone joins spots up to nine pitches apart."""
        section = read.visium_section(shared_data / "visium_tiny")
        array = section.obs[["array_row", "array_col"]].to_numpy()
        row, col = np.abs(array[:, None] - array[None]).transpose(2, 0, 1)
        np.testing.assert_array_equal(_adjacency(section), ((row == 1) & (col == 1)) | ((row == 0) & (col == 2)))

    def test_the_random_control_has_the_degrees_of_what_is_left(self, whole):
        section, adjacent = whole["square"]
        spots = np.random.default_rng(0).permutation(section.n_obs)[: section.n_obs // 3]
        drawn = _adjacency(section[spots].copy(), mode="random")
        np.testing.assert_array_equal(drawn.sum(axis=0), adjacent[np.ix_(spots, spots)].sum(axis=0))

    def test_a_graph_is_known_by_its_array_too(self, whole):
        section = whole["square"][0].copy()
        section.obs["array_row"] *= 2
        section.obs["array_col"] *= 2
        assert not gr.has_graph(section)
        assert gr.has_graph(whole["square"][0])

    @pytest.mark.parametrize(("n_neighs", "reach"), [(4, 1), (8, np.sqrt(2)), (None, np.sqrt(2)), (12, 2)])
    def test_the_ring_is_as_wide_as_it_is_asked_to_be(self, whole, n_neighs, reach):
        section, _ = whole["square"]
        spots = np.random.default_rng(1).permutation(section.n_obs)[: section.n_obs // 4]
        thinned = section[spots].copy()
        found = _adjacency(thinned, n_neighs=n_neighs)
        distance = cdist(thinned.obsm["spatial"], thinned.obsm["spatial"]) / 290
        assert distance[found].max() <= 1.01 * reach


@pytest.mark.parametrize("mode", ["grid", "knn", "radius", "delaunay", "random"])
def test_squidpys_note_on_each_graph_is_not_shown(square, mode):
    said: list[logging.LogRecord] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record)

    logger, listener = logging.getLogger("spatialdata._logging"), Listener()
    logger.addHandler(listener)
    before = list(logger.filters)
    gr.spatial_graph(square(), mode)
    logger.removeHandler(listener)
    assert [record.getMessage() for record in said] == []
    assert logger.filters == before

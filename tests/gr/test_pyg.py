from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from torch_geometric.nn import SimpleConv

from nh2st_graph import DataError, gr, read


def _with_graph(section, rows):
    """Give a section the graph whose row ``i`` lists the neighbours of spot ``i``."""
    n = section.n_obs
    dense = np.zeros((n, n))
    for i, neighbours in enumerate(rows):
        dense[i, neighbours] = 1
    section.obsp["spatial_connectivities"] = sparse.csr_matrix(dense)
    section.obsp["spatial_distances"] = sparse.csr_matrix(dense)
    return section


def _edges(data):
    return [tuple(pair) for pair in data.edge_index.T.tolist()]


@pytest.fixture
def three(make_section):
    """Spot 0 has neighbours 1 and 2, spot 1 has 2, spot 2 has none."""
    return _with_graph(make_section([[0, 0], [10, 0], [0, 20]]), [[1, 2], [2], []])


# Direction


def test_messages_go_from_the_neighbour_to_the_spot_whose_row_lists_it(three):
    data = gr.to_pyg(three, np.array([[1.0], [10.0], [100.0]]))
    assert sorted(_edges(data)) == [(1, 0), (2, 0), (2, 1)]
    received = SimpleConv(aggr="sum")(data.x, data.edge_index)
    assert received.flatten().tolist() == [110.0, 100.0, 0.0]


def test_knn_brings_each_spot_its_own_nearest(make_section):
    section = make_section([[0, 0], [1, 0], [3, 0]])
    gr.spatial_graph(section, "knn", n_neighs=1)
    data = gr.to_pyg(section, np.array([[1.0], [10.0], [100.0]]))
    # Nobody's nearest is spot 2, so that its value reaches nobody.
    assert SimpleConv(aggr="sum")(data.x, data.edge_index).flatten().tolist() == [10.0, 1.0, 10.0]


def test_each_spot_of_a_real_knn_graph_receives_from_k(her2st_crops):
    section = read.her2st(her2st_crops, ["C6"])["C6"]
    gr.spatial_graph(section, "knn", n_neighs=6)
    edge_index, _ = gr.spatial_edges(section)
    assert (torch.bincount(edge_index[1], minlength=section.n_obs) == 6).all()
    assert len(torch.bincount(edge_index[0]).unique()) > 1, "not symmetric: some spots are asked more often"


# Edge features


def test_lengths_are_in_pitches_and_directions_point_to_the_sender(three):
    edge_index, edge_attr = gr.spatial_edges(three)  # nearest others are 10, 10 and 20 px away: the pitch is 10
    found = dict(zip(map(tuple, edge_index.T.tolist()), edge_attr.tolist(), strict=True))
    assert gr.EDGE_FEATURES == ("distance", "direction_x", "direction_y")
    assert found[1, 0] == pytest.approx([1, 1, 0])
    assert found[2, 0] == pytest.approx([2, 0, 1])
    assert found[2, 1] == pytest.approx([np.sqrt(5), -1 / np.sqrt(5), 2 / np.sqrt(5)])


@pytest.mark.parametrize("pitch", [0.7, 290.0])
def test_lengths_in_grid_mode_are_no_ring_numbers(square, pitch):
    section = square(pitch=pitch)
    gr.spatial_graph(section, "grid", n_rings=2)
    rings = np.unique(section.obsp["spatial_distances"].data)
    np.testing.assert_array_equal(rings[rings > 0], [1, 2])
    lengths = np.unique(gr.spatial_edges(section)[1][:, 0].numpy().round(4))
    np.testing.assert_allclose(lengths, np.sqrt([1, 2, 4, 5, 8]), atol=1e-4)


def test_lengths_on_a_thinned_array_are_in_pitches_of_the_array(hexagonal):
    section = hexagonal(n_rows=20, n_cols=20)[np.random.default_rng(0).choice(400, 30, replace=False)].copy()
    gr.spatial_graph(section, "knn", n_neighs=3)
    edge_index, edge_attr = gr.spatial_edges(section)
    step = np.diff(section.obsm["spatial"][edge_index.numpy()], axis=0)[0]
    np.testing.assert_allclose(edge_attr[:, 0], np.linalg.norm(step, axis=1) / 100, rtol=1e-5)


def test_spots_in_one_place_have_no_direction(make_section):
    section = _with_graph(make_section([[0, 0], [0, 0], [10, 0], [20, 0]]), [[1], [0], [3], [2]])
    _, edge_attr = gr.spatial_edges(section)
    np.testing.assert_array_equal(edge_attr[:2], 0)
    assert torch.isfinite(edge_attr).all()


def test_self_loops_and_stored_zeros_are_no_edges_and_stay_in_the_section(make_section):
    section = make_section([[0, 0], [10, 0], [0, 20]])
    entries = ([1.0, 1.0, 0.0, 1.0], ([0, 0, 1, 2], [0, 1, 1, 0]))
    section.obsp["spatial_connectivities"] = sparse.csr_matrix(entries, shape=(3, 3))
    section.obsp["spatial_distances"] = sparse.csr_matrix(entries, shape=(3, 3))
    edge_index, edge_attr = gr.spatial_edges(section)
    assert edge_index.tolist() == [[1, 0], [0, 2]]
    assert len(edge_attr) == 2
    kept = section.obsp["spatial_connectivities"]
    assert kept.indptr.tolist() == [0, 2, 3, 4]
    assert kept.data.tolist() == [1, 1, 0, 1]


@pytest.mark.parametrize("mode", ["grid", "knn", "radius", "delaunay"])
def test_one_spot_and_isolated_spots(make_section, square, mode):
    alone = make_section([[3, 4]])
    gr.spatial_graph(alone, mode)
    data = gr.to_pyg(alone, np.ones((1, 2)))
    assert data.edge_index.shape == (2, 0)
    assert data.edge_index.dtype == torch.int64
    assert data.edge_attr.shape == (0, 3)
    assert data.num_nodes == 1

    section = square()
    section.obsm["spatial"][3] = [1e5, 1e5]
    gr.spatial_graph(section, mode)
    data = gr.to_pyg(section, np.ones((section.n_obs, 2)))
    assert data.num_nodes == section.n_obs
    assert (3 in data.edge_index) == (mode in ("knn", "delaunay"))


# The conversion


def test_a_section_becomes_one_graph(three):
    three.obsm["X_image"] = np.arange(6, dtype=np.float64).reshape(3, 2)
    data = gr.to_pyg(three, y=np.ones((3, 4)), depth=np.arange(3))
    assert data.x.dtype == data.y.dtype == data.depth.dtype == data.pos.dtype == data.edge_attr.dtype == torch.float32
    np.testing.assert_array_equal(data.x, three.obsm["X_image"])
    np.testing.assert_allclose(data.pos, [[0, 0], [1, 0], [0, 2]])
    assert data.section == "S1"
    assert data.spots == list(three.obs_names)
    assert data.validate()
    data.x[0] = 7
    assert three.obsm["X_image"][0, 0] == 0, "the graph is a copy"


def test_what_is_missing_is_named(three, make_section):
    with pytest.raises(DataError, match=r"section 'S1': no obsm\['X_image'\].*run ng\.im\.features"):
        gr.to_pyg(three)
    with pytest.raises(DataError, match=r"section 'S1': no obsp.*run ng\.gr\.spatial_graph"):
        gr.to_pyg(make_section([[0, 0], [1, 1]]), np.ones((2, 2)))
    with pytest.raises(DataError, match="section 'S1': x has 2 rows for 3 spots"):
        gr.to_pyg(three, np.ones((2, 2)))
    with pytest.raises(DataError, match="section 'S1': counts has 4 rows for 3 spots"):
        gr.to_pyg(three, np.ones((3, 2)), counts=np.ones((4, 2)))


def test_array_positions_are_x_then_y_and_whole(square):
    section = square(n_rows=2, n_cols=3)
    gr.spatial_graph(section)
    data = gr.to_pyg(section, np.ones((6, 1)))
    assert data.array.dtype == torch.int64
    assert data.array.tolist() == [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]]
    section.obs["array_col"] = section.obs["array_col"] + 0.05
    with pytest.raises(DataError, match=r"section 'S1': obs\['array_col'\] of 6 spots is not a whole number"):
        gr.to_pyg(section, np.ones((6, 1)))
    section.obs["array_col"] = np.nan
    assert "array" not in gr.to_pyg(section, np.ones((6, 1)))


def test_a_graph_survives_h5ad(hexagonal, tmp_path):
    section = hexagonal()
    gr.spatial_graph(section, n_rings=2)
    section.obsm["X_image"] = np.random.default_rng(0).normal(size=(section.n_obs, 3)).astype(np.float32)
    section.write_h5ad(tmp_path / "section.h5ad")
    before, after = gr.to_pyg(section), gr.to_pyg(ad.read_h5ad(tmp_path / "section.h5ad"))
    for name in ("x", "edge_index", "edge_attr", "pos"):
        assert torch.equal(before[name], after[name])
    assert before.spots == after.spots


@given(seed=st.integers(0, 10_000), mode=st.sampled_from(["grid", "knn", "radius", "delaunay"]))
def test_permuting_the_spots_permutes_the_graph(make_section, seed, mode):
    random = np.random.default_rng(seed)
    section = make_section(random.uniform(0, 100, (20, 2)))
    section.obsm["X_image"] = random.normal(size=(20, 2))
    other = section[random.permutation(20)].copy()

    def by_name(adata):
        gr.spatial_graph(adata, mode)
        data = gr.to_pyg(adata)
        names = np.array(data.spots)
        edges = dict(zip(map(tuple, names[data.edge_index.T.numpy()]), data.edge_attr.tolist(), strict=True))
        return edges, dict(zip(data.spots, torch.hstack([data.x, data.pos]).tolist(), strict=True))

    (edges, nodes), (other_edges, other_nodes) = by_name(section), by_name(other)
    assert nodes == other_nodes
    assert edges.keys() == other_edges.keys()
    for pair, features in edges.items():
        assert features == pytest.approx(other_edges[pair], abs=1e-5)

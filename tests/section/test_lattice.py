from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from nh2st_graph import DataError, gr, read


def _rotated(adata, degrees):
    a = np.deg2rad(degrees)
    adata.obsm["spatial"] = adata.obsm["spatial"] @ np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    return adata


@pytest.mark.parametrize("with_array", [True, False])
@pytest.mark.parametrize("degrees", [0, 30, 90, 201])
@pytest.mark.parametrize("pitch", [0.5, 290.0])
def test_square_and_hexagonal_arrays_are_told_apart(square, hexagonal, with_array, degrees, pitch):
    for make, neighbours in ((square, 8), (hexagonal, 6)):
        section = _rotated(make(pitch=pitch, with_array=with_array), degrees)
        assert gr.lattice_neighbours(section) == neighbours
        assert gr.spot_pitch(section) == pytest.approx(pitch)


@pytest.mark.parametrize("with_array", [True, False])
def test_spots_a_little_off_their_array_are_still_on_it(square, hexagonal, with_array):
    for make, neighbours in ((square, 8), (hexagonal, 6)):
        section = make(n_rows=12, n_cols=12, pitch=100.0, with_array=with_array)
        section.obsm["spatial"] += np.random.default_rng(0).normal(0, 3, section.obsm["spatial"].shape)
        assert gr.lattice_neighbours(section) == neighbours
        assert gr.spot_pitch(section) == pytest.approx(100, rel=0.005 if with_array else 0.1)


def test_a_thinned_array_keeps_its_lattice_and_pitch(square, hexagonal):
    some = np.random.default_rng(0).choice(400, 40, replace=False)
    for make, neighbours in ((square, 8), (hexagonal, 6)):
        section = make(n_rows=20, n_cols=20, pitch=100.0)[some].copy()
        assert gr.lattice_neighbours(section) == neighbours
        assert gr.spot_pitch(section) == pytest.approx(100)


@pytest.mark.parametrize("kept", [0.3, 0.5, 0.8])
def test_positions_alone_tell_a_thinned_array(square, hexagonal, kept):
    some = np.random.default_rng(0).choice(400, int(400 * kept), replace=False)
    for make, neighbours in ((square, 8), (hexagonal, 6)):
        section = make(n_rows=20, n_cols=20, pitch=100.0, with_array=False)[some].copy()
        assert gr.lattice_neighbours(section) == neighbours
        assert gr.spot_pitch(section) == pytest.approx(100)


def test_spots_that_share_positions_have_a_count_of_neighbours(make_section):
    pairs = np.repeat([[10.0 * i, 3.0 * i * i] for i in range(8)], 2, axis=0)
    assert gr.lattice_neighbours(make_section(pairs)) == 8


def test_a_narrow_strip_of_a_hexagonal_array_is_hexagonal(hexagonal):
    assert gr.lattice_neighbours(hexagonal(n_rows=2, n_cols=20)) == 6


@pytest.mark.parametrize(
    "numbers", ["shuffled", "missing", "one row", "too few"], ids=lambda name: name.replace(" ", "-")
)
def test_array_numbers_that_are_no_lattice_are_passed_over(hexagonal, numbers):
    section = hexagonal(pitch=100.0)
    if numbers == "shuffled":
        section.obs["array_row"] = np.random.default_rng(0).permutation(section.obs["array_row"])
    elif numbers == "missing":
        section.obs["array_row"] = np.nan
    elif numbers == "one row":
        section.obs["array_row"] = 0
    else:
        section = section[[0, 1]].copy()
    assert gr.spot_pitch(section) == pytest.approx(100)
    assert gr.lattice_neighbours(section) == (8 if numbers == "too few" else 6)


def test_pitch_of_very_small_and_of_impossible_sections(make_section):
    assert gr.spot_pitch(make_section([[5, 5]])) == 1.0
    assert gr.spot_pitch(make_section([[0, 0], [3, 4]])) == 5.0
    with pytest.raises(DataError, match="section 'S1': most spots share their position"):
        gr.spot_pitch(make_section([[1, 1]] * 4))


def test_lattice_and_pitch_of_real_sections(shared_data, her2st_crops):
    st_section = read.her2st(her2st_crops, ["C6"])["C6"]
    visium = read.visium_section(shared_data / "visium_tiny")
    for section, neighbours, pitch_um in ((st_section, 8, 200), (visium, 6, 100)):
        (entry,) = section.uns["spatial"].values()
        assert gr.lattice_neighbours(section) == neighbours
        assert gr.spot_pitch(section) * entry["metadata"]["microns_per_pixel"] == pytest.approx(pitch_um, rel=0.01)
    del st_section.obs["array_row"]
    assert gr.lattice_neighbours(st_section) == 8


# Every second place only: a chessboard


def _places(lattice, n, colour=0):
    """Array numbers (row, column) of ``n x n`` places, or of those that bear a spot."""
    array = np.array([(row, col) for row in range(n) for col in range(n)])
    return array if lattice == "square" else array[array.sum(axis=1) % 2 == colour]


def _chessboard(make_section, n=12, step=(100.0, 100.0), colour=0, with_array=True):
    array = _places("chessboard", n, colour)
    return make_section(array[:, ::-1] * step, array if with_array else None)


@pytest.mark.parametrize("with_array", [True, False])
@pytest.mark.parametrize("colour", [0, 1])
@pytest.mark.parametrize("steps", [(100.0, 100.0), (100.0, 110.0), (0.3, 0.3)])
def test_adjacent_spots_of_a_chessboard_lie_across_a_corner(make_section, with_array, colour, steps):
    section = _rotated(_chessboard(make_section, 9, steps, colour, with_array), 12)
    assert gr.spot_pitch(section) == pytest.approx(np.hypot(*steps))
    assert gr.lattice_neighbours(section) == 8


@pytest.mark.parametrize("n_neighs", [4, 8, None])
@pytest.mark.parametrize("steps", [(100.0, 100.0), (100.0, 110.0)])
def test_squidpys_grid_on_a_chessboard_is_the_four_across_corners_and_the_ring_of_eight(make_section, n_neighs, steps):
    array = _places("chessboard", 12)
    some = np.random.default_rng(0).permutation(len(array))[:60]
    section = make_section(array[some][:, ::-1] * steps, array[some])
    gr.spatial_graph(section, n_neighs=n_neighs)
    turned = array[some] @ [[1, 1], [1, -1]] // 2
    ring = cdist(turned, turned, "cityblock" if n_neighs == 4 else "chebyshev") == 1
    np.testing.assert_array_equal(section.obsp["spatial_connectivities"].toarray() != 0, ring)


def test_a_radius_without_a_number_reaches_the_ring_of_eight(make_section):
    by_radius, by_grid = (gr.spatial_graph(_chessboard(make_section), mode, copy=True) for mode in ("radius", "grid"))
    found, ring = (one.obsp["spatial_connectivities"].toarray() for one in (by_radius, by_grid))
    np.testing.assert_array_equal(found != 0, ring != 0)


def test_a_few_spots_on_one_colour_are_no_chessboard(square):
    section = square(pitch=100.0)
    one_colour = section[section.obs[["array_row", "array_col"]].sum(axis=1) % 2 == 0]
    assert gr.spot_pitch(one_colour[:7].copy()) == pytest.approx(100)
    assert gr.spot_pitch(one_colour[:8].copy()) == pytest.approx(100 * np.sqrt(2))


@given(
    lattice=st.sampled_from(["square", "chessboard", "hexagonal"]),
    colour=st.integers(0, 1),
    degrees=st.floats(0, 360),
    mirrored=st.booleans(),
    kept=st.floats(0.15, 1),
    jitter=st.floats(0, 0.05),
    pitch=st.floats(0.1, 1000),
    seed=st.integers(0, 1000),
)
def test_turned_thinned_and_jittered_arrays_keep_pitch_and_lattice(
    make_section, lattice, colour, degrees, mirrored, kept, jitter, pitch, seed
):
    rng = np.random.default_rng(seed)
    array = _places(lattice, 20, colour)
    full = array[:, ::-1] * ([0.5, np.sqrt(0.75)] if lattice == "hexagonal" else [1.0, 1.0])
    adjacent = cdist(full, full)[~np.eye(len(full), dtype=bool)].min()
    # A square array must not lie on one colour by chance.
    some = np.concatenate([[0, 1], 2 + rng.permutation(len(array) - 2)])[: int(kept * len(array))]
    centres = pitch * (full[some] + rng.normal(0, jitter, (len(some), 2))) * [-1 if mirrored else 1, 1]
    section = _rotated(make_section(centres, array[some] + rng.integers(0, 50)), degrees)
    # The error of a fitted step is a share of the jitter that falls with spots and spread.
    assert gr.spot_pitch(section) == pytest.approx(adjacent * pitch, rel=0.01 + jitter / 2)
    assert gr.lattice_neighbours(section) == (6 if lattice == "hexagonal" else 8)

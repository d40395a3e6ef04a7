from __future__ import annotations

import numpy as np
import pytest

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


def test_a_narrow_strip_of_a_hexagonal_array_is_hexagonal(hexagonal):
    assert gr.lattice_neighbours(hexagonal(n_rows=2, n_cols=20)) == 6


@pytest.mark.parametrize(
    "numbers", ["shuffled", "missing", "words", "one row", "too few"], ids=lambda name: name.replace(" ", "-")
)
def test_array_numbers_that_are_no_lattice_are_passed_over(hexagonal, numbers):
    section = hexagonal(pitch=100.0)
    if numbers == "shuffled":
        section.obs["array_row"] = np.random.default_rng(0).permutation(section.obs["array_row"])
    elif numbers == "missing":
        section.obs["array_row"] = np.where(section.obs["array_row"] == 3, np.nan, section.obs["array_row"])
    elif numbers == "words":
        section.obs["array_row"] = "A7"
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


def test_lattice_and_pitch_of_real_sections(shared_data):
    st_section = read.her2st(shared_data / "her2st", sections=["C6"])["C6"]
    visium = read.visium(shared_data / "visium_tiny")
    for section, neighbours, pitch_um in ((st_section, 8, 200), (visium, 6, 100)):
        (entry,) = section.uns["spatial"].values()
        assert gr.lattice_neighbours(section) == neighbours
        assert gr.spot_pitch(section) * entry["metadata"]["microns_per_pixel"] == pytest.approx(pitch_um, rel=0.01)
    del st_section.obs["array_row"]
    assert gr.lattice_neighbours(st_section) == 8

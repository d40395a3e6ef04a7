from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st

from nh2st_graph import DataError
from nh2st_graph.section import Array, adjacent_steps, check_array, fit_array, on_one_colour, spots_at

#: Columns and rows in pixels; hexagonal arrays are numbered as Space Ranger does, and the same with x and y exchanged.
STEPS = {
    "square": (100.0, 104.0),
    "chessboard": (100.0, 110.0),
    "hexagonal": (50.0, 50 * 3**0.5),
    "hexagonal, exchanged": (50 * 3**0.5, 50.0),
}


def section_of(lattice: str, n: int = 9, degrees: float = 0.0) -> AnnData:
    """A full array, turned on its image."""
    places = np.array([(column, row) for column in range(n) for row in range(n)])
    places = places if lattice == "square" else places[places.sum(axis=1) % 2 == 0]
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    obs = pd.DataFrame(places, columns=["array_col", "array_row"], index=[f"s{i}" for i in range(len(places))])
    obs["section"] = "S"
    return AnnData(obs=obs, obsm={"spatial": places * STEPS[lattice] @ turn})


@pytest.mark.parametrize("lattice", STEPS)
@pytest.mark.parametrize("degrees", [0, 33, 90])
def test_the_fit_gives_steps_pitch_and_lattice(lattice, degrees):
    found = fit_array(section_of(lattice, degrees=degrees))
    assert (found.column, found.row) == pytest.approx(STEPS[lattice])
    assert found.hexagonal == lattice.startswith("hexagonal")
    pitch = {"square": 102.0, "chessboard": np.hypot(100, 110)}.get(lattice, 100.0)
    assert found.pitch == pytest.approx(pitch)


def test_there_is_no_array_without_numbers_or_where_pixels_do_not_agree():
    section = section_of("square")
    shuffled = section.copy()
    shuffled.obsm["spatial"] = np.random.default_rng(0).permutation(shuffled.obsm["spatial"])
    assert fit_array(shuffled) is None
    assert fit_array(section[:5].copy()) is None, "one column of the array has no rows to fit"
    del section.obs["array_col"]
    assert fit_array(section) is None


def test_positions_that_are_not_whole_are_refused():
    section = section_of("square")
    section.obs["array_row"] += 0.25
    with pytest.raises(DataError, match=r"section 'S': obs\['array_row'\] of 81 spots is not a whole number"):
        fit_array(section)


@given(lattice=st.sampled_from(sorted(STEPS)), degrees=st.floats(0, 360))
def test_adjacent_are_the_spots_of_the_first_ring_in_pixels(lattice, degrees):
    """Within 1.2 pitches on a hexagonal array, 1.2 diagonals on others, about a spot in the middle."""
    section = section_of(lattice, degrees=degrees)
    array = fit_array(section)
    places = section.obs[["array_col", "array_row"]].to_numpy()
    (middle,) = np.flatnonzero((places == 4).all(axis=1))
    away = np.linalg.norm(section.obsm["spatial"] - section.obsm["spatial"][middle], axis=1)
    reach = 1.2 * array.pitch * (1 if array.hexagonal else 2**0.5)
    expected = {tuple(place - 4) for place, distance in zip(places, away, strict=True) if 0 < distance < reach}
    assert {tuple(step) for step in adjacent_steps(array)} == expected
    assert len(expected) == (6 if array.hexagonal else 8)


def test_without_a_fit_the_array_is_taken_for_a_square_one():
    square = Array(1.0, 1.0, chessboard=False)
    np.testing.assert_array_equal(adjacent_steps(None), adjacent_steps(square))


@pytest.mark.parametrize("colour", [0, 1])
def test_eight_spots_on_one_colour_are_no_chance(colour):
    places = np.array([(x, y) for x in range(4) for y in range(4) if (x + y) % 2 == colour], dtype=float)
    assert on_one_colour(places + 0.2)
    assert not on_one_colour(places[:7])
    assert not on_one_colour(np.vstack([places, [colour, 1]]))


@pytest.mark.parametrize("lattice", STEPS)
def test_positions_of_other_spots_are_refused(lattice):
    section = section_of(lattice, degrees=33)
    check_array(section)
    section.obsm["spatial"] = np.random.default_rng(0).permutation(section.obsm["spatial"])
    with pytest.raises(DataError, match=r"'S': .*array_row.* lie far apart .*join positions by the spots' names"):
        check_array(section)


def test_stretched_tissue_and_few_spots_pass():
    section = section_of("square")
    section.obsm["spatial"] += 150 * np.sin(section.obsm["spatial"][:, ::-1] / 200)
    assert fit_array(section) is None
    check_array(section)
    few = section[::5].copy()
    few.obsm["spatial"] = few.obsm["spatial"][::-1] ** 2
    check_array(few)


def test_sections_joined_into_one_are_refused():
    joined = ad.concat([section_of("hexagonal"), section_of("hexagonal")], index_unique="-")
    with pytest.raises(DataError, match=r"41 of 82 spots .*'s0-0' and 's0-1' at row 0, column 0.*library_key='COLUMN'"):
        check_array(joined)


PLACES = st.lists(st.tuples(st.integers(-4, 5), st.integers(0, 300)), min_size=1, max_size=20, unique=True)


@given(PLACES, st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2)), min_size=1, max_size=5))
def test_spots_at_steps_are_found_by_position(places, steps):
    found = spots_at(np.array(places), np.array(steps))
    for step, others in zip(steps, found, strict=True):
        for (x, y), other in zip(places, others, strict=True):
            there = (x + step[0], y + step[1])
            assert other == (places.index(there) if there in places else -1)


@pytest.mark.parametrize("far", [0, 1000])
def test_no_spot_is_found_where_two_share_a_position(far):
    assert spots_at(np.array([(1, 1), (1, 1), (far, far)]), np.array([(0, 1)])) is None

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nh2st_graph import DataError
from nh2st_graph.read._resolution import array_steps, ring_pitch, st_scale

SQUARE = np.stack(np.meshgrid(np.arange(3, 12), np.arange(5, 12)), axis=-1).reshape(-1, 2).astype(float)
BLACK = SQUARE[SQUARE.sum(axis=1) % 2 == 0]


def _turned(array, steps, angle=0.0, mirror=1.0):
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return (array * steps * [mirror, 1]) @ turn + [5000, 4000]


@given(
    pitch=st.floats(5, 500),
    angle=st.floats(-3, 3),
    mirror=st.sampled_from([1.0, -1.0]),
    keep=st.sets(st.integers(0, 62), min_size=12),
    seed=st.integers(0, 99),
)
def test_square_array_however_it_lies(pitch, angle, mirror, keep, seed):
    array = SQUARE[sorted(keep)]
    if len(set(np.rint(array).sum(axis=1) % 2)) == 1 or np.ptp(array, axis=0).min() < 1:
        return
    noise = np.random.default_rng(seed).uniform(-0.01, 0.01, array.shape) * pitch
    scale = st_scale(array, _turned(array, [pitch, pitch], angle, mirror) + noise, "S")
    assert scale.microns_per_pixel == pytest.approx(200 / pitch, rel=0.03)
    assert scale.spot_um == 100


@given(x=st.floats(5, 500), ratio=st.floats(0.8, 1.25), angle=st.floats(-3, 3))
def test_chessboard_however_it_lies(x, ratio, angle):
    pixels = _turned(BLACK, [x, x * ratio], angle)
    scale = st_scale(BLACK, pixels, "S")
    # the nearest spots are 150 um apart, where steps are not too unlike
    nearest = np.linalg.norm(pixels[:, None] - pixels[None], axis=-1)[np.triu_indices(len(pixels), 1)].min()
    assert nearest * scale.microns_per_pixel == pytest.approx(150)
    assert scale.spot_um == 110


def test_misplaced_spots_do_not_move_it():
    pixels = _turned(SQUARE, [40, 40])
    pixels[::12, 0] = 10
    assert st_scale(SQUARE, pixels, "S").microns_per_pixel == pytest.approx(5.0, rel=1e-6)


def test_one_row_is_enough():
    row = SQUARE[SQUARE[:, 1] == 5]
    assert array_steps(row, _turned(row, [40, 40]), "S") == pytest.approx((40,))
    assert st_scale(row, _turned(row, [40, 40]), "S").microns_per_pixel == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("array", "pixels", "message"),
    [
        (SQUARE[:1], SQUARE[:1] * 40, "cannot be computed from 1 spots"),
        (np.repeat(SQUARE[:1], 5, axis=0), SQUARE[:5] * 40, "cannot be computed from 5 spots"),
        (np.array([[1.0, 1], [2, 2], [3, 3]]), np.array([[1.0, 1], [2, 2], [3, 3]]) * 40, "lie on one place or line"),
        (SQUARE, SQUARE * [40, 60], r"x says 5\.000 and y says 3\.333 um per pixel"),
        (SQUARE, np.random.default_rng(0).permutation(SQUARE) * 40, "do not belong together"),
        (SQUARE, np.zeros_like(SQUARE), "do not belong together"),
    ],
)
def test_spots_that_do_not_tell(array, pixels, message):
    with pytest.raises(DataError, match=message) as caught:
        st_scale(array, pixels, "section 'S': file")
    assert str(caught.value).startswith("section 'S': file")


@pytest.mark.parametrize("hexagonal", [True, False])
@pytest.mark.parametrize("keep", [1.0, 0.6])
def test_first_ring(hexagonal, keep):
    row, col = (a.ravel() for a in np.meshgrid(np.arange(12), np.arange(12), indexing="ij"))
    pixels = np.column_stack([col + (row % 2) / 2 if hexagonal else col, row * (3**0.5 / 2 if hexagonal else 1)]) * 21.3
    kept = np.random.default_rng(0).random(len(pixels)) < keep
    assert ring_pitch(pixels[kept].round(), "S") == pytest.approx(21.3, rel=0.01)


@pytest.mark.parametrize("pixels", [np.zeros((0, 2)), np.zeros((1, 2)), np.ones((5, 2))])
def test_no_ring(pixels):
    with pytest.raises(DataError, match=f"cannot be computed from {len(pixels)} spots"):
        ring_pitch(pixels, "S")

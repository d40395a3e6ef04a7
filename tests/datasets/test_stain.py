from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import rgb2hed

from nh2st_graph.datasets import _stain
from nh2st_graph.datasets._stain import _draw_holes, _draw_nuclei, _expose, draw_stain, render
from nh2st_graph.datasets._tissue import Ellipses, grow_tissue


def ellipses(rng: np.random.Generator, n: int, side: float) -> Ellipses:
    long, short = rng.uniform(4, 15, n), rng.uniform(2, 4, n)
    columns = (*rng.uniform(0, side, (2, n)), long, short, rng.uniform(0, np.pi, n), rng.uniform(0.5, 1, n))
    return Ellipses(*(c.astype(np.float32) for c in columns))


@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.7, 1.0, 2.0, 3.0]))
def test_nuclei_equal_a_drawing_on_the_whole_canvas(seed: int, scale: float) -> None:
    drawn = ellipses(np.random.default_rng(seed), 6, 60.0)
    shape = (round(60 / scale), round(48 / scale))
    expected = np.zeros(shape)
    row, col = np.indices(shape)
    for i in range(len(drawn)):
        dx, dy = (col + 0.5) * scale - drawn.x[i], (row + 0.5) * scale - drawn.y[i]
        along = np.cos(drawn.angle[i]) * dx + np.sin(drawn.angle[i]) * dy
        across = np.cos(drawn.angle[i]) * dy - np.sin(drawn.angle[i]) * dx
        radius = np.hypot(along / drawn.long[i], across / drawn.short[i])
        edge = np.clip((1 - radius) * drawn.short[i] / scale + 0.5, 0, 1)
        expected = np.maximum(expected, edge * drawn.density[i])
    np.testing.assert_allclose(_draw_nuclei(drawn, shape, scale), expected, atol=2e-4)


def test_drawing_in_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = ellipses(np.random.default_rng(3), 40, 100.0)
    whole = _draw_nuclei(drawn, (100, 100), 1.0), _draw_holes(drawn, (100, 100), 1.0)
    monkeypatch.setattr(_stain, "_CHUNK", 700)
    np.testing.assert_array_equal(_draw_nuclei(drawn, (100, 100), 1.0), whole[0])
    np.testing.assert_array_equal(_draw_holes(drawn, (100, 100), 1.0), whole[1])


def test_holes_that_touch_keep_a_wall() -> None:
    column = np.array([20.0, 50.0], dtype=np.float32)
    ones = np.ones(2, dtype=np.float32)
    two = Ellipses(column, 30 * ones, 20 * ones, 20 * ones, 0 * ones, ones)
    canvas = _draw_holes(two, (60, 70), 1.0)
    assert canvas[30, 20] == 1
    assert canvas[30, 50] == 1
    assert canvas[30, 35] < 0.5
    one = _draw_holes(two[np.array([0])], (60, 70), 1.0)
    assert one[30, 35] == 1


def test_nothing_to_draw_gives_an_empty_canvas() -> None:
    nothing = ellipses(np.random.default_rng(0), 0, 10.0)
    assert not _draw_nuclei(nothing, (9, 8), 1.0).any()
    assert not _draw_holes(nothing, (9, 8), 1.0).any()


def test_light_follows_beer_lambert() -> None:
    stain = draw_stain(np.random.default_rng(0), 0.2)
    haematoxylin, eosin = np.random.default_rng(1).uniform(0, 0.8, (2, 5, 6)).astype(np.float32)
    density = np.stack([haematoxylin, eosin], axis=-1) @ (stain.vectors * stain.strength[:, None])
    expected = np.rint(stain.light * 10.0**-density)
    assert np.abs(_expose(haematoxylin, eosin, stain).astype(int) - expected).max() <= 1


def test_without_shift_every_section_is_stained_alike() -> None:
    one, other = (draw_stain(np.random.default_rng(seed), 0.0) for seed in (0, 1))
    np.testing.assert_array_equal(one.vectors, other.vectors)
    np.testing.assert_array_equal(one.strength, other.strength)
    moved = draw_stain(np.random.default_rng(0), 0.2)
    assert not np.allclose(moved.vectors, one.vectors)


def test_unmixing_finds_the_stains_again() -> None:
    rng = np.random.default_rng(2)
    tissue = grow_tissue(rng, 6, 6)
    image = render(tissue, draw_stain(rng, 0.0), 2.0, rng)
    hed = rgb2hed(image.rgb)
    solid = image.lumen < 0.05
    nuclei = _draw_nuclei(tissue.nuclei, image.lumen.shape, 2.0)
    assert np.corrcoef(hed[..., 1][solid], image.eosin[solid])[0, 1] > 0.8
    assert np.corrcoef(hed[..., 0][solid], nuclei[solid])[0, 1] > 0.8


def test_image_has_tissue_colours() -> None:
    rng = np.random.default_rng(4)
    tissue = grow_tissue(rng, 6, 6)
    image = render(tissue, draw_stain(rng, 0.0), 2.0, rng)
    assert image.rgb[image.lumen > 0.99].min() > 230
    red, green, blue = image.rgb[image.lumen < 0.05].mean(axis=0)
    assert green < blue < 215
    assert green + 25 < red


def test_the_same_tissue_at_another_scale() -> None:
    tissue = grow_tissue(np.random.default_rng(6), 6, 6)
    stain = draw_stain(np.random.default_rng(0), 0.0)
    fine, coarse = (render(tissue, stain, scale, np.random.default_rng(0)) for scale in (2.0, 4.0))
    height, width = coarse.lumen.shape
    halved = fine.lumen[: 2 * height, : 2 * width].reshape(height, 2, width, 2).mean(axis=(1, 3))
    assert np.corrcoef(halved.ravel(), coarse.lumen.ravel())[0, 1] > 0.97

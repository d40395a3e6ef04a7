from __future__ import annotations

import sys
import types

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tifffile import TiffWriter

from nh2st_graph.im import TissueMask, find_tissue, tissue_mask
from nh2st_graph.slide import HeldImage, WsiSlide, open_slide

from ..slides import halved, tissue_image, write_pyramid

MASK = np.random.default_rng(0).random((30, 40)) < 0.4


@given(x=st.floats(0, 80), y=st.floats(0, 60), side=st.floats(0.5, 30))
def test_fraction_counts_parts_of_pixels(x, y, side):
    """A mask of half the resolution: the same as counting on one that is twenty times finer, but for its step."""
    fine = 20
    found = TissueMask(MASK, 0.5).fraction(np.array([[x, y]]), side)[0]
    large = np.pad(MASK, 20).repeat(fine, axis=0).repeat(fine, axis=1)
    edges = [round((20 + (centre + s * side / 2) / 2) * fine) for centre in (x, y) for s in (-1, 1)]
    square = large[edges[2] : edges[3], edges[0] : edges[1]]
    assert found == pytest.approx(square.sum() / (side / 2 * fine) ** 2, abs=4 / (side / 2 * fine))


def test_fraction_of_everything_and_beyond_the_slide():
    full = TissueMask(np.ones((30, 40), dtype=bool), 0.5)
    centres = np.array([[40.0, 30.0], [0.0, 30.0], [0.0, 0.0], [80.0, 60.0], [300.0, 10.0]])
    np.testing.assert_allclose(full.fraction(centres, 20.0), [1, 0.5, 0.25, 0.25, 0])


@pytest.mark.parametrize("um", [2.0, 8.0])
def test_finds_the_disc(um):
    side = int(2000 / um)
    mask = tissue_mask(tissue_image(side, um), um)
    x = (np.arange(side) + 0.5) / side
    distance = np.hypot(x - 0.4, x[:, None] - 0.5)
    assert mask[distance < 0.23].all()
    assert not mask[distance > 0.27].any()


def test_dirt_is_no_tissue_and_a_tear_is():
    image = tissue_image(500, 8.0)
    glass = image[0, 0].copy()
    image[20:30, 20:30] = [120, 160, 90]  # dirt of 80 um
    image[400:480, 400:480] = [60, 90, 70]  # of 640 um
    image[240:250, 190:200] = glass  # a tear of 80 um in the tissue
    image[280:330, 180:230] = glass  # one of 400 um
    image[:, 450:] = 5  # the frame of the scan
    mask = tissue_mask(image, 8.0)
    assert not mask[15:35, 15:35].any()
    assert mask[410:470, 410:440].all()
    assert mask[240:250, 190:200].all()
    assert not mask[290:320, 190:220].any()
    assert not mask[:400, 455:].any()


@pytest.mark.parametrize("glass", [[255, 255, 255], [243, 242, 244], [238, 236, 231]], ids=["white", "grey", "warm"])
def test_an_empty_slide_has_none(glass):
    noise = np.random.default_rng(0).normal(0, 3, (300, 300, 3))
    assert not tissue_mask(np.full((300, 300, 3), glass, np.uint8), 8.0).any()
    assert not tissue_mask(np.clip(glass + noise, 0, 255).astype(np.uint8), 8.0).any()


def test_a_image_without_glass_is_all_tissue():
    """Pale and strong stain, which a free threshold would part."""
    image = np.full((200, 200, 3), [200, 150, 185], np.uint8)
    image[:, 100:] = [130, 60, 120]
    assert tissue_mask(image, 8.0).all()


def test_real_spots_lie_on_tissue(shared_data):
    """HER2+ sections: the spots that their authors kept."""
    folder = shared_data / "her2st" / "data"
    for section, at_least in (("C3", 0.97), ("C6", 0.97)):
        spots = pd.read_csv(folder / "ST-spotfiles" / f"{section}_selection.tsv", sep="\t")
        (path,) = (folder / "ST-imgs" / section[0] / section).glob("*.jpg")
        with open_slide(path) as slide:
            tissue, image = find_tissue(slide, 0.69, max_side=1000)
        assert tissue.mask.shape == image.shape[:2]
        share = tissue.fraction(spots[["pixel_x", "pixel_y"]].to_numpy(float), 112 / 0.69)
        assert (share >= 0.5).mean() >= at_least
        assert tissue.mask.mean() < 0.8, "and glass is none"


def test_of_a_pyramid(tmp_path):
    path = write_pyramid(tmp_path / "slide.tif", 1024, 4.0)
    with open_slide(path) as slide:
        tissue, image = find_tissue(slide, 4.0, max_side=256)
        assert slide.n_decoded == 1
    assert tissue.scale == 0.25
    assert tissue.mask.shape == image.shape[:2] == (256, 256)
    assert tissue.fraction(np.array([[410.0, 512.0], [950.0, 512.0]]), 100.0).tolist() == [1, 0]


def test_a_image_that_no_reader_of_the_extra_opened_is_ours(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lazyslide", types.ModuleType("lazyslide"))
    path = write_pyramid(tmp_path / "slide.tif", 256, 8.0)
    with open_slide(path) as slide:
        assert not isinstance(slide, WsiSlide | HeldImage)
        assert find_tissue(slide, 8.0)[0].mask.any()


def test_lazyslide_finds_the_tissue_and_its_hole(tmp_path):
    side = 2048
    x = (np.arange(side) + 0.5) / side
    image = tissue_image(side, 0.5)
    image[np.hypot(x - 0.4, x[:, None] - 0.5) < 0.1] = image[0, 0]
    path = write_pyramid(tmp_path / "slide.tif", side, 0.5, image=image, compression="jpeg", apart=True)
    slide = WsiSlide(path)
    tissue, small = find_tissue(slide, 0.5, max_side=1024)
    slide.close()
    assert tissue.scale == 0.5
    assert tissue.mask.shape == small.shape[:2] == (1024, 1024)
    distance = np.hypot(x - 0.4, x[:, None] - 0.5)[::2, ::2]
    assert tissue.mask[(distance > 0.12) & (distance < 0.23)].all()
    assert not tissue.mask[(distance < 0.08) | (distance > 0.27)].any()


def test_the_tissue_of_a_narrow_slide_does_not_drift(tmp_path):
    """OpenSlide's factor of a level is the mean along both axes: 2.0156 instead of 2 for 65 x 6000 pixels."""
    image, pieces = np.full((6000, 65, 3), 240, np.uint8), [500, 1100, 5200, 5800]
    for top, bottom in (pieces[:2], pieces[2:]):
        image[top:bottom, 8:57] = 180, 60, 140
    with TiffWriter(tmp_path / "strip.tif") as file:
        for kind, pixels in enumerate((image, halved(image[:, :64]))):
            file.write(pixels, photometric="rgb", tile=(64, 64), compression="jpeg", subfiletype=kind, metadata=None)
    slide = WsiSlide(tmp_path / "strip.tif")
    assert slide.sizes == [(65, 6000), (32, 3000)]
    tissue, _ = find_tissue(slide, 4.0, max_side=2000)
    slide.close()
    edges = np.flatnonzero(np.diff(tissue.mask.any(axis=1), prepend=False)) / tissue.scale
    np.testing.assert_allclose(edges, pieces, atol=12)

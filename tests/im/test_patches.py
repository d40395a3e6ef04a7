from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from tifffile import TiffWriter

import nh2st_graph as ng
from nh2st_graph import ConfigError, ImageError
from nh2st_graph.im import _patches
from nh2st_graph.im._patches import PatchCutter
from nh2st_graph.section import Key

from ..slides import write_pyramid

NOISE = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)


@pytest.fixture(scope="module", params=["held", "tiled"])
def noise(request, tmp_path_factory) -> Iterator[ng.im.Slide]:
    """The same image, held whole and read by windows."""
    path = tmp_path_factory.mktemp("noise") / "noise.tif"
    with TiffWriter(path) as file:
        file.write(NOISE, photometric="rgb", tile=(16, 16) if request.param == "tiled" else None)
    with ng.im.open_slide(path) as slide:
        yield slide


def cutter_of(pixels: np.ndarray, centres: np.ndarray, side: float, folder: Path) -> PatchCutter:
    """Cut out of an image in a file."""
    Image.fromarray(pixels).save(folder / "image.png")
    with ng.im.open_slide(folder / "image.png") as slide:
        return PatchCutter(slide, centres, side)


@given(x=st.integers(0, 59), y=st.integers(0, 39), half=st.integers(1, 50))
def test_whole_pixels_equal_slicing_a_padded_array(noise, x, y, half):
    padded = np.pad(NOISE, ((50, 50), (50, 50), (0, 0)), constant_values=255)
    expected = padded[y + 50 - half : y + 50 + half, x + 50 - half : x + 50 + half]
    cutter = PatchCutter(noise, np.array([[x, y]], dtype=float), 2 * half)
    np.testing.assert_array_equal(cutter.cut(0, 2 * half, Image.Resampling.BICUBIC), expected)


@pytest.fixture(scope="module")
def readings(tmp_path_factory) -> Iterator[list[ng.im.Slide]]:
    """The same image, read in one piece and by windows of several shapes; the first holds it whole."""
    folder = tmp_path_factory.mktemp("readings")
    Image.fromarray(NOISE).save(folder / "held.png")
    for tile in ((16, 16), (16, 32), (64, 48)):
        with TiffWriter(folder / f"tiles{tile[0]}x{tile[1]}.tif") as file:
            file.write(NOISE, photometric="rgb", tile=tile)
    with ExitStack() as stack:
        yield [stack.enter_context(ng.im.open_slide(path)) for path in sorted(folder.iterdir())]


def resized_whole(x: float, y: float, side: float, size: int, filter_: Image.Resampling) -> np.ndarray:
    """Resample the whole image, one axis after the other."""
    whole = Image.fromarray(NOISE)
    across = whole.resize((size, whole.height), filter_, box=(x - side / 2, 0, x + side / 2, whole.height))
    return np.asarray(across.resize((size, size), filter_, box=(0, y - side / 2, size, y + side / 2)))


@pytest.mark.parametrize("filter_", list(Image.Resampling), ids=lambda each: each.name)
@given(x=st.floats(0, 60), y=st.floats(0, 40), side=st.floats(1, 18), size=st.integers(1, 24))
@example(x=17.0, y=17.0, side=1.00001, size=3)
@example(x=0.5, y=39.5, side=10 / 3, size=6)  # beyond two borders
def test_a_patch_does_not_depend_on_how_the_image_is_read(readings, filter_, x, y, side, size):
    held, *tiled = (PatchCutter(slide, np.array([[x, y]]), side).cut(0, size, filter_) for slide in readings)
    for found in tiled:
        np.testing.assert_array_equal(found, held)


# Not of those with a sharp edge: the last bit of a number decides on which side of it a pixel lies.
@pytest.mark.parametrize(
    "filter_",
    sorted(set(Image.Resampling) - {Image.Resampling.NEAREST, Image.Resampling.BOX}),
    ids=lambda each: each.name,
)
@given(x=st.floats(9, 50), y=st.floats(9, 30), side=st.floats(1, 18), size=st.integers(1, 24))
@example(x=17.0, y=17.0, side=1.00001, size=3)
@example(x=9.0, y=9.5, side=10.0, size=16)  # Pillow begins with the longer axis of a window
def test_a_window_gives_what_the_whole_image_would(readings, filter_, x, y, side, size):
    """The filter reaches past the patch, so the window must too."""
    expected = resized_whole(x, y, side, size, filter_)
    for slide in readings:
        found = PatchCutter(slide, np.array([[x, y]]), side).cut(0, size, filter_)
        np.testing.assert_array_equal(found, expected)


def test_a_place_far_from_the_corner_is_cut_as_exactly(tmp_path):
    """Single precision tells positions apart to 1/512 px here: the window must take the same one."""
    with TiffWriter(tmp_path / "wide.tif") as file:
        wide = np.tile(NOISE, (1, 300, 1))
        file.write(wide, photometric="rgb", tile=(16, 16))
    Image.fromarray(wide).save(tmp_path / "wide.png")
    centres = np.array([[17_000 + i / 7, 20.3] for i in range(10)])
    cut = []
    for name in ("wide.tif", "wide.png"):
        with ng.im.open_slide(tmp_path / name) as slide:
            cutter = PatchCutter(slide, centres, 11.3)
            cut.append([cutter.cut(i, 7, filter_) for i in range(10) for filter_ in Image.Resampling])
    np.testing.assert_array_equal(*cut)


def test_half_a_pixel_moves_the_patch_by_half_a_pixel(tmp_path):
    ramp = np.repeat(np.arange(0, 240, 4, dtype=np.uint8)[None, :, None], 40, axis=0).repeat(3, axis=2)
    cutter = cutter_of(ramp, np.array([[30.0, 20.0], [30.5, 20.0]]), 16, tmp_path)
    whole, half = (cutter.cut(i, 16, Image.Resampling.BILINEAR).astype(int) for i in (0, 1))
    np.testing.assert_array_equal(half - whole, 2)


def test_downsampling_is_antialiased(tmp_path):
    checker = np.indices((64, 64)).sum(axis=0) % 2 * 255
    image = np.repeat(checker[..., None], 3, axis=2).astype(np.uint8)
    patch = cutter_of(image, np.array([[32.0, 32.0]]), 64, tmp_path).cut(0, 8, Image.Resampling.BICUBIC)
    assert np.abs(patch.astype(int) - 127).max() <= 2


def test_scans_of_any_resolution_give_the_same_patch(make_section):
    fine, coarse = (np.stack(list(ng.im.patches(make_section(scale), 112.0, 64))).astype(int) for scale in (0.5, 3.0))
    assert fine.shape == (9, 64, 64, 3)
    assert np.abs(fine - coarse).mean() < 1
    other = np.stack(list(ng.im.patches(make_section(3.0), 150.0, 64))).astype(int)
    assert np.abs(fine - other).mean() > 20


def test_white_beyond_the_image_and_nowhere_else(make_section):
    dark = np.full((200, 200, 3), 40, dtype=np.uint8)
    adata = make_section(1.0, np.array([[0.0, 100.0], [28.0, 28.0]]), dark)
    border, touching = ng.im.patches(adata, 56.0, 56)
    assert (border[:, :28] == 255).all()
    assert (border[:, 28:] == 40).all()
    assert (touching == 40).all()


def test_indices_choose_and_order(make_section):
    adata = make_section()
    every = list(ng.im.patches(adata, size_px=32))
    some = list(ng.im.patches(adata, size_px=32, indices=[4, 0]))
    np.testing.assert_array_equal(some, [every[4], every[0]])


def test_the_image_is_opened_to_check_and_to_cut_and_closed(make_section, monkeypatch):
    opened = []
    original = _patches.open_image

    @contextmanager
    def spy(adata):
        with original(adata) as slide:
            opened.append(slide)
            yield slide

    monkeypatch.setattr(_patches, "open_image", spy)
    cut = ng.im.patches(make_section(), size_px=16)
    assert len(opened) == 1, "to look at its size"
    assert len(list(cut)) == 9
    assert len(opened) == 2
    with pytest.raises(ValueError, match="closed image"):
        PatchCutter(opened[1], np.full((1, 2), 100.0), 16.0).cut(0, 16, Image.Resampling.BOX)


def test_a_patch_comes_from_the_coarsest_level_that_is_fine_enough(make_section, tmp_path):
    """Of patches 224 px wide at full resolution, 112 px need every second pixel and 80 px more than every fourth."""
    path = write_pyramid(tmp_path / "slide.tif", 1024, microns_per_pixel=0.5)
    adata = make_section(0.5, np.array([[250.0, 240.0], [30.0, 260.0], [505.0, 500.0]]))
    (entry,) = adata.uns[Key.uns.spatial].values()
    entry[Key.library.metadata][Key.library.source_image] = str(path)
    flat = tmp_path / "flat.png"
    with ng.im.open_slide(path) as slide:
        assert slide.downsamples == [1, 2, 4]
        Image.fromarray(np.asarray(slide.region(0, (0, 0, 1024, 1024))[0])).save(flat)
        cutter = PatchCutter(slide, adata.obsm[Key.obsm.spatial], 224.0)
        assert [cutter.level(size) for size in (448, 224, 223, 112, 80, 56, 20)] == [0, 0, 0, 1, 1, 2, 2]
    for size in (224, 112, 56):
        by_level = np.stack(list(ng.im.patches(adata, 112.0, size))).astype(int)
        entry[Key.library.metadata][Key.library.source_image] = str(flat)
        at_full = np.stack(list(ng.im.patches(adata, 112.0, size))).astype(int)
        entry[Key.library.metadata][Key.library.source_image] = str(path)
        # Not the same filter, but the same tissue, to a fraction of a pixel.
        off = np.abs(by_level - at_full).mean()
        assert off < 2
        assert np.abs(np.roll(by_level, 2, axis=2) - at_full).mean() > 1.5 * off + 0.3


@pytest.mark.parametrize(
    ("patch_um", "message"),
    [
        (0.5, "'S1'.* patch_um=0.5 is 0.167 px .*less than one pixel.* 3 um"),
        (5000.0, r"'S1'.* patch_um=5000.0 .*200 x 160 px.*metadata\['microns_per_pixel'\]"),
        (0.0, "patch_um=0.0.*above 0"),
        (float("nan"), "patch_um=nan.*above 0"),
    ],
)
def test_sizes_that_cannot_be_cut(make_section, patch_um, message):
    with pytest.raises(ConfigError, match=message):
        ng.im.patches(make_section(3.0), patch_um)


def test_bad_arguments_are_refused_before_the_first_patch(make_section):
    adata = make_section()
    with pytest.raises(ConfigError, match="size_px=0"):
        ng.im.patches(adata, size_px=0)
    with pytest.raises(ConfigError, match=r"interpolation='cubical'.*bicubic"):
        ng.im.patches(adata, interpolation="cubical")
    adata.obsm[Key.obsm.spatial][3] = [9999, 10]
    with pytest.raises(ImageError, match="'S1': 1 of 9 spots lie outside the image"):
        ng.im.patches(adata)

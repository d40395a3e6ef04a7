"""squidpy's ImageContainer gives the pixels that a file would, wherever it was cut from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

import nh2st_graph as ng
from nh2st_graph import ImageError
from nh2st_graph.slide import open_full, placed_image

sq_im = pytest.importorskip("squidpy").im
ENCODER = "squidpy:summary"


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    """An image of smooth colours, so that a place has a colour."""
    y, x = np.mgrid[:300, :400]
    return np.stack([x * 0.6, y * 0.8, (x + y) * 0.3], axis=-1).astype(np.uint8)


def container(pixels: NDArray[np.uint8], **kwargs: object):
    return sq_im.ImageContainer(pixels, layer="image", dims=("y", "x", "channels"), **kwargs)


@pytest.fixture
def section(pixels: NDArray[np.uint8], tmp_path: Path) -> AnnData:
    """Spots at 2 um per pixel on an image in a file."""
    from PIL import Image

    Image.fromarray(pixels).save(tmp_path / "image.png")
    spots = AnnData(obsm={"spatial": np.array([[100.0, 120], [150, 140], [180.5, 160.25]])})
    spots.obs_names = list("abc")
    return ng.read.anndata_section(spots, tmp_path / "image.png", 2.0, section="A", patient="P")


def test_pixels_are_the_same(pixels: NDArray[np.uint8]) -> None:
    placed = placed_image(container(pixels), "A")
    with open_full(placed.path) as image:
        assert_array_equal(np.asarray(image), pixels)
    assert_array_equal(placed.pixels(np.array([[3, 4]])), [[3.0, 4.0]])


# whole, cropped, cropped beyond the border
@pytest.mark.parametrize(
    "cut",
    [
        lambda whole: whole,
        lambda whole: whole.crop_corner(30, 20, size=(220, 320)),
        lambda whole: whole.crop_corner(-40, -50, size=(330, 420)),
    ],
)
def test_spots_see_the_same_patches(pixels: NDArray[np.uint8], section: AnnData, cut: Callable) -> None:
    expected = ng.im.features(section, ENCODER, cache=False, copy=True).obsm["X_image"]
    given = ng.im.features(section, ENCODER, img=cut(container(pixels)), cache=False, copy=True)
    assert_array_equal(given.obsm["X_image"], expected)
    assert_array_equal(given.obsm["spatial"], section.obsm["spatial"])


def test_a_scaled_container_shows_the_same_tissue(pixels: NDArray[np.uint8], section: AnnData) -> None:
    half = container(pixels).crop_corner(0, 0, size=(300, 400), scale=0.5)
    expected = ng.im.features(section, ENCODER, cache=False, copy=True).obsm["X_image"]
    given = ng.im.features(section, ENCODER, img=half, cache=False, copy=True).obsm["X_image"]
    assert_allclose(given, expected, atol=4)


def test_a_section_is_made_of_one(pixels: NDArray[np.uint8], section: AnnData) -> None:
    crop = container(pixels).crop_corner(30, 20, size=(220, 320))
    plain = AnnData(obs=section.obs[[]], obsm={"spatial": section.obsm["spatial"]})
    made = ng.read.anndata_section(plain, crop, 2.0, section="A")
    assert_array_equal(made.obsm["spatial"], section.obsm["spatial"] - [20, 30])
    expected = ng.im.features(section, ENCODER, copy=True).obsm["X_image"]
    assert_array_equal(ng.im.features(made, ENCODER, copy=True).obsm["X_image"], expected)


def test_z_positions_are_named_by_sections(pixels: NDArray[np.uint8]) -> None:
    stack = np.stack([pixels, 255 - pixels], axis=2)
    both = sq_im.ImageContainer(stack, layer="image", dims=("y", "x", "z", "channels"), library_id=["A", "B"])
    with open_full(placed_image(both, "B").path) as image:
        assert_array_equal(np.asarray(image), 255 - pixels)
    with pytest.raises(ImageError, match=r"section 'C': .* 2 z positions \(A, B\), and none has its name"):
        placed_image(both, "C")


def test_what_is_no_image(pixels: NDArray[np.uint8]) -> None:
    with pytest.raises(ImageError, match=r"section 'A': ndarray is not an image; .*ImageContainer"):
        placed_image(pixels, "A")
    two = container(pixels)
    two.add_img(pixels, layer="stain", dims=("y", "x", "channels"))
    with pytest.raises(ImageError, match=r"2 layers \(image, stain\); name one"):
        placed_image(two, "A")
    with pytest.raises(ImageError, match=r"no layer 'stein'.*'stain'"):
        placed_image(two, "A", layer="stein")
    assert placed_image(two, "A", layer="stain").path == placed_image(two, "A", layer="image").path
    with pytest.raises(ImageError, match="3 channels of float64"):
        placed_image(container(pixels / 255), "A")

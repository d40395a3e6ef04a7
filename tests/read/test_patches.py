from __future__ import annotations

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nh2st_graph import DataError, ImageError
from nh2st_graph.read import _patches
from nh2st_graph.read._patches import mosaic, patch_names, slide_scale


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NH2ST_GRAPH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def write(tmp_path):
    def make(images, names, **others):
        path = tmp_path / "S.h5"
        with h5py.File(path, "w") as file:
            file["img"] = images
            file["barcode"] = names
            for key, value in others.items():
                file[key] = value
        return path

    return make


@pytest.fixture
def overlapping():
    """Twelve patches of 16 px (7 um each) around spots 100 um apart, in no order."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(4), np.arange(3)), axis=-1).reshape(-1, 2)
    centres = rng.permutation(grid * 200.0 + rng.uniform(0, 5, grid.shape) + 1000)
    return rng.integers(0, 255, (12, 16, 16, 3), dtype=np.uint8), [f"b{i:02d}" for i in range(12)], centres


@pytest.mark.parametrize("kind", ["S", object])
@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_barcodes_of_any_kind(write, overlapping, kind, shape):
    images, names, _ = overlapping
    assert list(patch_names(write(images, np.array(names, dtype=kind).reshape(shape)), "S")) == names


@pytest.mark.parametrize("tile", [32, 1024])
def test_image_is_the_patches_pasted_one_by_one(write, overlapping, monkeypatch, tile):
    monkeypatch.setattr(_patches, "_TILE", tile)
    images, names, centres = overlapping
    made = mosaic(write(images, names), pd.Index(names), centres, 0.5, "S")
    corners = (made.spatial - 8).astype(int)
    expected = np.full((corners[:, 1].max() + 16, corners[:, 0].max() + 16, 3), 255, dtype=np.uint8)
    for (x, y), patch in zip(corners, images, strict=True):  # names are in this order
        expected[y : y + 16, x : x + 16] = patch
    with Image.open(made.image) as opened:
        np.testing.assert_array_equal(np.asarray(opened), expected)
    assert made.microns_per_pixel == 7
    um = (made.spatial - made.spatial[0]) * 7
    assert np.abs(um - (centres - centres[0]) * 0.5).max() <= 7


def test_order_of_patches_and_spots_changes_nothing(write, overlapping):
    images, names, centres = overlapping
    order, spots = np.random.default_rng(1).permutation(12), np.random.default_rng(2).permutation(12)
    made = mosaic(write(images, names), pd.Index(names), centres, 0.5, "S")
    before = made.image.read_bytes()
    path = write(images[order], [names[i] for i in order])
    again = mosaic(path, pd.Index(names)[spots], centres[spots], 0.5, "S")
    assert again.image.read_bytes() == before
    np.testing.assert_array_equal(again.spatial, made.spatial[spots])


def test_image_is_made_once(write, overlapping):
    images, names, centres = overlapping
    path = write(images, names)
    first = mosaic(path, pd.Index(names), centres, 0.5, "S")
    time = first.image.stat().st_mtime_ns
    assert mosaic(path, pd.Index(names), centres, 0.5, "S").image.stat().st_mtime_ns == time
    assert mosaic(path, pd.Index(names[:5]), centres[:5], 0.5, "S").image != first.image
    assert not [p for p in first.image.parent.iterdir() if p.name.startswith(".")]


def test_a_cache_that_cannot_be_written_to(write, overlapping, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NH2ST_GRAPH_CACHE", str(tmp_path / "file"))
    images, names, centres = overlapping
    with pytest.raises(ImageError, match=r"cannot be written to .*set NH2ST_GRAPH_CACHE"):
        mosaic(write(images, names), pd.Index(names), centres, 0.5, "S")


@pytest.mark.parametrize("side", [224, 244, 245, 308, 409, 527])
def test_scale_from_corners(write, side):
    centres = np.random.default_rng(side).uniform(1000, 9000, (20, 2))
    names = [f"b{i}" for i in range(20)]
    corners = (centres - side // 2).astype(int)
    path = write(np.zeros((20, 2, 2, 3), np.uint8), names[::-1], coords=corners[::-1])
    assert slide_scale(path, pd.Index(names), centres, "S") == pytest.approx(112 / side, rel=5e-3)


def test_coordinates_that_do_not_tell_the_scale(write):
    names, centres = ["a", "b"], np.array([[500.0, 700.0], [900.0, 800.0]])
    path = write(np.zeros((2, 2, 2, 3), np.uint8), names, coords=centres + np.array([[0, 0], [50, 3]]))
    with pytest.raises(DataError, match=r"coords in .*S\.h5: they are not the upper left corners"):
        slide_scale(path, pd.Index(names), centres, "S")


BAD_FILES = {
    "no barcodes": (lambda file: file.__delitem__("barcode"), r"S\.h5 has no barcode \(there: img\)"),
    "barcode twice": (lambda file: file["barcode"].__setitem__(1, b"a"), "spot 'a' occurs more than once"),
    "other number": (lambda file: _replace(file, "img", np.zeros((3, 2, 2, 3), np.uint8)), "and 2 barcodes"),
    "not square": (lambda file: _replace(file, "img", np.zeros((2, 2, 4, 3), np.uint8)), r"shape \(2, 2, 4, 3\)"),
    "not images": (lambda file: _replace(file, "img", np.zeros((2, 2))), r"shape \(2, 2\)"),
}


def _replace(file, key, value):
    del file[key]
    file[key] = value


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_give_one_line(write, case):
    spoil, message = BAD_FILES[case]
    path = write(np.zeros((2, 2, 2, 3), np.uint8), np.array(["a", "b"], dtype="S1"))
    with h5py.File(path, "r+") as file:
        spoil(file)
    with pytest.raises(DataError, match=message) as caught:
        patch_names(path, "section 'S'")
    assert "\n" not in str(caught.value)


def test_foreign_file(tmp_path):
    path = tmp_path / "S.h5"
    path.write_text("not HDF5")
    with pytest.raises(DataError, match=r"S\.h5 cannot be read as HDF5"):
        patch_names(path, "section 'S'")

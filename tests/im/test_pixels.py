"""Patches as features: bytes in a known order, exact where nothing is resampled, means where the patch shrinks."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from safetensors.numpy import load_file

import nh2st_graph as ng
from nh2st_graph import ConfigError
from nh2st_graph.im import PixelsEncoder, make_encoders
from nh2st_graph.section import Key, check_section, full_image
from nh2st_graph.slide import open_full

NOISE = np.random.default_rng(0).integers(0, 256, (480, 600, 3), dtype=np.uint8)


def image_features(adata: ad.AnnData, encoder: str, **options) -> np.ndarray:
    ng.im.features(adata, encoder, 112.0, progress=False, **options)
    return adata.obsm[Key.obsm.image].copy()


def box(image: np.ndarray, centre: np.ndarray, side: int) -> np.ndarray:
    left, top = (round(float(c) - side / 2) for c in centre)
    return image[top : top + side, left : left + side]


def test_a_value_is_where_its_name_says():
    patches = np.random.default_rng(1).integers(0, 256, (4, 5, 5, 3), dtype=np.uint8)
    (encoder,) = make_encoders("pixels:5")
    assert isinstance(encoder, PixelsEncoder)
    values = encoder.encode(patches)
    assert values.shape == (4, encoder.n_features) == (4, 75)
    assert values.dtype == np.uint8
    assert encoder.feature_names[:4] == ["pixels_0_0_r", "pixels_0_0_g", "pixels_0_0_b", "pixels_0_1_r"]
    for i, name in enumerate(encoder.feature_names):
        _, row, column, colour = name.split("_")
        np.testing.assert_array_equal(values[:, i], patches[:, int(row), int(column), "rgb".index(colour)])
    np.testing.assert_array_equal(values.reshape(4, 5, 5, 3), patches)


@pytest.mark.parametrize("side", ["0", "-3", "1.5", "x", "07", " 7", "٣"])
def test_a_side_that_is_no_whole_number_is_refused(side):
    with pytest.raises(ConfigError, match=r"encoder='pixels:.* whole number"):
        PixelsEncoder(side)


# What happens to the image


def test_a_patch_of_its_own_size_is_the_image(make_section):
    adata = make_section(image=NOISE)
    adata.obsm[Key.obsm.spatial][1] += 0.3
    values = image_features(adata, "pixels:112").reshape(-1, 112, 112, 3)
    for patch, centre in zip(values, adata.obsm[Key.obsm.spatial], strict=True):
        np.testing.assert_array_equal(patch, box(NOISE, centre, 112))


@pytest.mark.parametrize("size", [1, 7, 28])
def test_a_shrunk_patch_is_the_mean_of_its_parts(make_section, size):
    """On noise, where leaving out a pixel shows."""
    adata = make_section(image=NOISE)
    values = image_features(adata, f"pixels:{size}").reshape(-1, size, size, 3)
    step = 112 // size
    for patch, centre in zip(values, adata.obsm[Key.obsm.spatial], strict=True):
        parts = box(NOISE, centre, 112).reshape(size, step, size, step, 3)
        np.testing.assert_allclose(patch, parts.mean(axis=(1, 3)), atol=1)


def test_one_pixel_is_the_mean_colour_at_any_scale_and_place(make_section):
    for scale in (0.53, 0.7):
        adata = make_section(scale)
        centres = adata.obsm[Key.obsm.spatial] + np.random.default_rng(2).uniform(-1, 1, (9, 2))
        adata.obsm[Key.obsm.spatial] = centres
        values = image_features(adata, "pixels:1")
        with open_full(full_image(adata).path) as image:
            pixels = np.asarray(image)
        for colour, centre in zip(values, centres, strict=True):
            patch = box(pixels, centre, round(112 / scale))
            np.testing.assert_allclose(colour, patch.mean(axis=(0, 1)), atol=1)


# Bytes all the way


def test_pixels_stay_bytes_in_the_section_the_cache_and_a_file(make_section, own_cache, tmp_path):
    adata = make_section()
    first = image_features(adata, "pixels:16")
    assert first.dtype == np.uint8
    check_section(adata, need=("features",))
    (file,) = own_cache.iterdir()
    assert load_file(file)["features"].dtype == np.uint8
    again = image_features(adata[::-1].copy(), "pixels:16")
    assert again.dtype == np.uint8
    np.testing.assert_array_equal(again[::-1], first)
    adata.write_h5ad(tmp_path / "section.h5ad")
    back = ad.read_h5ad(tmp_path / "section.h5ad").obsm[Key.obsm.image]
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, first)


def test_joined_features_are_bytes_where_all_are(make_section):
    adata = make_section()
    squidpy = image_features(adata, "squidpy:summary")
    one, two = (image_features(adata, f"pixels:{side}") for side in (1, 2))
    both, mixed = image_features(adata, "pixels:2,pixels:1"), image_features(adata, "pixels:1,squidpy:summary")
    assert (both.dtype, mixed.dtype) == (np.uint8, np.float32)
    np.testing.assert_array_equal(both, np.hstack([two, one]))
    np.testing.assert_array_equal(mixed, np.hstack([one, squidpy]))

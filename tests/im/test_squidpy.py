from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.feature import graycomatrix, graycoprops
from squidpy.im import ImageContainer

from nh2st_graph import ConfigError
from nh2st_graph.im import SquidpyEncoder

PATCHES = np.random.default_rng(0).integers(60, 200, (2, 112, 112, 3), dtype=np.uint8)


def test_equals_the_definitions():
    encoder = SquidpyEncoder("summary+texture+histogram")
    values = encoder.encode(PATCHES)
    assert values.shape == (2, encoder.n_features) == (2, 15 + 60 + 30)
    assert values.dtype == np.float32
    column = {name: values[:, i] for i, name in enumerate(encoder.feature_names)}
    for c in range(3):
        channel = PATCHES[..., c]
        np.testing.assert_allclose(column[f"summary_ch-{c}_mean"], channel.mean(axis=(1, 2)), rtol=1e-6)
        np.testing.assert_allclose(column[f"summary_ch-{c}_quantile-0.1"], np.quantile(channel, 0.1, (1, 2)))
        for patch, row in zip(channel, range(2), strict=True):
            counts = np.histogram(patch, bins=10, range=(0, 255))[0]
            np.testing.assert_array_equal([column[f"histogram_ch-{c}_bin-{b}"][row] for b in range(10)], counts)
            contrast = graycoprops(graycomatrix(patch, [1], [0], levels=256), "contrast")[0, 0]
            np.testing.assert_allclose(column[f"texture_ch-{c}_contrast_dist-1_angle-0.00"][row], contrast)


@given(side=st.integers(1, 9), values=st.integers(1, 255), seed=st.integers(0, 99))
def test_the_summary_is_squidpys(side, values, seed):
    patches = np.random.default_rng(seed).integers(0, values, (2, side, side + 1, 3), dtype=np.uint8, endpoint=True)
    expected = [
        list(ImageContainer(patch, layer="image", dims=("y", "x", "channels")).features_summary("image").values())
        for patch in patches
    ]
    np.testing.assert_array_equal(SquidpyEncoder("summary").encode(patches), np.array(expected, np.float32))


def test_histogram_bins_are_the_same_for_every_patch():
    dark, bright = np.full((2, 112, 112, 3), 20, dtype=np.uint8)
    bright = bright + np.uint8(200)
    values = SquidpyEncoder("histogram").encode(np.stack([dark, bright])).reshape(2, 3, 10)
    assert (values.argmax(axis=2) == [[0], [8]]).all()
    assert (values.sum(axis=2) == 112**2).all()


def test_a_row_depends_on_its_own_patch_alone():
    encoder = SquidpyEncoder()
    together = encoder.encode(PATCHES)
    np.testing.assert_array_equal(together[::-1], encoder.encode(PATCHES[::-1]))
    np.testing.assert_array_equal(together[1:2], encoder.encode(PATCHES[1:2]))


def test_blank_patches_give_numbers():
    assert np.isfinite(SquidpyEncoder().encode(np.full((1, 112, 112, 3), 255, dtype=np.uint8))).all()


def test_parts_have_one_order():
    one, other = SquidpyEncoder("texture+summary"), SquidpyEncoder("summary+texture")
    assert one.fingerprint == other.fingerprint
    np.testing.assert_array_equal(one.encode(PATCHES), other.encode(PATCHES))
    assert one.fingerprint != SquidpyEncoder("texture").fingerprint


@pytest.mark.parametrize(
    ("parts", "message"),
    [("sumary", "encoder='squidpy:sumary'.*'summary'"), ("summary+summary", "'summary' occurs twice")],
)
def test_bad_parts(parts, message):
    with pytest.raises(ConfigError, match=message):
        SquidpyEncoder(parts)

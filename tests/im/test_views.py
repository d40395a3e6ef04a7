from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import nh2st_graph as ng
from nh2st_graph import ConfigError
from nh2st_graph.im import Encoder, PixelsEncoder, TimmEncoder, TimmMapEncoder
from nh2st_graph.im._views import ViewsEncoder, in_views
from nh2st_graph.section import Key


class Weighted(Encoder):
    """Sums of a patch with weights that no symmetry keeps."""

    name, input_size = "weighted:1", 6
    normalisation: dict = {}  # noqa: RUF012
    fingerprint: dict = {"encoder": "weighted"}  # noqa: RUF012
    weights = np.random.default_rng(0).normal(size=(6 * 6 * 3, 4)).astype(np.float32)

    def encode(self, patches):
        return patches.reshape(len(patches), -1).astype(np.float32) @ self.weights


def images_of(patches):
    """The eight images of each patch under the symmetries of the square."""
    return [np.rot90(each, k, axes=(1, 2)) for each in (patches, patches[:, :, ::-1]) for k in range(4)]


@given(patches=arrays(np.uint8, (2, 6, 6, 3)), turn=st.integers(0, 7))
def test_features_over_eight_views_are_those_of_any_image_of_the_patch(patches, turn):
    encoder = ViewsEncoder(Weighted(), 8)
    first, second = encoder.encode(patches), encoder.encode(np.ascontiguousarray(images_of(patches)[turn]))
    np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-3)


def test_a_network_does_not_see_how_tissue_lies():
    plain = TimmEncoder("test_resnet@random", "cpu")
    size = plain.input_size
    patches = np.random.default_rng(0).integers(0, 255, (1, size, size, 3), dtype=np.uint8)
    encoder = in_views(plain, 8)
    turned = np.concatenate([np.ascontiguousarray(each) for each in images_of(patches)[::3]])
    found = np.concatenate([encoder.encode(each[None]) for each in turned])
    np.testing.assert_allclose(found, found[:1].repeat(len(found), axis=0), rtol=1e-4, atol=1e-5)
    assert encoder.feature_names == plain.feature_names
    assert encoder.n_features == plain.n_features


@pytest.mark.parametrize("views", [4, 8])
def test_they_are_the_mean(views):
    patches = np.random.default_rng(1).integers(0, 255, (3, 6, 6, 3), dtype=np.uint8)
    plain = Weighted()
    expected = np.mean([plain.encode(each) for each in images_of(patches)[:views]], axis=0, dtype=np.float64)
    np.testing.assert_allclose(ViewsEncoder(plain, views).encode(patches), expected, rtol=1e-6)


def test_one_view_is_the_encoder_itself():
    plain = Weighted()
    assert in_views(plain, 1) is plain


@pytest.mark.parametrize("encoder", [PixelsEncoder("4"), TimmMapEncoder("test_resnet@random", "cpu")])
def test_places_of_the_patch_have_no_mean(encoder):
    with pytest.raises(ConfigError, match=rf"views=4: .*{encoder.name}.*views=1"):
        in_views(encoder, 4)


def test_other_numbers_are_refused():
    with pytest.raises(ConfigError, match="views=2"):
        in_views(Weighted(), 2)


def test_they_have_a_cache_of_their_own_and_are_said(make_section):
    adata = make_section()
    entries = []
    for views in (1, 4):
        ng.im.features(adata, "squidpy:summary,timm:test_resnet@random", views=views, progress=False)
        entries.append((adata.uns[Key.uns.image], adata.obsm[Key.obsm.image].copy()))
    (one, plain), (four, mean) = entries
    assert one["cache_key"][0] != four["cache_key"][0]
    assert Key.features.views not in one
    assert four[Key.features.views] == 4
    np.testing.assert_allclose(mean[:, :15], plain[:, :15], rtol=1e-5)  # a summary does not see how the patch lies
    assert not np.allclose(mean, plain)

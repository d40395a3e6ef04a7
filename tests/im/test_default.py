"""``auto``: the encoders that are chosen for whoever names none."""

from __future__ import annotations

import logging

import numpy as np
import pytest

import nh2st_graph as ng
from nh2st_graph import ConfigError
from nh2st_graph.im import _default, explicit_blocks, make_encoders
from nh2st_graph.im._default import in_full, is_packaged

SCALES = (112.0, 224.0, 448.0)
PLAIN = [("handcrafted", size) for size in SCALES]
PRETRAINED = [("efficientnet-lite0", size) for size in SCALES]


@pytest.fixture(autouse=True)
def without(monkeypatch):
    """Without the weights of the extra, as the plain package is installed."""
    monkeypatch.setattr(_default, "is_packaged", lambda package: False)
    _default._say.cache_clear()


@pytest.fixture
def with_extra(monkeypatch):
    monkeypatch.setattr(_default, "is_packaged", lambda package: True)


def test_is_handcrafted_at_three_scales(caplog):
    with caplog.at_level(logging.INFO):
        assert in_full([("auto", "auto")]) == PLAIN
        assert explicit_blocks([("auto", "auto")]) == PLAIN
    (record,) = caplog.records
    assert "handcrafted at 112, 224, 448 um" in record.message
    assert "pip install" in record.message
    assert "nh2st-graph[imagenet]" in record.message


def test_efficientnet_joins_where_its_weights_are(with_extra, caplog):
    with caplog.at_level(logging.INFO):
        assert explicit_blocks([("auto", "auto")]) == [*PLAIN, *PRETRAINED]
    assert "handcrafted and efficientnet-lite0" in caplog.text
    assert "pip install" not in caplog.text


def test_a_size_beside_it_is_the_only_one(with_extra):
    assert explicit_blocks([("auto", 56)]) == [("handcrafted", 56.0), ("efficientnet-lite0", 56.0)]


def test_other_encoders_stay_in_their_order():
    assert explicit_blocks([("a", 5), ("auto", 9), ("b", 7.5)]) == [("a", 5.0), ("handcrafted", 9.0), ("b", 7.5)]


@pytest.mark.parametrize(("package", "there"), [("numpy", True), ("no-such-package-of-weights", False)])
def test_a_package_is_found_without_importing_it(package, there):
    assert is_packaged(package) is there


def test_is_no_name_of_one_encoder():
    with pytest.raises(ConfigError, match="auto stands for several"):
        make_encoders("squidpy:summary,auto")


def test_features_without_a_name(make_section):
    adata = make_section()
    ng.im.features(adata, progress=False)
    about = adata.uns["X_image"]
    assert list(about["encoders"]) == ["handcrafted:colour+stain+texture"] * 3
    assert list(about["patch_um"]) == list(SCALES)
    expected = make_section()
    ng.im.features(expected, PLAIN, progress=False)
    np.testing.assert_array_equal(adata.obsm["X_image"], expected.obsm["X_image"])
    ng.im.features(adata, patch_um=100, progress=False)
    assert adata.uns["X_image"]["patch_um"] == 100

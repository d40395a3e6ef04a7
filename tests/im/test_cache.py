from __future__ import annotations

import hashlib
import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

import nh2st_graph as ng
from nh2st_graph.im import SquidpyEncoder
from nh2st_graph.im._cache import FeatureBlock, FeatureCache, cache_folder, cache_key
from nh2st_graph.section import Key

BLOCK = FeatureBlock(["a", "ö b"], ["x", "y", "z"], np.arange(6, dtype=np.float32).reshape(2, 3))


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "a" / "b")


def test_round_trip(cache):
    assert cache.read("k") is None
    cache.write("k", BLOCK)
    back = cache.read("k")
    assert (back.spots, back.names) == (BLOCK.spots, BLOCK.names)
    np.testing.assert_array_equal(back.values, BLOCK.values)
    assert [p.name for p in cache.folder.iterdir()] == ["k.safetensors"]


def damage_flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: p.write_bytes(p.read_bytes()[:-5]),
        lambda p: p.write_bytes(b""),
        lambda p: p.write_bytes(b"\0" * 500),
        damage_flip,
    ],
    ids=["cut", "empty", "zeros", "flipped bit"],
)
def test_a_damaged_file_is_not_used(cache, caplog, damage):
    cache.write("k", BLOCK)
    damage(cache.path("k"))
    with caplog.at_level(logging.WARNING):
        assert cache.read("k") is None
    assert "k.safetensors are damaged" in caplog.text
    cache.write("k", BLOCK)
    np.testing.assert_array_equal(cache.read("k").values, BLOCK.values)


def test_bytes_stay_bytes(cache):
    block = FeatureBlock(["a", "b"], ["x", "y"], np.array([[0, 255], [128, 7]], dtype=np.uint8))
    cache.write("k", block)
    back = cache.read("k").values
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, block.values)


@pytest.mark.parametrize(("type_", "other"), [(np.uint8, (b'"U8"', b'"I8"')), (np.float32, (b'"F32"', b'"I32"'))])
def test_a_file_of_another_type_is_not_used(cache, type_, other):
    cache.write("k", FeatureBlock(["a"], ["x"], np.full((1, 1), 200, dtype=type_)))
    path = cache.path("k")
    path.write_bytes(path.read_bytes().replace(*other))
    assert cache.read("k") is None


def test_blocks_are_stored_side_by_side(cache):
    other = FeatureBlock(BLOCK.spots, ["v"], np.array([[7], [200]], dtype=np.uint8))
    cache.write("k", BLOCK, other)
    back = cache.read("k")
    assert back.names == ["x", "y", "z", "v"]
    np.testing.assert_array_equal(back.values, np.hstack([BLOCK.values, other.values]))
    assert back.values.dtype == np.float32


def test_large_features_stay_in_their_file_and_are_checked_all_the_same(cache, monkeypatch):
    monkeypatch.setattr("nh2st_graph.im._cache.MAPPED_BYTES", 1)
    monkeypatch.setattr("nh2st_graph.im._cache._BYTES", 12)  # a row
    cache.write("k", BLOCK)
    assert safetensors.numpy.load_file(cache.path("k"))["features"].tolist() == BLOCK.values.tolist()
    values = cache.read("k").values
    assert type(values) is np.ndarray
    assert isinstance(values.base, np.memmap)
    np.testing.assert_array_equal(values, BLOCK.values)
    with pytest.raises(ValueError, match="read-only"):
        values[0] = 0
    damage_flip(cache.path("k"))
    assert cache.read("k") is None


def test_a_file_under_another_key_is_not_used(cache):
    cache.write("k", BLOCK)
    cache.path("k").rename(cache.path("other"))
    assert cache.read("other") is None


def test_an_interrupted_write_leaves_nothing(cache, monkeypatch):
    cache.folder.mkdir(parents=True)

    def killed(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        cache.write("k", BLOCK)
    assert list(cache.folder.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    FeatureCache(tmp_path / "file" / "cache").write("k", BLOCK)
    assert "cannot be cached" in caplog.text


def test_no_folder_holds_nothing():
    cache = FeatureCache(None)
    cache.write("k", BLOCK)
    assert cache.read("k") is None


def test_where_the_folder_is(tmp_path, own_cache, monkeypatch):
    assert cache_folder(False) is None
    assert cache_folder(tmp_path) == tmp_path
    assert cache_folder(None) == own_cache
    monkeypatch.delenv("NH2ST_GRAPH_CACHE")
    folder = cache_folder(None)
    assert folder.is_absolute()
    assert folder.parts[-2:] == ("nh2st_graph", "features")


@pytest.mark.parametrize("block", [2, 2**16])
def test_the_key_is_that_of_all_spots_as_one_text(make_section, monkeypatch, block):
    """Whatever the block: features that are cached stay."""
    monkeypatch.setattr("nh2st_graph.im._cache._SPOTS", block)
    adata = make_section()[::-1].copy()
    adata.obs_names = [f'ö"{name}' for name in adata.obs_names]
    centres = adata.obsm[Key.obsm.spatial].tolist()
    content = {
        "format": 3,
        "image": "hash",
        "spots": sorted([name, x, y] for name, (x, y) in zip(adata.obs_names, centres, strict=True)),
        "patch_um": 112.0,
        "microns_per_pixel": 1.0,
        "encoder": {"encoder": "ü"},
        "downsample": 2.0,
    }
    expected = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    assert cache_key(adata, "hash", 112.0, 1.0, {"encoder": "ü"}, 2.0) == expected


def test_the_key_holds_what_the_features_depend_on(make_section):
    adata = make_section()
    key = cache_key(adata, "hash", 112.0, 1.0, {"encoder": "e"})
    assert len(key) == 64
    assert cache_key(adata[::-1], "hash", 112.0, 1.0, {"encoder": "e"}) == key
    moved, renamed = adata.copy(), adata.copy()
    moved.obsm[Key.obsm.spatial][0, 0] += 1e-6
    renamed.obs_names = [f"{name}'" for name in adata.obs_names]
    swapped = adata.copy()
    swapped.obs_names = list(adata.obs_names[::-1])
    others = [
        cache_key(adata, "other", 112.0, 1.0, {"encoder": "e"}),
        cache_key(adata, "hash", 112.5, 1.0, {"encoder": "e"}),
        cache_key(adata, "hash", 112.0, 1.1, {"encoder": "e"}),
        cache_key(adata, "hash", 112.0, 1.0, {"encoder": "f"}),
        cache_key(adata[:-1], "hash", 112.0, 1.0, {"encoder": "e"}),
        *(cache_key(a, "hash", 112.0, 1.0, {"encoder": "e"}) for a in (moved, renamed, swapped)),
    ]
    assert len({key, *others}) == 9


def test_several_that_need_the_same_features_compute_them_once(tiny_sections, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("nh2st_graph._files._POLL", 0.001)
    encode, encoded = SquidpyEncoder.encode, []

    def slow(self, patches):
        if len(patches) > 1:  # one alone tells how many features there are
            encoded.append(len(patches))
            end = time.monotonic() + 10
            while "another process computes these features" not in caplog.text and time.monotonic() < end:
                time.sleep(0.001)
        return encode(self, patches)

    monkeypatch.setattr(SquidpyEncoder, "encode", slow)

    def run(_: int) -> NDArray[np.float32]:
        section = tiny_sections["S3"].copy()
        ng.im.features(section, "squidpy:summary", 112, cache=tmp_path, progress=False, batch_size=16)
        return section.obsm["X_image"]

    with caplog.at_level("INFO"), ThreadPoolExecutor(3) as pool:
        first, *others = pool.map(run, range(3))
    assert sum(encoded) == tiny_sections["S3"].n_obs
    assert "another process computes these features; waiting for them" in caplog.text
    for other in others:
        assert_array_equal(other, first)
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]

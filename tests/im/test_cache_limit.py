"""The limit of the feature cache: what was not used for longest goes first, and what is in use stays."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from nh2st_graph import ConfigError
from nh2st_graph.im import _cache
from nh2st_graph.im._cache import FeatureBlock, FeatureCache
from nh2st_graph.im._cache_limit import LIMIT, cache_limit, cached, shrink_cache

BLOCK = FeatureBlock(["a", "b"], ["x"], np.ones((2, 1), np.float32))


def keys(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.safetensors")}


@pytest.fixture
def store(tmp_path: Path) -> FeatureCache:
    """Three files; the first is the oldest."""
    made = FeatureCache(tmp_path)
    for age, key in ((300, "first"), (200, "second"), (100, "third")):
        made.write(key, BLOCK, section="S1", encoder="mine:1")
        os.utime(tmp_path / f"{key}.safetensors", (1e9 - age, 1e9 - age))
    return made


def size(folder: Path) -> int:
    return (folder / "first.safetensors").stat().st_size


@pytest.mark.parametrize(("given", "expected"), [(None, 100e9), ("0.5", 0.5e9), ("inf", float("inf"))])
def test_the_limit_is_of_the_environment(monkeypatch, given, expected):
    monkeypatch.delenv(LIMIT, raising=False)
    if given is not None:
        monkeypatch.setenv(LIMIT, given)
    assert cache_limit() == expected


@pytest.mark.parametrize("given", ["0", "-1", "nan", "much"])
def test_what_is_no_limit(monkeypatch, given):
    monkeypatch.setenv(LIMIT, given)
    with pytest.raises(ConfigError, match=f"^{LIMIT}={given}; "):
        cache_limit()


def test_what_was_not_used_for_longest_goes_first(store, tmp_path):
    assert store.read("first") is not None  # its time is now
    store.limit = 3 * size(tmp_path)
    store.write("fourth", BLOCK, section="S1", encoder="mine:1")
    assert keys(tmp_path) == {"first", "third", "fourth"}


def test_what_was_just_written_stays_though_it_is_too_large(store, tmp_path):
    store.limit = 1
    store.write("fourth", BLOCK)
    assert keys(tmp_path) == {"fourth"}


def test_what_is_mapped_stays(store, tmp_path, monkeypatch):
    monkeypatch.setattr(_cache, "MAPPED_BYTES", 1)
    block = store.read("first")
    assert shrink_cache(tmp_path, 0) == [tmp_path / "second.safetensors", tmp_path / "third.safetensors"]
    assert block.values.tolist() == [[1], [1]]
    part = block.values[:1]
    del block
    assert shrink_cache(tmp_path, 0) == [], "a part of it is still there"
    del part
    assert shrink_cache(tmp_path, 0) == [tmp_path / "first.safetensors"]


def test_files_are_described_the_last_used_first(store, tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"x")
    os.utime(tmp_path / "bad.safetensors", (1, 1))
    found = cached(tmp_path)
    assert [each.path.stem for each in found] == ["third", "second", "first", "bad"]
    assert {(each.section, each.encoder, each.n_spots) for each in found[:3]} == {("S1", "mine:1", 2)}
    assert found[-1].encoder == "damaged"
    assert cached(tmp_path / "none") == []

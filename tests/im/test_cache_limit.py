"""The limit of the feature cache: what was not used for longest goes first, and what is in use stays."""

from __future__ import annotations

import os
import time
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from nh2st_graph import ConfigError
from nh2st_graph.im import _cache
from nh2st_graph.im._cache import FeatureBlock, FeatureCache
from nh2st_graph.im._cache_limit import LIMIT, cache_limit, cached, shrink_cache

BLOCK = FeatureBlock(["a", "b"], ["x"], np.ones((2, 1), np.float32))


#: Keys of features are digests; these are of short names.
NAMES = {sha256(name.encode()).hexdigest(): name for name in ("first", "second", "third", "fourth", "bad")}
KEYS = {name: key for key, name in NAMES.items()}


def file(folder: Path, name: str) -> Path:
    return folder / f"{KEYS[name]}.safetensors"


def keys(folder: Path) -> set[str]:
    return {NAMES[path.stem] for path in folder.glob("*.safetensors")}


@pytest.fixture
def store(tmp_path: Path) -> FeatureCache:
    """Three files; the first is the oldest."""
    made = FeatureCache(tmp_path)
    for age, key in ((300, "first"), (200, "second"), (100, "third")):
        made.write(KEYS[key], BLOCK, section="S1", encoder="mine:1")
        os.utime(file(tmp_path, key), (1e9 - age, 1e9 - age))
    return made


def size(folder: Path) -> int:
    return file(folder, "first").stat().st_size


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
    assert store.read(KEYS["first"]) is not None  # its time is now
    store.limit = 3 * size(tmp_path)
    store.write(KEYS["fourth"], BLOCK, section="S1", encoder="mine:1")
    assert keys(tmp_path) == {"first", "third", "fourth"}


def test_what_was_just_written_stays_though_it_is_too_large(store, tmp_path):
    store.limit = 1
    store.write(KEYS["fourth"], BLOCK)
    assert keys(tmp_path) == {"fourth"}


def test_what_is_mapped_stays(store, tmp_path, monkeypatch):
    monkeypatch.setattr(_cache, "MAPPED_BYTES", 1)
    block = store.read(KEYS["first"])
    assert shrink_cache(tmp_path, 0) == [file(tmp_path, "second"), file(tmp_path, "third")]
    assert block.values.tolist() == [[1], [1]]
    part = block.values[:1]
    del block
    assert shrink_cache(tmp_path, 0) == [], "a part of it is still there"
    del part
    assert shrink_cache(tmp_path, 0) == [file(tmp_path, "first")]


def test_files_are_described_the_last_used_first(store, tmp_path):
    file(tmp_path, "bad").write_bytes(b"x")
    os.utime(file(tmp_path, "bad"), (1, 1))
    found = cached(tmp_path)
    assert [NAMES[each.path.stem] for each in found] == ["third", "second", "first", "bad"]
    assert {(each.section, each.encoder, each.n_spots) for each in found[:3]} == {("S1", "mine:1", 2)}
    assert found[-1].encoder == "damaged"
    assert found[-1].patch_um == ""
    assert cached(tmp_path / "none") == []


def test_files_of_others_and_what_is_being_written_are_left_alone(store, tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"somebody's")
    old, new = (tmp_path / f".{KEYS['first']}.safetensors.{which}.part" for which in ("0a", "0b"))
    for part in (old, new):
        part.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    assert len(shrink_cache(tmp_path, 0)) == 3
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {weights.name, new.name}

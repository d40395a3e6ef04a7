"""HDF5 that declares more than it can hold, or whose strings are damaged."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import h5py
import numpy as np
import pytest

from nh2st_graph import DataError, read
from nh2st_graph.im._embedding_files import read_embeddings
from nh2st_graph.read import _hdf5
from nh2st_graph.read._h5ad import stored_encoders
from nh2st_graph.read._hdf5 import check_declared, check_heaps
from nh2st_graph.read._patches import patch_names

HUGE = (10**9, 10**6)


def refused(call, *names: str) -> None:
    with pytest.raises(DataError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line
    for name in (*names, "1,000,000,000 x 1,000,000", "GB", f"{_hdf5.MOST_A_BYTE:,}"):
        assert name in line


@pytest.mark.parametrize("key", ["X", "obsm/spatial", "layers/more", "uns/some/where"])
@pytest.mark.parametrize("how", [{}, {"backed": True}])
def test_an_h5ad(tiny_sections, tmp_path, key, how):
    path = tmp_path / "S3.h5ad"
    read.write_h5ad(tiny_sections["S3"], path)
    with h5py.File(path, "r+") as file:
        if key in file:
            del file[key]
        file.create_dataset(key, shape=HUGE, dtype=np.float32, chunks=(100, 100), compression="gzip")
    assert path.stat().st_size < 10**7
    refused(lambda: read.h5ad_section(path, **how), "S3.h5ad", key)


def test_patches_of_hest(tmp_path):
    path = tmp_path / "patches.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("img", shape=(*HUGE, 3), dtype=np.uint8, chunks=(1, 100, 3))
        file["barcode"] = [b"a"]
    refused(lambda: patch_names(path, "section 'X'"), "patches.h5", "img")


def test_what_is_packed_well_is_read(tmp_path, monkeypatch):
    path = tmp_path / "zeros.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.zeros((4096, 4096), np.uint8), chunks=(1024, 1024), compression="gzip")
        file["names"] = ["a", "b"]
        file["nothing"] = h5py.Empty("f4")
    monkeypatch.setattr(_hdf5, "FREE_BYTES", 0)
    check_declared(path)
    monkeypatch.setattr(_hdf5, "MOST_A_BYTE", 100)
    with pytest.raises(DataError, match="x declares 4,096 x 4,096 values"):
        check_declared(shutil.copy(path, tmp_path / "again.h5"))


def with_strings(path: Path) -> Path:
    """A file of all readers' names, whose strings lie in several heaps."""
    with h5py.File(path, "w") as file:
        file.attrs["kind"] = "strings"
        file["barcode"] = [f"spot {i}" for i in range(1000)]
        file["img"] = np.zeros((1000, 2, 2, 3), np.uint8)
    return path


def damage_heap(path: Path) -> None:
    """Give the first object of the last heap a size that goes beyond the heap, which h5py refuses, too."""
    content = bytearray(path.read_bytes())
    heap = content.rfind(b"GCOL\x01")
    struct.pack_into("<Q", content, heap + 16 + 8, struct.unpack_from("<Q", content, heap + 8)[0])
    path.write_bytes(content)


def test_whole_files_are_in_order(tmp_path, tiny_sections, monkeypatch):
    check_heaps(with_strings(tmp_path / "a.h5"))
    read.write_h5ad(tiny_sections["S3"], tmp_path / "S3.h5ad")
    monkeypatch.setattr(_hdf5, "_STEP", 100)
    check_heaps(tmp_path / "S3.h5ad")
    for latest in ("v108", "latest"):
        with h5py.File(tmp_path / "b.h5", "w", libver=latest) as file:
            file["names"] = ["a", "b"]
        check_heaps(tmp_path / "b.h5")


@pytest.mark.parametrize("call", [read.h5ad_section, read_embeddings, lambda path: patch_names(path, "section 'X'")])
def test_damaged_strings(tmp_path, call):
    path = with_strings(tmp_path / "S3.h5")
    damage_heap(path)
    with h5py.File(path) as file, pytest.raises((OSError, KeyError)):
        [file["barcode"][:], dict(file.attrs)]
    with pytest.raises(DataError, match=r"S3\.h5 is damaged: strings at byte [\d,]+ have no right size") as caught:
        call(path)
    assert "\n" not in str(caught.value)
    assert stored_encoders(path) == []


@pytest.mark.parametrize("searched", [4096, 2**29])
@pytest.mark.parametrize("step", [64, 1000, 2**24])
def test_they_are_found_wherever_they_lie(tmp_path, monkeypatch, step, searched):
    monkeypatch.setattr(_hdf5, "_STEP", step)
    monkeypatch.setattr(_hdf5, "_SEARCHED", searched)
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["before"] = np.ones(20_000, np.uint8)
        file["names"] = ["a", "b"]
    damage_heap(path)
    with pytest.raises(DataError, match="have no right size"):
        check_heaps(path)


def test_bytes_that_look_like_a_heap_do_no_harm(tmp_path):
    """Of another kind of file, of sizes of four bytes, or at the end of the file."""
    heap = b"GCOL\x01\0\0\0" + (4096).to_bytes(8, "little")
    for start in (b"", b"\x89HDF\r\n\x1a\n\0\0\0\0\0\x08\x04\0"):
        (tmp_path / "a").write_bytes(start + heap + bytes(4096))
        check_heaps(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"\x89HDF\r\n\x1a\n\0\0\0\0\0\x08\x08\0" + heap)
    check_heaps(tmp_path / "a")

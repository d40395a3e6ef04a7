"""HDF5 that declares more than it can hold."""

from __future__ import annotations

import shutil

import h5py
import numpy as np
import pytest

from nh2st_graph import DataError, read
from nh2st_graph.read import _hdf5
from nh2st_graph.read._hdf5 import check_declared
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

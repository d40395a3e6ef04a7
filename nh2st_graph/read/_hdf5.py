"""Refuse HDF5 files by the size that they declare, before anything is read: a file of 1 kB can declare terabytes."""

from __future__ import annotations

import math
from pathlib import Path

import h5py

from nh2st_graph._errors import DataError

__all__ = ["FREE_BYTES", "MOST_A_BYTE", "check_declared"]

#: More bytes than this are read only if the file has a byte for every 1,100 of them: deflate packs zeros to 1 in 1,032.
FREE_BYTES, MOST_A_BYTE = 2**29, 1100


def check_declared(path: Path) -> None:
    """Refuse an HDF5 file with a dataset that declares more than the file can hold; h5py's errors are not caught.

    Raises
    ------
    DataError
        If there is one.
    """

    def check(name: str, each: h5py.HLObject) -> None:
        if not isinstance(each, h5py.Dataset) or each.shape is None:
            return
        declared, stored = math.prod(each.shape) * each.dtype.itemsize, each.id.get_storage_size()
        if declared > max(FREE_BYTES, MOST_A_BYTE * stored):
            size = " x ".join(f"{n:,}" for n in each.shape)
            raise DataError(
                f"{path}: {name} declares {size} values, {declared / 1e9:,.1f} GB, of which the file holds {stored:,} "
                f"bytes; more than {FREE_BYTES / 1e9:.1f} GB are read only if there is a byte for every "
                f"{MOST_A_BYTE:,}: copy or write it again"
            )

    with h5py.File(path) as file:
        file.visititems(check)

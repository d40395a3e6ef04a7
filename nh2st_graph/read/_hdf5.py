"""Refuse HDF5 files that would take all memory or never end to read, before anything is read.

A file of 1 kB can declare terabytes. Of some files whose strings are damaged, as after an interrupted download, h5py
does not come back, and holds Python's lock meanwhile: no time limit or Ctrl-C would act.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import h5py

from nh2st_graph._errors import DataError

__all__ = ["FREE_BYTES", "MOST_A_BYTE", "check_declared", "check_heaps"]

#: More bytes than this are read only if the file has a byte for every 1,100 of them: deflate packs zeros to 1 in 1,032.
FREE_BYTES, MOST_A_BYTE = 2**29, 1100

#: How HDF5 begins, and a global heap, which holds strings: a signature, its version and size, and then its objects.
#: Each object has a number, a count of references and a size; number 0 is what is free, and its size is with these.
_FILE, _HEAP, _OBJECT = b"\x89HDF\r\n\x1a\n", b"GCOL\x01\0\0\0", struct.Struct("<HH4xQ")
#: Heaps are looked for in so many bytes at the beginning and at the end of a file, so many at a time.
_SEARCHED, _STEP = 2**29, 2**24


def check_declared(path: Path) -> None:
    """Refuse an HDF5 file with a dataset that declares more than the file can hold; h5py's errors are not caught.

    Raises
    ------
    DataError
        If there is one, or strings are damaged; see :func:`check_heaps`.
    """
    check_heaps(path)

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


def check_heaps(path: Path) -> None:
    """Refuse an HDF5 file whose strings are damaged: objects of a heap that do not follow each other up to its end.

    Raises
    ------
    DataError
        If there is one.
    """
    with path.open("rb") as file:
        for at in _heaps(file, path.stat().st_size):
            file.seek(at + len(_HEAP))
            size = int.from_bytes(file.read(8), "little")
            objects = max(size - 16, 0)
            if not _in_order(file.read(min(objects, _SEARCHED)), objects):
                raise DataError(f"{path} is damaged: strings at byte {at:,} have no right size; copy or write it again")


def _heaps(file: BinaryIO, n_bytes: int) -> Iterator[int]:
    """Find the global heaps of a file whose sizes have 8 bytes, as in nearly all."""
    start = file.read(16)
    if not start.startswith(_FILE) or start[14 if start[8] < 2 else 10] != 8:
        return
    parts = [(0, n_bytes)] if n_bytes <= 2 * _SEARCHED else [(0, _SEARCHED), (n_bytes - _SEARCHED, n_bytes)]
    for begin, end in parts:
        for at in range(begin, end, _STEP):
            file.seek(at)
            block = file.read(_STEP + len(_HEAP) - 1)
            found = block.find(_HEAP)
            while found >= 0:
                yield at + found
                found = block.find(_HEAP, found + 1)


def _in_order(heap: bytes, n_bytes: int) -> bool:
    """Whether each object of a heap of so many bytes begins behind the one before it, and ends within the heap."""
    at = 0
    while at + _OBJECT.size <= len(heap):
        number, _, size = _OBJECT.unpack_from(heap, at)
        taken = size if number == 0 else _OBJECT.size + (size + 7) // 8 * 8
        if not _OBJECT.size <= taken <= n_bytes - at:
            return False
        at += taken
    return True

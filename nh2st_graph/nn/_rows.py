"""Values of a large section's spots, which become dense only where a batch asks for them."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

__all__ = ["LARGE", "Rows", "blocks_of", "dense"]

#: From this number of spots on, a section is large: its values are :class:`Rows`, and its batches pieces of tissue.
LARGE = 50_000

#: Bytes of a memory map that are read before its pages are given back.
_MOST_MAPPED = 2**25

#: Spots that are made dense at a time.
_BLOCK = 8192


class Rows:
    """One row of numbers for each spot, on disk or sparse.

    Parameters
    ----------
    source
        ``(n_all, d)``: an array, which may be a memory map, or a sparse matrix.
    index
        The rows that belong to the spots, in their order, ``(n_spots,)``; all if None.
    mean, std
        Statistics that rows are standardised by when they are read, ``(d,)``; a column whose ``std`` is 0 becomes zero.
        None leaves them as they are.

    Shapes
    ------
    - **read:** ``rows[index]`` is dense, ``(n_index, d)`` float32, or uint8 if the source is and nothing is
      standardised
    """

    def __init__(
        self,
        source: NDArray[Any] | sparse.csr_matrix,
        index: NDArray[np.int64] | None = None,
        *,
        mean: NDArray[np.float64] | None = None,
        std: NDArray[np.float64] | None = None,
    ) -> None:
        self.source = source
        self.index, self.mean, self.std = index, mean, std
        self._map, self._read = _map_under(source), 0
        self._scale = None
        if mean is not None and std is not None:
            factor = np.divide(1.0, std, out=np.zeros_like(std, dtype=np.float64), where=std > 0)
            self._scale = np.asarray(mean, dtype=np.float32), factor.astype(np.float32)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of spots, and of numbers for each."""
        return len(self), int(self.source.shape[1])

    def __len__(self) -> int:
        return int(self.source.shape[0] if self.index is None else len(self.index))

    def __getitem__(self, index: Tensor | NDArray[np.int64] | slice) -> Tensor:
        """Read some rows."""
        wanted = index.numpy() if isinstance(index, Tensor) else index
        found: Any = self.source[wanted if self.index is None else self.index[wanted]]
        values = found.toarray() if sparse.issparse(found) else np.asarray(found)
        self._let_go(values.nbytes)
        if self._scale is not None:
            values = (values - self._scale[0]) * self._scale[1]
        kept = np.uint8 if values.dtype == np.uint8 else np.float32
        return torch.from_numpy(np.array(values, dtype=kept))

    def _let_go(self, n_bytes: int) -> None:
        """Give pages of a memory map back from time to time: else all that was ever read stays in memory."""
        self._read += n_bytes
        if self._map is not None and self._read > _MOST_MAPPED and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
            self._read = 0

    def take(self, index: Tensor | NDArray[np.int64]) -> Rows:
        """Give some of the spots, in this order, without reading them."""
        wanted = index.numpy() if isinstance(index, Tensor) else index
        positions = wanted if self.index is None else self.index[wanted]
        return Rows(self.source, positions, mean=self.mean, std=self.std)

    def blocks(self, n_rows: int = _BLOCK) -> Iterator[Tensor]:
        """Read all rows in order, some at a time."""
        for start in range(0, len(self), n_rows):
            yield self[slice(start, start + n_rows)]


def _map_under(source: object) -> mmap.mmap | None:
    """Find the memory map that an array is a view of, if nothing can be written to it."""
    if isinstance(source, np.ndarray) and source.flags.writeable:
        return None
    while isinstance(source, np.ndarray):
        source = source.base
    return source if isinstance(source, mmap.mmap) else None


def blocks_of(values: Tensor | Rows, n_rows: int = _BLOCK) -> Iterator[Tensor]:
    """Give values of spots some rows at a time, ``(n_rows, d)`` or fewer."""
    return values.blocks(n_rows) if isinstance(values, Rows) else iter(values.split(n_rows))


def dense(values: Tensor | Rows) -> Tensor:
    """Give values of spots as one tensor."""
    return torch.cat(list(values.blocks())) if isinstance(values, Rows) else values

"""Read the counts of a section some spots at a time, wherever they are kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from nh2st_graph.section._access import as_csr

__all__ = ["count_blocks", "library_size"]

#: Values that are read at a time; of a sparse matrix on disk, about a hundredth of them are stored.
_VALUES = 100_000_000


def count_blocks(
    adata: AnnData, spots: NDArray[np.intp] | None = None, n_rows: int | None = None
) -> Iterator[sparse.csr_matrix]:
    """Give ``X`` as CSR, some spots at a time.

    Parameters
    ----------
    adata
        One section, or any AnnData with ``X``. ``X`` may be in memory, in the file of an AnnData in backed mode, or a
        dask array.
    spots
        Positions of the spots to read, in this order; all in order by default.
    n_rows
        Number of spots in a block. By default a block is as large as memory takes it: a sparse matrix in memory is
        given at once, without a copy.

    Yields
    ------
    ``(n_rows, n_genes)``.
    """
    values: Any = adata.X
    if getattr(values, "format", None) == "csc":
        # Its rows lie all over the file, so that a block would read all of it.
        values = as_csr(values if sparse.issparse(values) else values.to_memory())
    if sparse.issparse(values):
        values = as_csr(values)
        if spots is None and n_rows is None:
            yield values
            return
    step = n_rows or max(1, _VALUES // max(1, adata.n_vars))
    for start in range(0, adata.n_obs if spots is None else len(spots), step):
        yield as_csr(_rows(values, slice(start, start + step) if spots is None else spots[start : start + step]))


def _rows(values: Any, rows: slice | NDArray[np.intp]) -> Any:
    """Read some rows; those that follow each other as a slice, others in order of the file."""
    if isinstance(rows, slice) or np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
        part = values[rows if isinstance(rows, slice) else slice(int(rows[0]), int(rows[0]) + len(rows))]
    elif sparse.issparse(values):
        part = values[rows]
    else:
        order = np.argsort(rows)
        part = values[rows[order]][np.argsort(order)]
    return part.compute() if hasattr(part, "compute") else part


def library_size(adata: AnnData) -> NDArray[np.float64]:
    """Sum the counts of each spot over all measured genes, ``(n_spots,)``."""
    sums = [np.asarray(block.sum(axis=1), dtype=np.float64).ravel() for block in count_blocks(adata)]
    return np.concatenate(sums) if sums else np.zeros(0)

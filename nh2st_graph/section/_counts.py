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


def count_blocks(adata: AnnData) -> Iterator[sparse.csr_matrix]:
    """Give ``X`` as CSR, some spots at a time, in order.

    Parameters
    ----------
    adata
        One section, or any AnnData with ``X``. ``X`` may be in memory, in the file of an AnnData in backed mode, or a
        dask array.

    Yields
    ------
    ``(n_rows, n_genes)``. A sparse matrix in memory is given at once, without a copy.
    """
    values: Any = adata.X
    if getattr(values, "format", None) == "csc":
        # Its rows lie all over the file, so that a block would read all of it.
        values = as_csr(values if sparse.issparse(values) else values.to_memory())
    if sparse.issparse(values):
        yield as_csr(values)
        return
    step = max(1, _VALUES // max(1, adata.n_vars))
    for start in range(0, adata.n_obs, step):
        part = values[start : start + step]
        yield as_csr(part.compute() if hasattr(part, "compute") else part)


def library_size(adata: AnnData) -> NDArray[np.float64]:
    """Sum the counts of each spot over all measured genes, ``(n_spots,)``."""
    sums = [np.asarray(block.sum(axis=1), dtype=np.float64).ravel() for block in count_blocks(adata)]
    return np.concatenate(sums) if sums else np.zeros(0)

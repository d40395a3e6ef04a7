"""Read the counts of a section some spots at a time, wherever they are kept."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from nh2st_graph.section._access import as_csr

__all__ = ["copy_of", "count_blocks", "layers_of", "library_size", "on_disk"]

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


def on_disk(adata: AnnData) -> AnnData:
    """Give an AnnData in backed mode as one in memory whose ``X`` stays in its file; another one as it is.

    Values in memory are shared. Views of the result have their part of ``X`` in memory; a copy of all of it is made by
    :func:`copy_of`.
    """
    return _shared(adata, adata.obs, adata.var, dict(adata.uns)) if adata.isbacked else adata


def copy_of(adata: AnnData, *, share: bool = False) -> AnnData:
    """Copy a section, whose ``X`` may stay on disk.

    Parameters
    ----------
    adata
        The section.
    share
        Copy ``obs``, ``var`` and ``uns`` alone, and share the values. So it is for ``X`` on disk.
    """
    if share or not hasattr(adata.X, "copy"):
        return _shared(adata, adata.obs.copy(), adata.var.copy(), deepcopy(dict(adata.uns)))
    return adata.copy()


def _shared(adata: AnnData, obs: pd.DataFrame, var: pd.DataFrame, uns: dict[str, Any]) -> AnnData:
    slots = {name: dict(getattr(adata, name)) for name in ("obsm", "varm", "obsp", "varp")}
    raw = None if adata.isbacked else adata.raw
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Variable names are not unique")  # as they were
        return AnnData(adata.X, obs=obs, var=var, uns=uns, raw=raw, layers=layers_of(adata), **slots)


def layers_of(adata: AnnData) -> dict[str, Any]:
    """Give the layers beside ``X``, which anndata from 0.13 on lists as the layer None."""
    return {name: values for name, values in adata.layers.items() if name is not None}


def library_size(adata: AnnData) -> NDArray[np.float64]:
    """Sum the counts of each spot over all measured genes, ``(n_spots,)``."""
    sums = [np.asarray(block.sum(axis=1), dtype=np.float64).ravel() for block in count_blocks(adata)]
    return np.concatenate(sums) if sums else np.zeros(0)

"""Look up the name, the array positions and the spots in tissue of a section."""

from __future__ import annotations

from numbers import Real
from typing import Any, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from nh2st_graph._errors import DataError, setting
from nh2st_graph.section._keys import Key

__all__ = ["array_positions", "as_csr", "as_dense", "as_name", "distinct", "in_tissue", "is_real", "section_name"]


#: No row or column has a number as large.
_FARTHEST = 2**31

#: Words for a spot in tissue, and for one off it; Space Ranger writes 1 and 0.
_IN_TISSUE = {
    **dict.fromkeys(("1", "1.0", "true", "t", "yes", "y"), True),
    **dict.fromkeys(("0", "0.0", "false", "f", "no", "n"), False),
}


def as_name(value: object) -> str | None:
    """Write a name in a table as text; None if there is none.

    Joining tables makes numbers of names, and fractions of numbers: a whole number is written as one.
    """
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, Real) and value != value):
        return None
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def distinct(column: pd.Series) -> list[Any]:
    """Give each value of a column once, in order; values that cannot be told apart by hash (lists) as text."""
    if isinstance(column.dtype, pd.CategoricalDtype):  # ten times as fast as pandas, and much asked for
        values = cast("pd.Categorical", column.array)
        names: list[Any] = [*values.categories, np.nan]  # the code of a missing value is -1
        codes = np.asarray(values.codes)
        if len(codes) and (codes == codes[0]).all():  # as of one section, in a tenth of the time
            return [names[codes[0]]]
        return [names[code] for code in pd.unique(codes)]
    try:
        return list(column.unique())
    except TypeError:
        return list(column.map(str).unique())


def section_name(adata: AnnData) -> str:
    """Look up the name of the one section that an AnnData holds.

    Raises
    ------
    DataError
        If ``obs["section"]`` is missing, or names several sections.
    """
    if Key.obs.section not in adata.obs:
        raise DataError(
            f"section without a name: obs['{Key.obs.section}'] is missing; "
            f"set adata.obs['{Key.obs.section}'] = 'NAME' or read it with a reader of ng.read"
        )
    names = [as_name(name) for name in distinct(adata.obs[Key.obs.section])]
    if names == [None]:
        raise DataError(
            f"section without a name: obs['{Key.obs.section}'] is empty; set adata.obs['{Key.obs.section}'] = 'NAME'"
        )
    if len(names) != 1:
        shown = ", ".join(map(str, names[:5])) or "none"
        raise DataError(
            f"expected one section in the AnnData, but it holds {len(names)} ({shown}); split it by "
            f"obs['{Key.obs.section}'] first, or give {setting('data.options.library_key', Key.obs.section)}"
        )
    return str(names[0])


def as_csr(values: Any) -> sparse.csr_matrix:
    """Convert counts, dense or sparse, to CSR; half precision, which SciPy does not know, becomes float32.

    Raises
    ------
    DataError
        If they are not real numbers.
    """
    if not is_real(values.dtype):
        raise DataError(f"X holds {values.dtype}, not real numbers; put raw counts there")
    return sparse.csr_matrix(values.astype(np.float32) if values.dtype == np.float16 else values)


def as_dense(values: Any) -> NDArray[Any]:
    """Give values as an array in memory: those of a sparse matrix, of a dask array, or on disk, too."""
    values = values.to_memory() if hasattr(values, "to_memory") else values
    values = values.compute() if hasattr(values, "compute") else values
    return np.asarray(values.toarray() if sparse.issparse(values) else values)


def is_real(dtype: np.dtype[Any]) -> bool:
    """Say whether a type is of real numbers; text, dates and complex numbers are no counts."""
    return np.dtype(dtype).kind in "biuf"


def in_tissue(adata: AnnData, where: str | None = None) -> NDArray[np.bool_] | None:
    """Say which spots lie in tissue by ``obs["in_tissue"]``, ``(n_spots,)``; None without values.

    Parameters
    ----------
    adata
        One section.
    where
        What an error names; the section by default.

    Raises
    ------
    DataError
        If a value is neither 0 nor 1, nor a word for them.
    """
    if Key.obs.in_tissue not in adata.obs or adata.obs[Key.obs.in_tissue].isna().all():
        return None
    given = adata.obs[Key.obs.in_tissue]
    # A section has a million values, and few different ones.
    try:
        codes, values = pd.factorize(given, use_na_sentinel=False)
    except TypeError:  # lists
        codes, values = pd.factorize(given.map(str))
    meant = [_IN_TISSUE.get((as_name(value) or "").strip().lower()) for value in values]
    unclear = np.array([each is None for each in meant])[codes]
    if unclear.any():
        where = where or f"section {section_name(adata)!r}"
        first = adata.obs_names[unclear][0], as_name(given[unclear].iloc[0])
        raise DataError(
            f"{where}: obs['{Key.obs.in_tissue}'] of {int(unclear.sum())} spots is neither 0 nor 1 "
            f"(first: {first[0]!r} has {'no value' if first[1] is None else repr(first[1])}); "
            "write 1 for spots in tissue and 0 for others, or delete the column to keep every spot"
        )
    return np.array(meant, dtype=bool)[codes]


def array_positions(adata: AnnData) -> NDArray[np.int64] | None:
    """Look up the array positions of a section's spots.

    Returns
    -------
    ``(n_spots, 2)``, column then row (x then y). None if the section has no array: a column of ``obs`` is missing, or
    all empty. (Joining a section with others that have an array leaves an empty column.)

    Raises
    ------
    DataError
        If a position is missing or not a whole number.
    """
    keys = (Key.obs.array_col, Key.obs.array_row)
    if any(key not in adata.obs or _is_empty(adata.obs[key]) for key in keys):
        return None
    return np.stack([_whole_numbers(adata, key) for key in keys], axis=1)


def _is_empty(column: pd.Series) -> bool:
    """Whether no value is there; whole numbers, as readers write them, are always there."""
    whole = isinstance(column.dtype, np.dtype) and column.dtype.kind in "iu"
    return not len(column) if whole else bool(column.isna().all())


def _whole_numbers(adata: AnnData, key: str) -> NDArray[np.int64]:
    given = adata.obs[key]
    if isinstance(given.dtype, np.dtype) and given.dtype.kind in "iu":  # as readers write it, and much asked for
        numbers = given.to_numpy()
        if not len(numbers) or (numbers.min() > -_FARTHEST and numbers.max() < _FARTHEST):
            return numbers.astype(np.int64)
    values = pd.to_numeric(given, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    whole = (np.abs(values) < _FARTHEST) & (values == np.rint(values))
    if not whole.all():
        raise DataError(
            f"section {section_name(adata)!r}: obs['{key}'] of {int((~whole).sum())} spots is not a whole number "
            f"(first: {adata.obs_names[~whole][0]!r} has {given[~whole].iloc[0]}); number the rows and columns, "
            f"drop these spots, or treat the section as one without an array: del adata.obs['{key}']"
        )
    return values.astype(np.int64)

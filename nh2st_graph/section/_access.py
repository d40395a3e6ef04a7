"""Look up what a section holds: its name and its array positions."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from nh2st_graph._errors import DataError
from nh2st_graph.section._keys import Key

__all__ = ["array_positions", "section_name"]


def section_name(adata: AnnData) -> str:
    """Name of the one section that an AnnData holds.

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
    names = adata.obs[Key.obs.section].astype(str).unique()
    if len(names) != 1:
        shown = ", ".join(names[:5]) or "none"
        raise DataError(
            f"one AnnData holds one section, this one holds {len(names)} ({shown}); "
            f"split it by obs['{Key.obs.section}'] first, or give library_key='{Key.obs.section}'"
        )
    return str(names[0])


def array_positions(adata: AnnData) -> NDArray[np.int64] | None:
    """Look up the array positions of a section's spots.

    Returns
    -------
    ``(n_spots, 2)``, column then row (x then y). None where the section has no array: one of the columns of ``obs`` is
    missing or all empty, as it is in a section that was joined with others that have one.

    Raises
    ------
    DataError
        If a position is missing or no whole number.
    """
    keys = (Key.obs.array_col, Key.obs.array_row)
    if any(key not in adata.obs or adata.obs[key].isna().all() for key in keys):
        return None
    return np.stack([_whole_numbers(adata, key) for key in keys], axis=1)


def _whole_numbers(adata: AnnData, key: str) -> NDArray[np.int64]:
    given = adata.obs[key]
    values = pd.to_numeric(given, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    whole = np.isfinite(values) & (values == np.rint(values))
    if not whole.all():
        raise DataError(
            f"section {section_name(adata)!r}: obs['{key}'] of {int((~whole).sum())} spots is no whole number (first: "
            f"{adata.obs_names[~whole][0]!r} has {given[~whole].iloc[0]}); number the array's rows and columns, drop "
            f"these spots, or take the section for one without an array: del adata.obs['{key}']"
        )
    return values.astype(np.int64)

"""Write a prediction as tables: categories for Loupe Browser, and one CSV with everything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from nh2st_graph._errors import DataError, nearest, setting
from nh2st_graph._files import written_aside
from nh2st_graph.read import SpatialObject, documented, one_section
from nh2st_graph.section import Key, section_name
from nh2st_graph.write._values import chosen, dense

__all__ = ["write_csv", "write_loupe"]

#: Loupe's name for the column of spots.
_BARCODE = "Barcode"
#: Columns of ``obs`` that are the same in all spots of a section.
_SAME = {Key.obs.section, Key.obs.patient}


@documented
def write_loupe(
    prediction: SpatialObject,
    path: str | Path,
    columns: str | Sequence[str] | None = None,
    *,
    library_key: str | None = None,
    library_id: str | None = None,
    table_key: str | None = None,
) -> None:
    """Write categories of spots as a CSV that Loupe Browser imports (Categories > Import).

    Loupe joins them to the section's ``.cloupe`` file by barcode, so that the section must be one that Space Ranger
    processed: a slide without an assay has no barcodes.

    Parameters
    ----------
    prediction
        A prediction, or a section, with the categories in ``obs``.
    path
        The file, ``.csv``. A missing folder is made, and an existing file is replaced.
    columns
        Columns of ``obs``: calls of genes (:func:`nh2st_graph.tl.call` with ``key_added``), annotations, clusters. By
        default all that hold categories or words. A spot without a category is blank.
    %(library_key)s
    %(library_id)s
    %(table_key)s

    Raises
    ------
    DataError
        If a column is not there or holds numbers, or there is none to write.

    Examples
    --------
    >>> import nh2st_graph as ng
    >>> prediction = ng.tl.predict(ng.read.sections("visium", "sections")["D1"], ng.load("model"))
    >>> ng.tl.call(prediction, "ERBB2", key_added="ERBB2")
    >>> ng.write_loupe(prediction, "D1_loupe.csv", ["ERBB2"])
    """
    section = one_section(prediction, library_key=library_key, library_id=library_id, table_key=table_key, image=False)
    wanted = _categories(section, columns)
    table = section.obs[wanted].astype(object)
    table.index = pd.Index(section.obs_names.astype(str), name=_BARCODE)
    _write(table, Path(path))


def _categories(section: AnnData, columns: str | Sequence[str] | None) -> list[str]:
    """List the columns to write."""
    where, obs = f"section {section_name(section)!r}", section.obs
    there = [str(name) for name, column in obs.items() if not _numbers(column) and name not in _SAME]
    wanted = there if columns is None else [columns] if isinstance(columns, str) else list(columns)
    if not wanted:
        raise DataError(
            f"{where}: obs has no column of categories for Loupe; write some there first, such as calls of a gene "
            "(ng.tl.call with key_added)"
        )
    for name in wanted:
        if name not in obs:
            raise DataError(f"{where}: obs has no column {name!r}; {nearest(name, map(str, obs.columns))}")
        if _numbers(obs[name]):
            raise DataError(f"{where}: obs[{name!r}] holds numbers, and Loupe takes categories; cut it into classes")
    return wanted


def _numbers(column: pd.Series) -> bool:
    return bool(pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column))


@documented
def write_csv(
    prediction: SpatialObject,
    path: str | Path,
    *,
    genes: str | Sequence[str] | None = None,
    library_key: str | None = None,
    library_id: str | None = None,
    table_key: str | None = None,
) -> None:
    """Write a prediction as one CSV: a row for each spot.

    The columns are ``spot``, ``x`` and ``y`` (centre, in full-resolution pixels), those of ``obs``, and the genes; then
    ``GENE lower`` and ``GENE upper`` where the prediction has intervals. A value that is not predicted (NaN) is blank.

    Parameters
    ----------
    prediction
        A prediction of :func:`nh2st_graph.tl.predict`.
    path
        The file, ``.csv`` (``.csv.gz`` is packed). A missing folder is made, and an existing file is replaced.
    genes
        Genes to write; None writes all.
    %(library_key)s
    %(library_id)s
    %(table_key)s

    Raises
    ------
    DataError
        If a gene is not in the prediction, or has the name of a column of ``obs``.
    """
    section = one_section(prediction, library_key=library_key, library_id=library_id, table_key=table_key, image=False)
    some = chosen(section, genes)
    centres = np.asarray(section.obsm[Key.obsm.spatial], dtype=np.float64)
    parts = [pd.DataFrame({"x": centres[:, 0], "y": centres[:, 1]}, index=section.obs_names), section.obs]
    for layer, form in ((None, "{}"), (Key.layers.lower, "{} lower"), (Key.layers.upper, "{} upper")):
        if layer is None or layer in some.layers:
            names = [form.format(gene) for gene in some.var_names]
            parts.append(pd.DataFrame(dense(some, layer), section.obs_names, names))
    table = pd.concat(parts, axis=1)
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise DataError(
            f"section {section_name(section)!r}: two columns would be named {twice[0]!r}; rename the gene, or the "
            f"column of obs, or leave the gene out of {setting('genes')}"
        )
    table.index = pd.Index(section.obs_names.astype(str), name="spot")
    _write(table, Path(path))


def _write(table: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = {"method": "gzip", "mtime": 0} if path.suffix == ".gz" else None
    with written_aside(path) as aside:
        table.to_csv(aside, float_format="%.7g", compression=packed)

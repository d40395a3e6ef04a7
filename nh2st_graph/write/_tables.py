"""Write a prediction as tables: categories for Loupe Browser, and one CSV with everything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from anndata import AnnData

from nh2st_graph._errors import DataError, setting
from nh2st_graph._files import written_aside
from nh2st_graph.confidence import best_reliable, call
from nh2st_graph.read import SpatialObject, documented, one_section
from nh2st_graph.section import Key, section_name, spot_centres
from nh2st_graph.write._values import (
    checked_classes,
    chosen,
    chosen_names,
    class_columns,
    dense,
    familiar_words,
    refuse_twice,
)

__all__ = ["write_csv", "write_loupe"]

#: Loupe's name for the column of spots.
_BARCODE = "Barcode"
#: Best reliable genes whose calls are written, unless genes are named.
_CALLED = 12


@documented
def write_loupe(
    prediction: SpatialObject,
    path: str | Path,
    *,
    genes: str | Sequence[str] | None = None,
    class_by: str | Sequence[str] | None = None,
    library_key: str | None = None,
    library_id: str | None = None,
    table_key: str | None = None,
) -> None:
    """Write categories of spots as a CSV that Loupe Browser imports (Categories > Import).

    Loupe joins them to the section's ``.cloupe`` file by barcode, so that the section must be one that Space Ranger
    processed: a slide without an assay has no barcodes. It takes no numbers: what is written of a gene is where it is
    called high or low (:func:`nh2st_graph.tl.call`).

    Parameters
    ----------
    prediction
        A prediction, or a section, with the categories in ``obs``.
    %(written_path)s A file, ``.csv``.
    genes
        Genes whose calls to write: names, or ``"reliable"`` for those that are reliable for the slide. None writes
        those of the twelve best reliable ones, unless ``class_by`` is given.
    %(class_by)s A spot without a class is blank. None takes all that hold classes, and what familiarity says in words.
    %(library_key)s
    %(library_id)s
    %(table_key)s

    Raises
    ------
    DataError
        If a gene or column is not there, a gene that is named has the name of a column that is written, a column holds
        numbers, or there is nothing to write.
    RunError
        If something else is there under this path, or nothing can be written there.

    Examples
    --------
    >>> import nh2st_graph as ng
    >>> prediction = ng.tl.predict(ng.read.sections("visium", "sections")["D1"], ng.load("model"))
    >>> ng.write_loupe(prediction, "D1_loupe.csv")
    >>> ng.write_loupe(prediction, "D1_loupe.csv", genes=["ERBB2"])
    """
    section = one_section(prediction, library_key=library_key, library_id=library_id, table_key=table_key, image=False)
    classes = class_columns(section) if class_by is None else checked_classes(section, class_by)
    own = {name: section.obs[name] for name in classes}
    columns = {name: own[name] for name in own if name == Key.obs.annotation}
    familiar = familiar_words(section) if class_by is None else None
    columns |= {} if familiar is None else {str(familiar.name): familiar}
    called = _called(section, genes, class_by)
    if genes is not None:  # else a column of a gene's name is what the user says of it
        refuse_twice(section, [*dict.fromkeys(called), *own])
    columns |= {gene: call(section, gene) for gene in called} | own
    if not columns:
        raise DataError(
            f"section {section_name(section)!r}: obs has no column of classes, and no gene is reliable, so that there "
            f"is nothing to write for Loupe; write classes into obs, and name them as {setting('class_by')}"
        )
    table = pd.DataFrame(columns, index=section.obs_names).astype(object)
    table.index = pd.Index(section.obs_names.astype(str), name=_BARCODE)
    _write(table, Path(path))


def _called(section: AnnData, genes: str | Sequence[str] | None, class_by: str | Sequence[str] | None) -> list[str]:
    """Name the genes whose calls are written."""
    if genes is not None:
        return chosen_names(section, genes)
    return best_reliable(section.var, _CALLED) if class_by is None else []


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
    %(written_path)s A file, ``.csv``; ``.csv.gz`` is packed.
    %(genes)s
    %(library_key)s
    %(library_id)s
    %(table_key)s

    Raises
    ------
    DataError
        If a gene is not in the prediction, or has the name of a column of ``obs``.
    RunError
        If something else is there under this path, or nothing can be written there.

    Examples
    --------
    >>> import nh2st_graph as ng
    >>> prediction = ng.tl.predict(ng.read.sections("visium", "sections")["D1"], ng.load("model"))
    >>> ng.write_csv(prediction, "D1.csv", genes="reliable")
    """
    section = one_section(prediction, library_key=library_key, library_id=library_id, table_key=table_key, image=False)
    some = chosen(section, genes)
    centres = spot_centres(section)
    parts = [pd.DataFrame({"x": centres[:, 0], "y": centres[:, 1]}, index=section.obs_names), section.obs]
    for layer, form in ((None, "{}"), (Key.layers.lower, "{} lower"), (Key.layers.upper, "{} upper")):
        if layer is None or layer in some.layers:
            names = [form.format(gene) for gene in some.var_names]
            parts.append(pd.DataFrame(dense(some, layer), section.obs_names, names))
    table = pd.concat(parts, axis=1)
    refuse_twice(section, [*map(str, table.columns)])
    table.index = pd.Index(section.obs_names.astype(str), name="spot")
    _write(table, Path(path))


def _write(table: pd.DataFrame, path: Path) -> None:
    packed = {"method": "gzip", "mtime": 0} if path.suffix == ".gz" else None
    with written_aside(path) as aside:
        table.to_csv(aside, float_format="%.7g", compression=packed)

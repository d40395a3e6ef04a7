"""Say which spots and genes of a section were measured, and take these counts and no others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from nh2st_graph._errors import DataError, ModelError, listed, setting
from nh2st_graph.config import DataConfig
from nh2st_graph.section import (
    counts_mistake,
    find_genes,
    library_size,
    normalize_counts,
    panel_counts,
    section_name,
    targets,
)

__all__ = ["Entries", "Measured", "MeasuredValues", "measured_entries", "measured_values"]

logger = logging.getLogger("nh2st_graph")

#: What a caller may give: a value for each spot, names of genes, or a value for each spot and gene.
Measured = Sequence[bool] | Sequence[str] | NDArray[np.bool_] | pd.Series | pd.DataFrame


class Entries(NamedTuple):
    """Which counts of a section were measured.

    Attributes
    ----------
    spots
        Spots of which all genes were measured, ``(n_spots,)`` bool.
    genes
        Genes that were measured at all spots, ``(n_genes,)`` bool.
    table
        Further measured counts, ``(n_spots, n_genes)`` bool, if any.
    """

    spots: NDArray[np.bool_]
    genes: NDArray[np.bool_]
    table: NDArray[np.bool_] | None = None

    def of_spots(self, rows: NDArray[np.intp]) -> Entries:
        """Take some spots, in this order."""
        return Entries(self.spots[rows], self.genes, None if self.table is None else self.table[rows])

    def of_genes(self, columns: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Give the entries of some genes, ``(n_spots, n_columns)``; -1 is a gene that the section does not have."""
        found = self.spots[:, None] | self.genes[columns]
        if self.table is not None:
            found |= self.table[:, columns]
        return np.asarray(found & (columns >= 0))

    def any(self) -> bool:
        """Whether anything was measured."""
        return any(part is not None and bool(part.any()) for part in self)

    @property
    def whole(self) -> NDArray[np.bool_]:
        """Spots of which all genes were measured, however it was said, ``(n_spots,)``."""
        if self.table is None:
            return self.spots | self.genes.all()
        return self.spots | (self.table | self.genes).all(axis=1)


class MeasuredValues(NamedTuple):
    """What was measured of a section's panel.

    Attributes
    ----------
    spots
        Positions of the spots with measured genes, ascending, ``(n_measured,)``.
    values
        Their targets, ``(n_measured, n_genes)``; zero where nothing was measured.
    depth
        Library size that the targets are relative to, ``(n_measured,)``, by measured genes alone.
    entries
        Whether a value was measured, ``(n_measured, n_genes)``.
    """

    spots: NDArray[np.intp]
    values: NDArray[np.float64]
    depth: NDArray[np.float64]
    entries: NDArray[np.bool_]


def measured_entries(adata: AnnData, measured: Measured) -> Entries:
    """Read what the caller says of the spots and genes of ``adata``.

    Parameters
    ----------
    adata
        The section, or the table of several.
    measured
        See :func:`nh2st_graph.tl.impute`.

    Raises
    ------
    DataError
        If it does not fit the spots and genes.
    """
    spots, no_spots, no_genes = adata.obs_names, np.zeros(adata.n_obs, bool), np.zeros(adata.n_vars, bool)
    if isinstance(measured, str):
        raise DataError(f"{setting('measured', measured)} is one name; give a list of genes, or a value for each spot")
    if isinstance(measured, pd.DataFrame):
        return Entries(no_spots, no_genes, _of_table(adata, measured))
    if isinstance(measured, pd.Series) and not measured.index.equals(spots):
        _check_names("spots", measured.index, spots)
        measured = measured.loc[spots]
    values = np.asarray(measured)
    if values.size and all(isinstance(each, str) for each in values.ravel()):
        named = [str(each) for each in values.ravel()]
        places = find_genes(adata, named).positions
        absent = [name for name, place in zip(named, places, strict=True) if place < 0]
        if absent:
            raise DataError(f"{setting('measured')}: the section has no gene {listed(absent)}; leave it out")
        no_genes[places] = True
        return Entries(no_spots, no_genes)
    if values.dtype != np.bool_ or values.shape not in {(adata.n_obs,), adata.shape}:
        raise DataError(
            f"{setting('measured')} has shape {values.shape} and type {values.dtype}; give True or False for each of "
            f"the {adata.n_obs} spots, for each spot and each of the {adata.n_vars} genes, or a list of genes"
        )
    return Entries(values, no_genes) if values.ndim == 1 else Entries(no_spots, no_genes, values)


def _of_table(adata: AnnData, measured: pd.DataFrame) -> NDArray[np.bool_]:
    """Complete a table: spots must be those of the section, and genes that it does not name were not measured."""
    _check_names("spots", measured.index, adata.obs_names)
    _check_names("genes", measured.columns, adata.var_names)
    if not all(dtype == np.bool_ for dtype in measured.dtypes):
        raise DataError(f"{setting('measured')} is a table of other values than True and False; make it one of these")
    return measured.reindex(index=adata.obs_names, columns=adata.var_names, fill_value=False).to_numpy()


def _check_names(what: str, given: pd.Index, known: pd.Index) -> None:
    """Refuse names that the section does not have, or has once and here are twice, and spots that are left out."""
    wrong = [*given.difference(known), *given[given.duplicated()]]
    wrong += [*known.difference(given)] if what == "spots" else []
    if wrong:
        raise DataError(
            f"{setting('measured')} does not have the {what} of the section, each once: {listed(wrong)}; take "
            f"adata.{'obs' if what == 'spots' else 'var'}_names"
        )


def measured_values(
    section: AnnData, entries: Entries, genes: Sequence[str], data: DataConfig, shares: NDArray[np.float64]
) -> MeasuredValues:
    """Compute targets from measured counts alone: what else a section holds is not read.

    A spot of which all genes were measured has the targets of training; one without counts was not measured. Of other
    spots the library size is estimated: the sum of the measured counts, by the share that these genes had in training.

    Parameters
    ----------
    section
        One section.
    entries
        Which of its counts were measured.
    genes
        The panel.
    data
        Settings of the targets.
    shares
        Share of each gene of the panel in the library size, in training.

    Raises
    ------
    DataError
        If measured counts are no raw counts, or are of no gene of the panel.
    ModelError
        If the model's targets need all genes of a spot.
    """
    columns, name = find_genes(section, genes).positions, section_name(section)
    there = columns >= 0
    panel = entries.of_genes(columns) if section.n_vars else np.zeros((section.n_obs, len(genes)), dtype=bool)
    whole, told = entries.whole & there.all(), panel.any(axis=1)
    if not told.any() and entries.any():
        raise DataError(
            f"section {name!r}: no measured gene is one that the model predicts; name some of its panel in "
            f"{setting('measured')}"
        )
    values, depth = np.zeros(panel.shape), np.zeros(section.n_obs)
    if whole.any():
        part = section[whole].copy()
        _check_counts(name, part)
        values[whole] = targets(part, genes, **data.target).to_numpy()
        by_panel = data.normalize == "panel"
        depth[whole] = panel_counts(part, genes).to_numpy().sum(axis=1) if by_panel else library_size(part)
        empty = whole & (depth == 0)
        if empty.any() and data.smooth == "none":  # else they have the counts of their neighbours
            told &= ~empty
            logger.warning(
                "section %r: %d spots that are measured have no counts, and count as not measured (first: %r)",
                name,
                empty.sum(),
                section.obs_names[empty][0],
            )
    some = told & ~whole
    if some.any():
        _check_some(name, data)
        counts = np.zeros((int(some.sum()), len(genes)))
        counts[:, there] = panel_counts(section[some], list(np.array(genes)[there])).to_numpy()
        counts = np.where(panel[some], counts, 0.0)
        _check_counts(name, AnnData(counts))
        expected = panel[some] @ shares
        depth[some] = np.divide(counts.sum(axis=1), expected, out=np.zeros(len(counts)), where=expected > 0)
        values[some] = normalize_counts(counts, depth[some], "total", data.log_base)
    spots = np.flatnonzero(told)
    return MeasuredValues(spots, values[spots], depth[spots], panel[spots])


def _check_counts(name: str, measured: AnnData) -> None:
    mistake = counts_mistake(measured)
    if mistake is not None:
        raise DataError(f"section {name!r}: {mistake}")


def _check_some(name: str, data: DataConfig) -> None:
    """Refuse some genes of a spot where its targets need all of them."""
    for key, value, needed in (("normalize", data.normalize, "residuals"), ("smooth", data.smooth, "3x3")):
        if value == needed:
            raise ModelError(
                f"section {name!r}: some genes of a spot do not say their targets with "
                f"{setting(f'data.{key}', value)}; give whole spots as {setting('measured')}, or train with another "
                f"{setting(f'data.{key}')}"
            )

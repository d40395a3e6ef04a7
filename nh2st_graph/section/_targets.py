"""Prediction targets: the normalised counts of a panel, smoothed on request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from nh2st_graph._errors import DataError, listed, setting
from nh2st_graph._settings import TARGET_SUM
from nh2st_graph.section._access import array_positions, section_name
from nh2st_graph.section._array import adjacent_steps, fit_array, spots_at
from nh2st_graph.section._counts import count_blocks, library_size
from nh2st_graph.section._genes import find_genes, mismatch
from nh2st_graph.section._keys import Key

__all__ = [
    "LogBase",
    "absent_genes",
    "absent_message",
    "normalize_counts",
    "panel_counts",
    "panel_matrix",
    "split_half_normalizer",
    "target_in_words",
    "target_matrix",
    "targets",
]

#: Base of the logarithm of targets.
LogBase = Literal["e", 10]

_NORMALISED = {
    "total": "counts over a spot's library size (all genes) to 1e4, log1p",
    "panel": "counts over a spot's library size (genes of the panel) to 1e4, log1p",
    "residuals": "analytic Pearson residuals",
}

#: Name of the column that sums all genes outside the panel.
_REST = "(all other genes)"


def target_in_words(normalize: str, log_base: LogBase) -> str:
    """Say what is predicted, by ``data.normalize`` and ``data.log_base``."""
    words = _NORMALISED.get(normalize, normalize)
    return words if log_base == "e" else words.replace("log1p", f"log{log_base}(1 + x)")


def panel_matrix(adata: AnnData, genes: Sequence[str]) -> sparse.csr_matrix:
    """Look up the raw counts of a panel, ``(n_spots, n_genes)`` CSR, float32.

    Parameters
    ----------
    adata
        One section with raw counts, which may stay on disk (:func:`~nh2st_graph.section.count_blocks`).
    genes
        The panel.

    Raises
    ------
    DataError
        If the section lacks a gene.
    """
    return sparse.csr_matrix(_panel(adata, genes), dtype=np.float32)


def _panel(adata: AnnData, genes: Sequence[str]) -> sparse.csr_matrix:
    """Look up the raw counts of a panel, in the type of ``X``."""
    found = find_genes(adata, genes)
    if not found.all_there:
        absent = absent_genes(adata, genes, found.positions, "the panel")
        raise DataError(absent_message(section_name(adata), absent))
    parts = [block[:, found.positions] for block in count_blocks(adata)]
    return parts[0] if len(parts) == 1 else sparse.csr_matrix(sparse.vstack(parts))


def panel_counts(adata: AnnData, genes: Sequence[str]) -> pd.DataFrame:
    """Look up the raw counts of a panel, spots x genes, with the panel's names as columns.

    Raises
    ------
    DataError
        If the section lacks a gene.
    """
    counts = _panel(adata, genes).toarray().astype(np.float64)
    return pd.DataFrame(counts, index=adata.obs_names, columns=list(genes))


def normalize_counts(
    counts: NDArray[np.float64], library: NDArray[np.float64], normalize: str, log_base: LogBase = "e"
) -> NDArray[np.float64]:
    """Normalise the counts of a panel.

    Parameters
    ----------
    counts
        Panel counts, ``(n_spots, n_genes)``.
    library
        Library size over all genes, ``(n_spots,)``.
    normalize
        ``"total"``: scale the library size over all genes to 1e4, then log1p; ``"panel"``: the same with the
        library size over the panel; ``"residuals"``: analytic Pearson residuals (Lause, Berens and Kobak, 2021;
        scanpy).
    log_base
        Base of the logarithm, ``"e"`` or 10.

    Returns
    -------
    ``(n_spots, n_genes)``. Spots without counts are all zero.
    """
    if normalize == "residuals":
        return _pearson_residuals(counts)
    size = counts.sum(axis=1) if normalize == "panel" else library
    scaled = np.divide(counts * TARGET_SUM, size[:, None], out=np.zeros_like(counts), where=size[:, None] > 0)
    logarithm = np.log1p(scaled)
    return logarithm if log_base == "e" else logarithm / np.log(log_base)


def _pearson_residuals(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    import scanpy as sc

    # scanpy divides by the totals of spots and genes; empty ones have no residual and stay zero.
    spots, genes = counts.sum(axis=1) > 0, counts.sum(axis=0) > 0
    residuals = np.zeros_like(counts)
    if spots.any():
        part = AnnData(counts[np.ix_(spots, genes)])
        result = sc.experimental.pp.normalize_pearson_residuals(part, inplace=False)
        residuals[np.ix_(spots, genes)] = result["X"]
    return residuals


def targets(
    adata: AnnData,
    genes: Sequence[str],
    *,
    normalize: str = "total",
    smooth: str = "none",
    log_base: LogBase = "e",
) -> pd.DataFrame:
    """Compute the prediction targets of a section: spots x genes, normalised and smoothed.

    Parameters
    ----------
    adata
        One section with raw counts.
    genes
        The panel.
    normalize, log_base
        As for :func:`normalize_counts`.
    smooth
        ``"3x3"`` averages each spot with its adjacent spots on the array; ``"none"`` does not smooth.

    Raises
    ------
    DataError
        If the section lacks a gene, or has no array to smooth on.
    """
    counts = panel_counts(adata, genes)
    values = normalize_counts(counts.to_numpy(), library_size(adata), normalize, log_base)
    if smooth == "3x3":
        values = _array_mean(adata) @ values
    return pd.DataFrame(values, index=counts.index, columns=counts.columns)


def target_matrix(
    adata: AnnData,
    genes: Sequence[str],
    *,
    normalize: str = "total",
    smooth: str = "none",
    log_base: LogBase = "e",
) -> sparse.csr_matrix | NDArray[np.float32]:
    """Compute the targets of :func:`targets` without a dense table: a count of zero is a target of zero.

    Parameters
    ----------
    adata, genes, normalize, smooth, log_base
        As for :func:`targets`. The counts may stay on disk.

    Returns
    -------
    ``(n_spots, n_genes)`` float32: CSR, or an array for ``normalize="residuals"``, where no target is zero.

    Raises
    ------
    DataError
        As :func:`targets` does.
    """
    if normalize == "residuals":
        return targets(adata, genes, normalize=normalize, smooth=smooth).to_numpy(np.float32)
    counts = _panel(adata, genes).astype(np.float64)
    size = np.asarray(counts.sum(axis=1)).ravel() if normalize == "panel" else library_size(adata)
    counts.data *= TARGET_SUM
    counts.data /= np.repeat(np.where(size > 0, size, 1.0), np.diff(counts.indptr))
    np.log1p(counts.data, out=counts.data)
    if log_base != "e":
        counts.data /= np.log(log_base)
    values = sparse.csr_matrix(_array_mean(adata) @ counts) if smooth == "3x3" else counts
    return values.astype(np.float32)


def split_half_normalizer(
    adata: AnnData,
    genes: Sequence[str],
    *,
    normalize: str = "total",
    smooth: str = "none",
    log_base: LogBase = "e",
) -> tuple[pd.DataFrame, Callable[[pd.DataFrame], pd.DataFrame]]:
    """Prepare counts and their normalisation for :func:`nh2st_graph.metrics.noise_ceiling`.

    Returns
    -------
    The counts of the panel, with the sum of all other genes as last column. And a function that normalises such counts
    (for example halves of them) as :func:`targets` does. One column for the other genes is exact: they only enter the
    library size, and binomial thinning of a sum is the sum of the thinned counts.
    """
    counts = panel_counts(adata, genes).astype(np.int64)
    counts[_REST] = np.rint(library_size(adata)).astype(np.int64) - counts.sum(axis=1)
    smoother = _array_mean(adata) if smooth == "3x3" else None

    def normalized(half: pd.DataFrame) -> pd.DataFrame:
        part = half.to_numpy(dtype=np.float64)
        values = normalize_counts(part[:, :-1], part.sum(axis=1), normalize, log_base)
        values = values if smoother is None else smoother @ values
        return pd.DataFrame(values, index=half.index, columns=half.columns[:-1])

    return counts, normalized


def _array_mean(adata: AnnData) -> sparse.csr_matrix:
    """Build the matrix that averages each spot with its adjacent spots on the array, ``(n_spots, n_spots)``.

    On square arrays, for which NH2ST and TRIPLEX publish this, the adjacent spots are the up to eight others of three
    rows and three columns. On other arrays three rows and columns hold only four of the neighbours. There, too, all
    adjacent spots count: six on a hexagonal array (:func:`~nh2st_graph.section._array.adjacent_steps`).
    """
    positions = array_positions(adata)
    if positions is None:
        raise DataError(
            f"section {section_name(adata)!r}: {setting('data.smooth', '3x3')} needs array positions "
            f"(obs['{Key.obs.array_row}'], obs['{Key.obs.array_col}']); use {setting('data.smooth', 'none')}"
        )
    adjacent = spots_at(positions, np.concatenate([[(0, 0)], adjacent_steps(fit_array(adata))]))
    if adjacent is None:
        raise DataError(
            f"section {section_name(adata)!r}: two spots share a position of the array, so "
            f"{setting('data.smooth', '3x3')} cannot tell their neighbours; use {setting('data.smooth', 'none')}"
        )
    _, spot = taken = np.nonzero(adjacent >= 0)
    ones = sparse.csr_matrix((np.ones(len(spot)), (spot, adjacent[taken])), shape=(adata.n_obs, adata.n_obs))
    return sparse.diags(1.0 / np.asarray(ones.sum(axis=1)).ravel()) @ ones


def absent_genes(adata: AnnData, genes: Sequence[str], positions: NDArray[np.intp], panel: str) -> list[str]:
    """List the genes without a position.

    Raises
    ------
    DataError
        If most genes have none, and their names show why.
    """
    absent = [gene for gene, position in zip(genes, positions, strict=True) if position < 0]
    why = mismatch(adata, genes, panel) if 2 * len(absent) > len(genes) else None
    if why is not None:
        raise DataError(why)
    return absent


def absent_message(name: str, absent: Sequence[str]) -> str:
    """Say which genes of the panel a section lacks, and what to do."""
    return (
        f"section {name!r}: panel gene {listed(absent)} not measured; "
        f"leave such genes out with {setting('data.missing_genes', 'drop')}, or change {setting('data.panel')}"
    )

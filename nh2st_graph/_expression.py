"""What a model is asked to predict: the panel's genes, normalised, smoothed where the user asks for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from nh2st_graph._array import adjacent_steps, fit_array
from nh2st_graph._errors import ConfigError, DataError
from nh2st_graph._genes import find_genes, genes_by_name, mismatch, species
from nh2st_graph._keys import Key
from nh2st_graph._validate import array_positions, check_section, section_name
from nh2st_graph.config import TARGET_SUM, DataConfig

__all__ = [
    "choose_panel",
    "library_size",
    "normalize_counts",
    "panel_counts",
    "split_half_normalizer",
    "targets",
]

logger = logging.getLogger("nh2st_graph")

#: Column of all genes outside the panel together.
_REST = "(all other genes)"


def library_size(adata: AnnData) -> NDArray[np.float64]:
    """Total counts of each spot over all measured genes, ``(n_spots,)``."""
    return np.asarray(sparse.csr_matrix(adata.X).sum(axis=1), dtype=np.float64).ravel()


def panel_counts(adata: AnnData, genes: Sequence[str]) -> pd.DataFrame:
    """Raw counts of the panel's genes, spots x genes, under the panel's names for them.

    Raises
    ------
    DataError
        If a gene is absent from the section.
    """
    check_section(adata, need=("genes",))
    found = find_genes(adata, genes)
    if not found.all_there:
        absent = _absent(adata, genes, found.positions, "the panel")
        raise DataError(_absent_message(section_name(adata), absent))
    counts = sparse.csr_matrix(adata[:, found.positions].X).toarray().astype(np.float64)
    return pd.DataFrame(counts, index=adata.obs_names, columns=list(genes))


def normalize_counts(counts: NDArray[np.float64], library: NDArray[np.float64], normalize: str) -> NDArray[np.float64]:
    """Bring the panel's counts to the scale that is predicted.

    Parameters
    ----------
    counts
        Panel counts, ``(n_spots, n_genes)``.
    library
        Library size over all genes, ``(n_spots,)``.
    normalize
        ``"total"``: library size over all genes to 1e4, natural log1p; ``"panel"``: the same with the panel's own
        library size; ``"residuals"``: analytic Pearson residuals (Lause, Berens and Kobak, 2021; scanpy).

    Returns
    -------
    ``(n_spots, n_genes)``. A spot without counts is all zero.
    """
    if normalize == "residuals":
        return _pearson_residuals(counts)
    size = counts.sum(axis=1) if normalize == "panel" else library
    scaled = np.divide(counts * TARGET_SUM, size[:, None], out=np.zeros_like(counts), where=size[:, None] > 0)
    return np.log1p(scaled)


def _pearson_residuals(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    import scanpy as sc

    # scanpy divides by spot and gene totals; empty spots and genes have no residual and stay at zero.
    spots, genes = counts.sum(axis=1) > 0, counts.sum(axis=0) > 0
    residuals = np.zeros_like(counts)
    if spots.any():
        part = AnnData(counts[np.ix_(spots, genes)])
        result = sc.experimental.pp.normalize_pearson_residuals(part, inplace=False)
        residuals[np.ix_(spots, genes)] = result["X"]
    return residuals


def targets(adata: AnnData, genes: Sequence[str], data: DataConfig) -> pd.DataFrame:
    """Compute what is predicted for a section: spots x genes, normalised and smoothed as ``data`` says.

    Raises
    ------
    DataError
        If a gene is absent, or smoothing is asked for on a section without an array.
    """
    counts = panel_counts(adata, genes)
    values = normalize_counts(counts.to_numpy(), library_size(adata), data.normalize)
    if data.smooth == "3x3":
        values = _array_mean(adata) @ values
    return pd.DataFrame(values, index=counts.index, columns=counts.columns)


def split_half_normalizer(
    adata: AnnData, genes: Sequence[str], data: DataConfig
) -> tuple[pd.DataFrame, Callable[[pd.DataFrame], pd.DataFrame]]:
    """Counts and normalisation for :func:`nh2st_graph.metrics.noise_ceiling`.

    Returns
    -------
    Counts of the panel and, as a last column, of all other genes together; and the function that brings such counts
    (halved, say) to the scale of :func:`targets`. One column for the rest is exact, since binomial thinning of a sum is
    the sum of the thinned, and the rest only enters the library size.
    """
    counts = panel_counts(adata, genes).astype(np.int64)
    counts[_REST] = np.rint(library_size(adata)).astype(np.int64) - counts.sum(axis=1)
    smoother = _array_mean(adata) if data.smooth == "3x3" else None

    def normalize(half: pd.DataFrame) -> pd.DataFrame:
        part = half.to_numpy(dtype=np.float64)
        values = normalize_counts(part[:, :-1], part.sum(axis=1), data.normalize)
        values = values if smoother is None else smoother @ values
        return pd.DataFrame(values, index=half.index, columns=half.columns[:-1])

    return counts, normalize


def _array_mean(adata: AnnData) -> sparse.csr_matrix:
    """Average of each spot with those adjacent to it on the array, as a matrix, ``(n_spots, n_spots)``.

    On square arrays, for which NH2ST and TRIPLEX publish it, these are the up to eight others of three rows and three
    columns. On other arrays three rows and columns hold four of the neighbours only; there too all adjacent spots
    count, six on a hexagonal array (:func:`~nh2st_graph._array.adjacent_steps`).
    """
    positions = array_positions(adata)
    if positions is None:
        raise DataError(
            f"section {section_name(adata)!r}: data.smooth = '3x3' needs array positions "
            f"(obs['{Key.obs.array_row}'], obs['{Key.obs.array_col}']); use data.smooth = 'none'"
        )
    steps = np.concatenate([[(0, 0)], adjacent_steps(fit_array(adata))])
    # One number for each place, row by row, with room at the ends so that no step leads into another row.
    length = np.ptp(positions[:, 0]) + 1 + 2 * np.abs(steps).max()
    number = np.array([1, length])
    places = pd.Index(positions @ number)
    if not places.is_unique:
        raise DataError(
            f"section {section_name(adata)!r}: two spots share a position of the array, so that data.smooth = '3x3' "
            "cannot tell their neighbours; use data.smooth = 'none'"
        )
    adjacent = np.stack([places.get_indexer(places + step) for step in steps @ number])
    _, spot = taken = np.nonzero(adjacent >= 0)
    ones = sparse.csr_matrix((np.ones(len(spot)), (spot, adjacent[taken])), shape=(adata.n_obs, adata.n_obs))
    return sparse.diags(1.0 / np.asarray(ones.sum(axis=1)).ravel()) @ ones


def choose_panel(train: Mapping[str, AnnData], others: Mapping[str, AnnData], data: DataConfig) -> list[str]:
    """Name the genes to predict.

    Parameters
    ----------
    train
        Training sections: the only ones whose counts are looked at.
    others
        Test sections: only which genes they measured matters.
    data
        ``panel`` is a file of symbols, the name of a published panel
        (:data:`~nh2st_graph.datasets.PUBLISHED_PANELS`), or ``hvg:N``, the ``N`` genes that vary most over the training
        sections (scanpy's dispersions, section by section); ``missing_genes`` says what happens with a symbol that a
        section lacks. A file may hold Ensembl ids as well: either are found in sections that are named by the other,
        through a column of ``var``.

    Raises
    ------
    DataError
        If a gene is absent from a section and ``missing_genes`` is ``"fail"``, or none is left; if the panel is of
        another species than a section, or named otherwise, and nothing maps the names.
    ConfigError
        If ``panel`` is neither.
    """
    for section in train.values():
        check_section(section, need=("genes",))
    if data.panel.startswith("hvg:"):
        return _most_variable(train, others, data.panel)
    from nh2st_graph.datasets import fetch_panel, is_published, read_panel

    panel = fetch_panel(data.panel) if is_published(data.panel) else read_panel(data.panel)
    measured = {**train, **{name: section for name, section in others.items() if section.n_vars}}
    absent: dict[str, str] = {}
    for name, section in measured.items():
        found = find_genes(section, panel)
        absent |= dict.fromkeys(_absent(section, panel, found.positions, f"panel {data.panel}"), name)
        found.log(name)
    if absent and data.missing_genes == "fail":
        first = next(iter(absent.values()))
        raise DataError(_absent_message(first, [gene for gene, name in absent.items() if name == first]))
    if absent:
        logger.warning(
            "%d of %d panel genes are absent from a section and dropped: %s",
            len(absent),
            len(panel),
            ", ".join(list(absent)[:5]),
        )
    kept = [gene for gene in panel if gene not in absent]
    if not kept:
        raise DataError(
            f"panel {data.panel}: none of its {len(panel)} genes is in every section; check the species and symbols"
        )
    return kept


def _absent(adata: AnnData, genes: Sequence[str], positions: NDArray[np.intp], panel: str) -> list[str]:
    """Genes without a position; where they are most, and their names tell why, that is an error."""
    absent = [gene for gene, position in zip(genes, positions, strict=True) if position < 0]
    why = mismatch(adata, genes, panel) if 2 * len(absent) > len(genes) else None
    if why is not None:
        raise DataError(why)
    return absent


def _absent_message(name: str, absent: Sequence[str]) -> str:
    shown = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
    return (
        f"section {name!r}: panel gene {shown} not measured; "
        "set data.missing_genes=drop to leave such genes out, or change data.panel"
    )


def _most_variable(train: Mapping[str, AnnData], others: Mapping[str, AnnData], panel: str) -> list[str]:
    import anndata as ad
    import scanpy as sc

    number = panel.removeprefix("hvg:")
    if not number.isdecimal() or int(number) < 1:
        raise ConfigError(f"data.panel = {panel!r}; expected a file of gene symbols, or hvg:N with a number N above 0")
    measured = {name: section for name, section in {**train, **others}.items() if section.n_vars}
    positions, said = genes_by_name(measured)
    shared = set.intersection(*(set(each.index) for each in positions.values()))
    if not shared:
        looks = {name: species(each.index) for name, each in positions.items()}
        told = ", ".join(f"{name} looks {kind}" for name, kind in looks.items() if kind)
        raise DataError(
            f"no gene is shared by the sections {', '.join([*train, *others])}{f' ({told})' if told else ''}; "
            "check that var_names are symbols of one species"
        )
    if said is not None:
        logger.info("%s", said)
    # Sorted, so that the panel does not depend on the order of genes, spots or sections in the files.
    genes = sorted(shared)
    parts = {name: train[name][sorted(train[name].obs_names), positions[name][genes]].X for name in sorted(train)}
    joined = ad.concat(
        {
            name: AnnData(sparse.csr_matrix(part, dtype=np.float32), var=pd.DataFrame(index=genes))
            for name, part in parts.items()
        },
        label=Key.obs.section,
        index_unique="-",
    )
    sc.pp.filter_genes(joined, min_counts=1)
    if not joined.n_vars:
        raise DataError(f"no gene has counts in the training sections {', '.join(train)}; check their X")
    sc.pp.normalize_total(joined, target_sum=TARGET_SUM)
    sc.pp.log1p(joined)
    wanted = min(int(number), joined.n_vars)
    sc.pp.highly_variable_genes(joined, n_top_genes=wanted, batch_key=Key.obs.section, flavor="seurat")
    return sorted(joined.var_names[joined.var["highly_variable"]])

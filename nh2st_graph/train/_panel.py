"""Choose the genes to predict."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from nh2st_graph._errors import DataError, listed, setting
from nh2st_graph._settings import TARGET_SUM
from nh2st_graph.config import DataConfig
from nh2st_graph.datasets import fetch_panel, is_published, read_panel
from nh2st_graph.section import Key, absent_genes, absent_message, count_blocks, find_genes, genes_by_name, species

__all__ = ["choose_panel"]

logger = logging.getLogger("nh2st_graph")

#: With fewer genes, the counts of a panel are a poor measure of a spot's depth.
_SMALL = 30

#: The genes that vary most are chosen on an even sample of a section with more than this many spots.
_MOST_SPOTS = 100_000


def choose_panel(train: Mapping[str, AnnData], others: Mapping[str, AnnData], data: DataConfig) -> list[str]:
    """Choose the genes to predict.

    Parameters
    ----------
    train
        Training sections. Only their counts are read.
    others
        Test sections. Only the names of their genes are read.
    data
        ``panel`` is a file of symbols, the name of a published panel
        (:data:`~nh2st_graph.datasets.PUBLISHED_PANELS`), or ``hvg:N``: the ``N`` genes that vary most over the training
        sections (scanpy's dispersions, section by section; of a section of more than 100,000 spots, over an even sample
        of 50,000 and more). ``missing_genes`` says what happens with a gene that a
        section lacks. A file may also hold Ensembl ids. Sections may name genes in the other way, if a column of
        ``var`` maps the names.

    Raises
    ------
    DataError
        If a gene is absent from a section and ``missing_genes`` is ``"fail"``; if no gene is left; if panel and section
        are of different species; or if they name genes differently and nothing maps the names.
    """
    genes = _chosen(train, others, data)
    if data.normalize == "panel" and len(genes) < _SMALL:
        logger.warning(
            "targets are relative to the counts of the %d genes of the panel, which are few to measure a spot's depth "
            "by; normalise by 'total' to take all genes",
            len(genes),
        )
    return genes


def _chosen(train: Mapping[str, AnnData], others: Mapping[str, AnnData], data: DataConfig) -> list[str]:
    if data.panel.startswith("hvg:"):
        return _most_variable(train, others, data.panel)
    panel = fetch_panel(data.panel) if is_published(data.panel) else read_panel(data.panel)
    measured = {**train, **{name: section for name, section in others.items() if section.n_vars}}
    absent: dict[str, str] = {}
    for name, section in measured.items():
        found = find_genes(section, panel)
        absent |= dict.fromkeys(absent_genes(section, panel, found.positions, f"panel {data.panel}"), name)
        found.log(name)
    if absent and data.missing_genes == "fail":
        first = next(iter(absent.values()))
        raise DataError(absent_message(first, [gene for gene, name in absent.items() if name == first]))
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


def _most_variable(train: Mapping[str, AnnData], others: Mapping[str, AnnData], panel: str) -> list[str]:
    import scanpy as sc

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
    # Sorted, so that the panel does not depend on the order of genes, spots or sections.
    genes = sorted(shared)
    names = sorted(train)
    counts = [_counts(train[name], positions[name][genes]) for name in names]
    of_spot = np.repeat(np.arange(len(names)), [part.shape[0] for part in counts])
    joined = AnnData(
        sparse.vstack(counts, format="csr"),
        obs=pd.DataFrame(
            {Key.obs.section: pd.Categorical.from_codes(of_spot, pd.Index(names))},
            index=np.arange(len(of_spot)).astype(str),
        ),
        var=pd.DataFrame(index=genes),
    )
    sc.pp.filter_genes(joined, min_counts=1)
    if not joined.n_vars:
        raise DataError(f"no gene has counts in the training sections {', '.join(train)}; check their X")
    wanted = min(int(panel.removeprefix("hvg:")), joined.n_vars)
    if wanted == joined.n_vars:  # all of them
        return sorted(joined.var_names)
    joined = _with_some_genes(joined, panel)
    sc.pp.normalize_total(joined, target_sum=TARGET_SUM)
    sc.pp.log1p(joined)
    sc.pp.highly_variable_genes(joined, n_top_genes=wanted, batch_key=Key.obs.section, flavor="seurat")
    return sorted(joined.var_names[joined.var["highly_variable"]])


def _with_some_genes(joined: AnnData, panel: str) -> AnnData:
    """Leave out sections with counts of fewer than two genes, which say nothing of what varies."""
    sections = joined.obs[Key.obs.section]
    n_genes = {
        name: len(np.unique(sparse.csr_matrix(joined.X[(sections == name).to_numpy()]).indices))
        for name in sections.unique()
    }
    poor = [str(name) for name, n in n_genes.items() if n < 2]
    if len(poor) == len(n_genes):
        raise DataError(
            f"panel {panel}: no training section ({listed(poor)}) has counts of two genes or more; give more genes or "
            f"spots, or a file of symbols as {setting('data.panel')}"
        )
    if poor:
        logger.warning("section %s: counts of fewer than two genes, and no say in panel %s", listed(poor), panel)
        joined = joined[~sections.isin(poor).to_numpy()].copy()
        joined.obs[Key.obs.section] = joined.obs[Key.obs.section].cat.remove_unused_categories()
    return joined


def _counts(section: AnnData, genes: pd.Series) -> sparse.csr_matrix:
    """Look up the counts of genes by position, with spots in order of their names; of very many, an even sample."""
    spots = np.argsort(section.obs_names.to_numpy(dtype=str), kind="stable")
    spots = spots[:: -(-len(spots) // _MOST_SPOTS)]
    parts = [block[:, genes.to_numpy()] for block in count_blocks(section, spots)]
    return sparse.csr_matrix(sparse.vstack(parts), dtype=np.float32)

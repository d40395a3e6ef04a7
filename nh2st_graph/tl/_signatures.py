"""Score gene sets on a prediction, with the worth of their genes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from nh2st_graph._errors import DataError, listed, setting
from nh2st_graph.datasets import read_gene_sets
from nh2st_graph.section import Key, as_dense, refuse_backed, section_name

__all__ = ["GeneSets", "check_gene_sets", "gene_sets_of", "score_signatures"]

logger = logging.getLogger("nh2st_graph")

GeneSets = str | Path | Mapping[str, Sequence[str]]

#: A set of fewer reliable genes is no signature.
_FEWEST = 2
#: Genes of one bin of like expression, and most bins; scanpy's default has bins of any size.
_A_BIN, _BINS = 10, 25


def gene_sets_of(given: GeneSets) -> dict[str, list[str]]:
    """Give gene sets by name, read from a file if it is one.

    Raises
    ------
    DataError
        If the file cannot be used.
    """
    if isinstance(given, str | Path):
        return read_gene_sets(given)
    if not isinstance(given, Mapping) or any(isinstance(genes, str) for genes in given.values()):
        raise DataError(f"{setting('gene_sets')} is no file and no mapping from names to lists of genes; give one")
    return {str(name): list(dict.fromkeys(genes)) for name, genes in given.items()}


def check_gene_sets(given: GeneSets, genes: Sequence[str]) -> None:
    """Refuse gene sets of which no gene is among those of a model.

    Raises
    ------
    DataError
        If the file cannot be used, or no gene is there.
    """
    sets = gene_sets_of(given)
    known = set(genes)
    if not any(known.intersection(each) for each in sets.values()):
        first = next(iter(sets.values()), [])
        raise DataError(
            f"no gene of the {len(sets)} gene sets ({listed(first, 3)}) is among the {len(known)} genes of the model "
            f"({listed(genes, 3)}); give sets with the same names of genes"
        )


def score_signatures(prediction: AnnData, gene_sets: GeneSets, *, key_added: str = Key.obs.signature) -> pd.DataFrame:
    """Score gene sets in each spot of a prediction, on their reliable genes alone.

    A score is the mean of a set's genes minus that of other genes of like expression (``scanpy.tl.score_genes``;
    Satija et al. 2015, Nat Biotechnol 33:495). Both are taken from the reliable genes: what a model says of the others
    is noise around their mean, and would pull a score towards 0. Scores compare spots of one slide. A prediction is
    shrunken towards the mean, so that the size of a score means nothing beside one of measured counts.

    Parameters
    ----------
    prediction
        AnnData of :func:`predict` with all genes of the model. Scores are written into ``obs``.
    gene_sets
        A file in GMT, ``FILE.gmt:NAME,NAME`` for some of its sets, or genes by the name of their set.
    key_added
        The column of ``obs`` of a set is ``{key_added}_{set}``.

    Returns
    -------
    A row for each set with what its score is worth: ``n_genes`` of the set, ``n_predicted`` of them in the prediction,
    ``n_reliable``, ``held_out_pcc_partial`` (mean r given depth of the reliable ones in held-out tissue), ``genes``
    (the reliable ones, those with the highest r first), and ``column`` of ``obs``; or, in ``reason``, why a set has no
    score: it has fewer than two reliable genes, or there are no other reliable genes to compare with.

    Raises
    ------
    DataError
        If it is no prediction, or does not say which genes are reliable; or if the file cannot be used, or no gene of
        it is in the prediction.

    Examples
    --------
    >>> import nh2st_graph as ng
    >>> prediction = ng.tl.predict(ng.read.sections("visium", "sections")["D1"], ng.load("model"))
    >>> ng.tl.score_signatures(prediction, "hallmark.gmt:HALLMARK_HYPOXIA")
    """
    if not isinstance(prediction, AnnData):
        raise DataError(f"{type(prediction).__name__} is no prediction; give the AnnData of ng.tl.predict")
    refuse_backed(prediction)
    sets = gene_sets_of(gene_sets)
    check_gene_sets(sets, list(prediction.var_names))
    if Key.var.reliable not in prediction.var:
        raise DataError(
            f"section {section_name(prediction)!r} does not say which genes are reliable: it is no prediction, an "
            "imputed one, or one of a model of an earlier version; give what predict returns"
        )
    there = np.isfinite(as_dense(prediction.X)).all(axis=0)
    reliable = prediction[:, prediction.var[Key.var.reliable].to_numpy(dtype=bool) & there].copy()
    r, known, rows = reliable.var[Key.var.held_out_partial], set(prediction.var_names[there]), {}
    for name, genes in sets.items():
        used = list(r.reindex([gene for gene in genes if gene in r.index]).sort_values(ascending=False).index)
        column, reason = f"{key_added}_{name}", ""
        if len(used) < _FEWEST:
            reason = f"fewer than {_FEWEST} of its genes are reliable"
        elif not _scored(reliable, used, column):
            reason = "no other reliable gene of like expression is there to compare with"
        else:
            prediction.obs[column] = reliable.obs[column]
        if reason:
            prediction.obs.drop(columns=column, errors="ignore", inplace=True)
        rows[name] = {
            "n_genes": len(genes),
            "n_predicted": len(known.intersection(genes)),
            "n_reliable": len(used),
            Key.var.held_out_partial: float(r[used].mean()) if used else np.nan,
            "genes": ", ".join(map(str, used)),
            "column": "" if reason else column,
            "reason": reason,
        }
    scored = sum(not row["reason"] for row in rows.values())
    logger.info("section %r: %d of %d gene sets scored", section_name(prediction), scored, len(rows))
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("set")


def _scored(reliable: AnnData, genes: list[str], column: str) -> bool:
    """Score a set, or say that there is nothing to compare it with."""
    import scanpy as sc

    n_bins = int(np.clip(reliable.n_vars // _A_BIN, 2, _BINS))
    try:
        # It warns of each bin without others; where none has any, a set has no score.
        with _same_draws(), sc.settings.verbosity.override("error"):
            sc.tl.score_genes(reliable, genes, ctrl_as_ref=False, n_bins=n_bins, score_name=column, use_raw=False)
    except RuntimeError:
        return False
    return True


@contextmanager
def _same_draws() -> Iterator[None]:
    """Leave NumPy's global generator as it was: scanpy seeds it."""
    before: Any = np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002

"""Scores of downstream analyses of a prediction: spatially variable genes, clusters, gene-gene correlations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from nh2st_graph._errors import DataError
from nh2st_graph.metrics._scores import Summary, _standardise, pearson

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["downstream_scores"]

#: False discovery rate below which a gene is spatially variable.
_FDR = 0.05

#: Resolution of the clusters, scanpy's default.
_RESOLUTION = 1.0

#: Fewest spots of which scanpy makes a graph of nearest spots.
_FEWEST_SPOTS = 4


def downstream_scores(prediction: AnnData, *, seed: int = 0) -> Summary:
    """Score how well downstream analyses of a predicted section agree with those of the measured one.

    Parameters
    ----------
    prediction
        As from :func:`nh2st_graph.tl.predict`: predicted log expression in ``X`` and measured in
        ``layers["observed"]``, both ``(n_spots, n_genes)``, with the section's graph in ``obsp``.
    seed
        Seed of the clusters.

    Returns
    -------
    By name

    ``moran_r``, ``moran_mae``
        Pearson correlation over genes, and mean absolute difference, of predicted and observed Moran's I
        (:func:`squidpy.gr.spatial_autocorr`)
    ``svg_auroc``
        area under the ROC curve of predicted Moran's I for the genes that are spatially variable in the measurement:
        Moran's I above 0 at a false discovery rate of 0.05, by squidpy's one-sided p-values under normality; None if
        all genes are variable, or none
    ``cluster_ari``, ``cluster_nmi``
        adjusted Rand index and normalised mutual information between the clusters of the predicted and the observed
        section. Both are clustered by scanpy: 50 principal components (the genes themselves if there are no more), 15
        nearest spots, and the Leiden algorithm at resolution 1. None for fewer than four spots
    ``gene_corr_r``
        Pearson correlation between the two gene-gene correlation matrices, over pairs of genes

    A constant gene has a Moran's I of 0 and no correlation with others; if all genes are constant, there is one
    cluster. A score over fewer than two genes (pairs of genes), and Moran's I without any edge, is None.

    Raises
    ------
    DataError
        If observed expression or the graph is missing, or a value is not a finite number; or if a part of the
        prediction was measured (:func:`nh2st_graph.tl.impute`).
    """
    from nh2st_graph.section import Key, as_dense

    if Key.layers.measured in prediction.layers and as_dense(prediction.layers[Key.layers.measured]).any():
        raise DataError(
            "the prediction is imputed, and what was measured would be compared with itself; give a prediction of "
            "ng.tl.predict"
        )
    if Key.layers.observed not in prediction.layers:
        raise DataError(f"no layers['{Key.layers.observed}'] to compare with; predict a section that has all genes")
    if Key.obsp.connectivities not in prediction.obsp:
        raise DataError(f"no obsp['{Key.obsp.connectivities}']; run ng.gr.spatial_graph(adata) first")
    predicted, observed = as_dense(prediction.X), as_dense(prediction.layers[Key.layers.observed])
    for name, values in (("predicted", predicted), ("observed", observed)):
        if not np.isfinite(values).all():
            raise DataError(f"{name} has values that are not finite numbers; scores need all of them")
    z_predicted, z_observed = _standardise(predicted), _standardise(observed)
    graph = sparse.csr_matrix(prediction.obsp[Key.obsp.connectivities], dtype=np.float64)
    return {
        **_spatial_scores(z_predicted, z_observed, graph),
        **_cluster_scores(predicted[:, z_predicted.any(axis=0)], observed[:, z_observed.any(axis=0)], seed),
        "gene_corr_r": _correlation(_gene_pairs(z_predicted), _gene_pairs(z_observed)),
    }


def _spatial_scores(z_predicted: NDArray, z_observed: NDArray, graph: sparse.csr_matrix) -> Summary:
    if not graph.sum():
        return {"moran_r": None, "moran_mae": None, "svg_auroc": None}
    from sklearn.metrics import roc_auc_score

    predicted, _ = _moran(z_predicted, graph)
    observed, p_value = _moran(z_observed, graph)
    variable = (p_value < _FDR) & (observed > 0)
    return {
        "moran_r": _correlation(predicted, observed),
        "moran_mae": float(np.abs(predicted - observed).mean()),
        "svg_auroc": float(roc_auc_score(variable, predicted)) if len(np.unique(variable)) == 2 else None,
    }


def _moran(z: NDArray, graph: sparse.csr_matrix) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute Moran's I of each gene and its FDR-corrected p-value; 0 and 1 for a constant gene."""
    import squidpy as sq
    from anndata import AnnData

    from nh2st_graph.section import Key

    statistic, p_value = np.zeros(z.shape[1]), np.ones(z.shape[1])
    varies = z.any(axis=0)
    if varies.any():
        section = AnnData(z[:, varies], obsp={Key.obsp.connectivities: graph})
        found = sq.gr.spatial_autocorr(
            section, Key.obsp.connectivities, mode="moran", n_perms=None, n_jobs=1, copy=True, show_progress_bar=False
        ).loc[section.var_names]
        statistic[varies], p_value[varies] = found["I"], found["pval_norm_fdr_bh"]
    return statistic, p_value


def _cluster_scores(predicted: NDArray, observed: NDArray, seed: int) -> Summary:
    if len(observed) < _FEWEST_SPOTS:
        return {"cluster_ari": None, "cluster_nmi": None}
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    pair = _clusters(observed, seed), _clusters(predicted, seed)
    return {
        "cluster_ari": float(adjusted_rand_score(*pair)),
        "cluster_nmi": float(normalized_mutual_info_score(*pair)),
    }


def _clusters(values: NDArray, seed: int) -> NDArray:
    """Label the clusters of the spots, by the genes that vary."""
    if not values.shape[1]:
        return np.zeros(len(values), dtype=np.int64)
    import scanpy as sc
    from anndata import AnnData

    section, key = AnnData(values.astype(np.float64)), "cluster"
    if section.n_vars > sc.settings.N_PCS:
        # The full decomposition is quick at this size, and exact for predictions of low rank too.
        sc.pp.pca(section, svd_solver="full")
    sc.pp.neighbors(section, random_state=seed)
    sc.tl.leiden(
        section,
        _RESOLUTION,
        flavor="igraph",
        n_iterations=2,
        directed=False,
        random_state=seed,
        key_added=key,
    )
    return section.obs[key].to_numpy()


def _gene_pairs(z: NDArray) -> NDArray[np.float64]:
    """Compute the correlation of each pair of genes, ``(n_pairs,)``."""
    return (z.T @ z)[np.triu_indices(z.shape[1], k=1)]


def _correlation(a: NDArray, b: NDArray) -> float | None:
    return float(pearson(a[:, None], b[:, None])[0]) if len(a) > 1 else None

"""squidpy and scanpy go on from a prediction, without converting anything."""

from __future__ import annotations

import numba
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import squidpy as sq
from anndata import AnnData

import nh2st_graph as ng
from nh2st_graph.tl import Run


@pytest.fixture(scope="module")
def prediction(tiny_run: Run, tiny_sections: dict[str, AnnData]) -> AnnData:
    """A section without genes, predicted and clustered."""
    section = tiny_sections["S3"][:, :0].copy()
    predicted = ng.tl.predict(section, ng.load(tiny_run.folder))
    sc.pp.neighbors(predicted, use_rep="X")
    sc.tl.leiden(predicted, resolution=1.0, flavor="igraph", n_iterations=2, directed=False)
    return predicted


@pytest.fixture(autouse=True)
def _own_state(monkeypatch: pytest.MonkeyPatch) -> None:
    # numba refuses another number of threads than it began with.
    monkeypatch.setenv("NUMBA_NUM_THREADS", str(numba.config.NUMBA_NUM_THREADS))


def test_clusters_have_marker_genes(prediction: AnnData) -> None:
    n_clusters = prediction.obs["leiden"].nunique()
    assert 1 < n_clusters < prediction.n_obs
    sc.tl.rank_genes_groups(prediction, "leiden", method="t-test")
    names = pd.DataFrame(prediction.uns["rank_genes_groups"]["names"])
    assert names.shape == (prediction.n_vars, n_clusters)
    # The first gene of a cluster is higher there than elsewhere.
    for cluster in names:
        inside = (prediction.obs["leiden"] == cluster).to_numpy()
        values = prediction[:, names[cluster][0]].X.ravel()
        assert values[inside].mean() > values[~inside].mean()


def test_genes_have_spatial_statistics(prediction: AnnData) -> None:
    sq.gr.spatial_autocorr(prediction, mode="moran", n_perms=None, show_progress_bar=False)
    moran = prediction.uns["moranI"].reindex(prediction.var_names)["I"].to_numpy()
    graph = prediction.obsp["spatial_connectivities"].toarray()
    values = prediction.X - prediction.X.mean(axis=0)
    weights = graph / np.maximum(graph.sum(axis=1, keepdims=True), 1)
    expected = np.einsum("ig,ij,jg->g", values, weights, values) / (values**2).sum(axis=0)
    expected *= prediction.n_obs / weights.sum()
    np.testing.assert_allclose(moran, expected, rtol=1e-3, atol=1e-4)


def test_clusters_have_neighbourhoods(prediction: AnnData) -> None:
    n_clusters = prediction.obs["leiden"].nunique()
    sq.gr.nhood_enrichment(prediction, cluster_key="leiden", n_perms=20, seed=0, show_progress_bar=False)
    counts = prediction.uns["leiden_nhood_enrichment"]["count"]
    assert counts.sum() == prediction.obsp["spatial_connectivities"].nnz
    sq.gr.co_occurrence(prediction, cluster_key="leiden", show_progress_bar=False)
    assert prediction.uns["leiden_co_occurrence"]["occ"].shape[:2] == (n_clusters, n_clusters)


def test_predicted_genes_have_ligands_and_receptors(prediction: AnnData) -> None:
    genes = list(prediction.var_names)
    pairs = pd.DataFrame({"source": genes[:3], "target": genes[3:6]})
    result = sq.gr.ligrec(
        prediction,
        cluster_key="leiden",
        interactions=pairs,
        use_raw=False,
        n_perms=10,
        seed=0,
        copy=True,
        show_progress_bar=False,
    )
    assert {tuple(pair) for pair in result["means"].index} == set(pairs.itertuples(index=False, name=None))
    assert result["pvalues"].shape == result["means"].shape


def test_genes_and_clusters_are_drawn_on_the_image(prediction: AnnData) -> None:
    axes = sq.pl.spatial_scatter(prediction, color=[prediction.var_names[0], "leiden"], return_ax=True)
    for ax in axes:
        (image,) = ax.images
        assert image.get_array().shape[:2] == prediction.uns["spatial"]["S3"]["images"]["hires"].shape[:2]
        assert len(ax.collections[0].get_paths()) == prediction.n_obs


def test_nothing_has_to_be_named_that_squidpy_finds_by_default(prediction: AnnData) -> None:
    assert prediction.uns["spatial_neighbors"]["connectivities_key"] == "spatial_connectivities"
    assert list(prediction.uns["spatial"]) == ["S3"]
    assert prediction.obsm["spatial"].shape == (prediction.n_obs, 2)

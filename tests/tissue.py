"""Synthetic sections as small files."""

from __future__ import annotations

from anndata import AnnData

from nh2st_graph.section import Key


def without_truth(adata: AnnData) -> AnnData:
    """Copy a synthetic section without what it was drawn from, which each file would hold and each reader read."""
    uns = {key: value for key, value in adata.uns.items() if key != Key.uns.truth}
    return AnnData(adata.X, adata.obs, adata.var, uns, {"spatial": adata.obsm["spatial"]}).copy()

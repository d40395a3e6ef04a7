"""Synthetic sections as small files."""

from __future__ import annotations

from anndata import AnnData


def without_truth(adata: AnnData) -> AnnData:
    """Copy a synthetic section without what it was drawn from, which each file would hold and each reader read."""
    return AnnData(adata.X, adata.obs, adata.var, adata.uns, {"spatial": adata.obsm["spatial"]}).copy()

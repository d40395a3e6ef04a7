"""A small predicted section, the same explained, and figures that are closed again."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse
from scipy.stats import zscore

mpl.use("Agg")


@pytest.fixture(autouse=True)
def _unchanged_settings() -> Iterator[None]:
    before = mpl.rcParams.copy()
    yield
    assert mpl.rcParams == before


@pytest.fixture
def prediction() -> AnnData:
    """A 6 x 5 grid of spots; gene ``g0`` is predicted with r = 1, ``g4`` with 0, ``g8`` with -1."""
    rng = np.random.default_rng(0)
    columns, rows = (grid.ravel() for grid in np.meshgrid(np.arange(6), np.arange(5)))
    names = [f"{x}x{y}" for x, y in zip(columns, rows, strict=True)]
    observed = np.log1p(rng.poisson(20, size=(30, 9))).astype(np.float32)
    signal, noise = (zscore(values, axis=0) for values in (observed, rng.normal(size=observed.shape)))
    noise = zscore(noise - signal * (signal * noise).mean(axis=0), axis=0)  # so that r is what is said, exactly
    r = np.linspace(1, -1, 9)
    predicted = 3 + 0.1 * (r * signal + np.sqrt(1 - r**2) * noise)
    adata = AnnData(
        predicted.astype(np.float32),
        obs=pd.DataFrame({"section": pd.Categorical(["C6"] * 30)}, index=names),
        var=pd.DataFrame(index=[f"g{j}" for j in range(9)]),
    )
    adata.layers["observed"] = observed
    adata.obsm["spatial"] = np.column_stack([600.0 + 290 * columns, 500.0 + 290 * rows])
    adata.uns["spatial"] = {
        "C6": {
            "images": {"hires": rng.integers(180, 255, size=(220, 260, 3), dtype=np.uint8)},
            "scalefactors": {"spot_diameter_fullres": 145.0, "tissue_hires_scalef": 0.1},
            "metadata": {"microns_per_pixel": 0.69},
        }
    }
    return adata


@pytest.fixture
def explained(prediction: AnnData) -> AnnData:
    """The grid with attention over the up to four nearest spots, shares, and gains of nine genes from -0.4 to 0.4.

    The last spot, ``5x4``, has no neighbour.
    """
    rng = np.random.default_rng(1)
    spatial = prediction.obsm["spatial"]
    joined = np.abs(np.linalg.norm(spatial[:, None] - spatial, axis=2) - 290) < 1
    alone = prediction.obs_names.get_loc("5x4")
    joined[alone] = joined[:, alone] = False
    weights = joined * rng.uniform(1, 3, joined.shape)
    weights = np.divide(weights, weights.sum(axis=1, keepdims=True), out=np.zeros_like(weights), where=joined)
    prediction.obsp["nh2st_attention"] = sparse.csr_matrix(weights.astype(np.float32))
    prediction.obs["nh2st_neighbour_share"] = rng.uniform(size=30)
    gain = np.linspace(-0.4, 0.4, 9)
    genes = pd.DataFrame({"pcc": 0.5, "pcc_without": 0.5 - gain, "gain": gain}, index=prediction.var_names)
    prediction.uns["nh2st_explain"] = {"gene_gain": genes.assign(change=1.0)}
    return prediction


@pytest.fixture
def judged(prediction: AnnData) -> AnnData:
    prediction.var["held_out_pcc"] = np.linspace(0.9, -0.1, 9)
    prediction.var["reliable"] = [True] * 2 + [False] * 7
    prediction.obs["familiarity"] = [0.0, 0.004, *np.linspace(0.01, 1, 28)]
    return prediction
